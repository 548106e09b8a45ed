"""Round trips of each estimator through the files that ``export`` writes, in onnxruntime and in another process.

The computations of graphs are tested beside each estimator, without making them. Here graphs are small, for they take
seconds.
"""

import json
import subprocess
import sys

import numpy as np
import onnx
import pandas as pd
import pytest

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.serving.programs import DESCRIPTION
from tests.serving.run import in_onnxruntime

SMALL = {"hidden_layer_sizes": (3,), "max_iter": 1, "random_state": 0}

ALONE = """
import json, sys, torch
extra = {"skode.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra)
X = torch.tensor(json.loads(sys.argv[2]), dtype=torch.float64)
print(json.dumps({"y": program.module()(X).tolist(), "imported": "skode" in sys.modules, "told": extra["skode.json"]}))
"""

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def X():
    return np.random.RandomState(0).randn(20, 2)


@pytest.fixture(scope="module")
def classifier(X):
    labels = np.where(X[:, 0] > X[:, 1], "in", "out")
    return ODENetClassifier(**SMALL, state_size=None, method="adaptive_heun", alpha=1e-4).fit(X, labels)


@pytest.fixture(scope="module")
def program(classifier):
    return classifier._program("predict_proba")


def close_for_all_rows_and_for_one(path, X, expected, *, atol=1e-5):
    for rows in (slice(None), slice(1, 2)):
        (found,) = in_onnxruntime(path, X=X[rows])
        np.testing.assert_allclose(found, expected[rows], rtol=0, atol=atol)


def test_an_adaptive_classifier_in_onnxruntime(X, classifier, program, tmp_path):
    path = tmp_path / "classifier.onnx"
    program.write(path, "onnx")
    close_for_all_rows_and_for_one(path, X, classifier.predict_proba(X))
    told = json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}[DESCRIPTION])
    assert told["classes"] == ["in", "out"]
    assert told["solver"] == {"method": "adaptive_heun", "rtol": 1e-3, "atol": 1e-3, "step_size": None}
    assert told["inputs"] == {"X": {"shape": ["n_samples", 2], "dtype": "float64"}}


def test_a_classifier_in_a_process_without_the_package(X, classifier, program, tmp_path):
    path = tmp_path / "classifier.pt2"
    program.write(path, "torch")
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(path), json.dumps(X.tolist())]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout)
    np.testing.assert_allclose(answer["y"], classifier.predict_proba(X), rtol=0, atol=1e-10)
    assert not answer["imported"]
    assert json.loads(answer["told"])["estimator"] == "ODENetClassifier"


def test_a_regressor_in_onnxruntime(X, tmp_path):
    path = tmp_path / "regressor.onnx"
    regressor = ODENetRegressor(**SMALL, state_size=None, method="euler", alpha=1e-4).fit(X, X[:, 0])
    regressor.export(path)
    close_for_all_rows_and_for_one(path, X, regressor.predict(X))


def test_a_density_in_onnxruntime(X, tmp_path):
    path = tmp_path / "density.onnx"
    density = CNFDensityEstimator(**SMALL, method="euler", stacking=False).fit(X)
    density.export(path)
    close_for_all_rows_and_for_one(path, X, density.score_samples(X), atol=1e-10)  # constants in double precision


def test_a_latent_ode_in_onnxruntime(tmp_path):
    path = tmp_path / "latent.onnx"
    frame = pd.DataFrame({"series": np.repeat(range(4), 5), "time": np.tile(np.arange(5.0), 4)})
    y = np.sin(frame["time"] + frame["series"])
    sizes = {"latent_size": 2, "encoder_size": 3, "n_draws": 4, "posterior": "encoder", "noise": "white"}
    latent = LatentODERegressor("series", "time", **SMALL, **sizes, method="euler").fit(frame, y)
    latent.export(path)
    known, new = frame[frame["series"] == 1].assign(series="new"), np.array([-1.0, 2.5, 9.0])
    expected = latent.condition(known, y[5:10]).predict(pd.DataFrame({"series": "new", "time": new}), return_std=True)
    given = {"known_times": np.arange(5.0)[None], "known_y": y[5:10].to_numpy()[None, :, None], "times": new[None]}
    for found, its in zip(in_onnxruntime(path, **given), expected, strict=True):
        np.testing.assert_allclose(found[0, :, 0], its, rtol=0, atol=1e-5)
