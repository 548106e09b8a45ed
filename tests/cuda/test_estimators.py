"""Estimators that are fitted on the device, and answer there, on the CPU and where there is no GPU."""

import copy
import gc
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from torch import nn

from skode import CNFDensityEstimator, KnownDynamics, LatentODERegressor, ODENetClassifier, ODENetRegressor, load
from tests.timeseries.decays import driven, long_frame
from tests.timeseries.decays import regressor as known_regressor

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

COMMON = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
SERIES = {
    **COMMON,
    "series": "id",
    "time": "t",
    "latent_size": 2,
    "encoder_size": 8,
    "n_draws": 4,
    "noise": "white",
    "rtol": 1e-1,
    "atol": 1e-1,
}

X, LABELS = make_moons(60, noise=0.1, random_state=0)
TARGET = X[:, 0] * X[:, 1]


def images():
    X, y = load_digits(n_class=3, return_X_y=True)
    return X[:40], y[:40]


def waves(n_series=6, n_rows=8, covariates=False, seed=0):
    """Sines of random phase at irregular times."""
    rng = np.random.RandomState(seed)
    ids = np.repeat(np.arange(n_series), n_rows)
    t = np.sort(rng.uniform(0, 4, (n_series, n_rows)), axis=1).ravel()
    y = np.sin(1.5 * t + rng.uniform(0, 2 * np.pi, n_series)[ids]) + 2.0
    frame = pd.DataFrame({"id": [f"s{i}" for i in ids], "t": t})
    return (frame.assign(u=np.cos(t)) if covariates else frame), y


def with_gaps(y):
    """Two outputs, of which some values are missing."""
    y = np.stack([y, 2 * y - 1], axis=1)
    y[::5, 0] = np.nan
    y[3] = np.nan
    return y


BARE, WAVES = waves()
DRIVEN, _ = waves(covariates=True)
IMAGES = {**COMMON, "hidden_layer_sizes": (4,), "state_size": 4, "image_shape": (1, 8, 8)}

#: Estimators with what they are fitted to.
CASES = {
    "classifier": (ODENetClassifier(state_size=4, **COMMON), X, LABELS),
    "labels": (ODENetClassifier(state_size=4, **COMMON), X, np.stack([LABELS, X[:, 0] > 0], axis=1).astype(int)),
    "regressor": (ODENetRegressor(state_size=4, **COMMON), X, TARGET),
    "outputs": (ODENetRegressor(state_size=4, **COMMON), X, np.stack([TARGET, X[:, 0]], axis=1)),
    "images": (ODENetClassifier(**IMAGES, n_blocks=2, image_shift=1.0), *images()),
    "density": (CNFDensityEstimator(**COMMON, rtol=1e-5, atol=1e-5), X, None),
    "series": (LatentODERegressor(**SERIES), BARE, WAVES),
    "driven series": (LatentODERegressor(**SERIES), DRIVEN, WAVES),
}


#: More ways to fit.
WAYS = {
    "classifier": [
        {"augment_dim": 2, "state_size": None},
        {"field": "concatsquash"},
        {"field": "gated_planar"},
        {"evolving_weights": True},
        {"kinetic_energy": 0.1, "jacobian_norm": 0.1},
        {"local_error": 0.1, "steer": 0.2},
        {"method": "rk4", "step_size": 0.5},
        {"adjoint": "continuous"},
        {"adjoint": "backprop"},
        {"class_weight": "balanced", "alpha": 0.1},
        {"early_stopping": True, "validation_fraction": 0.2},
        {"batch_size": 25, "learning_rate": "constant"},
        {"dtype": "float64"},
        {"rtol": 1e-6, "atol": 1e-6},
    ],
    "regressor": [{"early_stopping": True, "validation_fraction": 0.2}, {"activation": "silu"}],
    "images": [{"evolving_weights": True}, {"kinetic_energy": 0.1, "jacobian_norm": 0.1}],
    "density": [
        {"field": "concatsquash"},
        {"field": "gated_planar"},
        {"hidden_layer_sizes": (8, 8, 8)},
        {"objective": "flow_matching"},
        {"matching_iter": 1},
        {"divergence": "hutchinson"},
        {"jacobian_norm": 0.1},
        {"marginals": "johnson", "early_stopping": False},
    ],
    "series": [
        {"encoder": "rnn"},
        {"encoder": "ode_rnn"},
        {"observation_times": "poisson"},
        {"bound": "iwae", "n_samples": 3, "early_stopping": False},
        {"posterior": "encoder"},
        {"noise": "coloured"},
        {"method": "rk4"},
    ],
    "driven series": [
        {"encoder": "ode_rnn"},
        {"observation_times": "poisson", "encoder": "rnn"},
        {"adjoint": "continuous"},
    ],
}

#: What outputs of series may also be.
OUTPUTS = {
    "missing": ({}, with_gaps(WAVES)),
    "binary": ({"likelihood": "bernoulli"}, (WAVES > 2.0).astype(float)),
    "counts": ({"likelihood": "poisson"}, np.round(2 * WAVES)),
}


def fit(name, device, **parameters):
    """A case, fitted on a device."""
    estimator, X, y = CASES[name]
    estimator = clone(estimator).set_params(device=str(device), **parameters)
    return estimator.fit(X) if y is None else estimator.fit(X, y)


def answers_of_network(estimator, X, y):
    answers = {"transform": estimator.transform(X), "trajectory": estimator.trajectory(X, [0.0, 0.5, 1.0])}
    if isinstance(estimator, ODENetRegressor):
        return {**answers, "predict": estimator.predict(X)}
    return {
        **answers,
        "predict_proba": estimator.predict_proba(X),
        "predict_log_proba": estimator.predict_log_proba(X),
    }


def answers_of_density(estimator, X, y):
    return {
        "score_samples": estimator.score_samples(X),
        "log_prob": estimator.log_prob(X, 0.5),
        "sample": estimator.sample(9, random_state=0),
        "transform": estimator.transform(X),
        "inverse_transform": estimator.inverse_transform(X / 2),
        "trajectory": estimator.trajectory(X, [0.0, 0.5, 1.0]),
    }


def answers_of_series(estimator, X, y):
    new = X[:4].assign(id="new")
    queries = pd.concat([X, new, X[:4].assign(t=5.0)])
    mean, std = estimator.predict(queries, return_std=True)
    answers = {
        "mean": mean,
        "std": std,
        "score_samples": np.nan_to_num(estimator.score_samples(X, y)),
        "transform": estimator.transform(queries),
        "latent_states": estimator.latent_states().to_numpy(),
        "latent_trajectory": estimator.latent_trajectory(queries),
        "condition": estimator.condition(new, y[:4]).predict(queries),
    }
    if estimator.likelihood == "gaussian":  # draws of whole numbers may differ by one where rounding does
        answers["sample_y"] = estimator.sample_y(queries, 3)
        answers["sample"] = estimator.sample(2, [0.0, 1.0, 2.0], random_state=0).drop(columns="id").to_numpy()
    if estimator.observation_times == "poisson":
        answers["predict_intensity"] = estimator.predict_intensity(queries)
    return answers


def answers(estimator, X, y):
    """What an estimator's methods say, by their names."""
    if isinstance(estimator, LatentODERegressor):
        return answers_of_series(estimator, X, y)
    if isinstance(estimator, CNFDensityEstimator):
        return answers_of_density(estimator, X, y)
    return answers_of_network(estimator, X, y)


def brief_answers(estimator, X, y):
    """The answers that the others follow from."""
    if isinstance(estimator, LatentODERegressor):
        mean, std = estimator.predict(pd.concat([X, X[:4].assign(id="new")]), return_std=True)
        return {"mean": mean, "std": std, "score_samples": estimator.score_samples(X, y)}
    if isinstance(estimator, CNFDensityEstimator):
        return {"score_samples": estimator.score_samples(X), "sample": estimator.sample(9, random_state=0)}
    return {"transform": estimator.transform(X), "outputs": getattr(estimator, method_of(estimator))(X)}


def method_of(estimator):
    names = ("predict_proba", "predict", "score_samples")
    return next(name for name in names if hasattr(estimator, name))


def assert_answers(found, expected, *, rtol=0.0, atol=0.0):
    assert list(found) == list(expected)
    for method in expected:
        assert type(found[method]) is np.ndarray
        assert np.isfinite(found[method]).all()
        np.testing.assert_allclose(found[method], expected[method], rtol=rtol, atol=atol, err_msg=method)


def loaded(estimator):
    return pickle.loads(pickle.dumps(estimator))


@pytest.fixture(scope="module")
def fitted(device):
    """A function that gives a case as it was fitted on the device; tests must not change it."""
    known = {}

    def get(name):
        if name not in known:
            known[name] = fit(name, device)
        return known[name]

    return get


@pytest.fixture(params=list(CASES))
def name(request):
    return request.param


#: How far answers in single precision may be apart: images go through convolutions of half of its digits.
SINGLE = {"rtol": 1e-3, "atol": 2e-3}
OF_IMAGES = {"rtol": 2e-2, "atol": 2e-2}


# Fitted on the device


def test_parameters_and_answers_are_where_they_should_be(fitted, device, name):
    estimator = fitted(name)
    assert {p.device.type for p in estimator.module_.parameters()} == {device.type}
    assert {b.device.type for b in estimator.module_.buffers()} <= {device.type}
    assert np.isfinite(estimator.loss_curve_).all()
    assert len(estimator.loss_curve_) == len(estimator.nfe_forward_) == len(estimator.nfe_backward_) == 2


def test_the_dtype_is_float32_on_a_gpu(fitted, gpu, name):
    assert {p.dtype for p in fitted(name).module_.parameters()} == {torch.float32}


def test_answers_are_those_on_the_cpu(fitted, name):
    estimator, (_, X, y) = fitted(name), CASES[name]
    on_cpu = loaded(estimator).set_params(device="cpu")
    tolerance = OF_IMAGES if name == "images" else SINGLE
    assert_answers(answers(estimator, X, y), answers(on_cpu, X, y), **tolerance)


def test_labels_and_depths_are_those_on_the_cpu(fitted):
    estimator, (_, X, _) = fitted("classifier"), CASES["classifier"]
    labels, nfe = estimator.predict(X, return_nfe=True)
    expected, nfe_on_cpu = loaded(estimator).set_params(device="cpu").predict(X, return_nfe=True)
    sure = np.abs(estimator.predict_proba(X)[:, 0] - 0.5) > 1e-3
    np.testing.assert_array_equal(labels[sure], expected[sure])
    assert np.mean(nfe == nfe_on_cpu) > 0.9
    assert estimator.score(X, LABELS) == pytest.approx(np.mean(labels == LABELS))


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name, ways in WAYS.items() for way in ways],
    ids=lambda x: x if isinstance(x, str) else ",".join(f"{k}={v}" for k, v in x.items()),
)
def test_every_way_to_fit(device, name, way):
    estimator, (_, X, y) = fit(name, device, **{"max_iter": 1, **way}), CASES[name]
    assert {p.device.type for p in estimator.module_.parameters()} == {device.type}
    tolerance = OF_IMAGES if name == "images" else SINGLE
    told = answers if "observation_times" in way else brief_answers
    assert_answers(told(estimator, X, y), told(loaded(estimator).set_params(device="cpu"), X, y), **tolerance)


@pytest.mark.parametrize("outputs", list(OUTPUTS))
def test_every_kind_of_series(device, outputs):
    options, y = OUTPUTS[outputs]
    X = DRIVEN if outputs == "missing" else BARE
    estimator = LatentODERegressor(**SERIES, **options, device=str(device)).fit(X, y)
    assert_answers(answers(estimator, X, y), answers(loaded(estimator), X, y), **SINGLE)
    drawn = estimator.sample_y(X, 3)
    assert drawn.shape == (*y.shape, 3)
    assert np.isfinite(drawn).all()
    if outputs != "missing":
        np.testing.assert_array_equal(drawn, np.round(drawn))
    assert np.isfinite(estimator.sample(2, [0.0, 1.0], random_state=0).drop(columns="id").to_numpy()).all()


def test_a_field_of_ones_own(device):
    field = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = field

        def forward(self, t, z):
            return self.net(z) - t * z

    clf = ODENetClassifier(state_size=4, field=Field(), device=str(device), **COMMON).fit(X, LABELS)
    assert {p.device.type for p in clf.module_.parameters()} == {device.type}
    assert np.isfinite(clf.predict_proba(X)).all()
    assert {p.device.type for p in clf.field.parameters()} == {"cpu"}  # it was copied


# The same fit on both


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("outputs", "series", "driven series")])
def test_the_loss_is_that_on_the_cpu(device, name):
    # Dropout and shifts, and the draws that series are fitted with, are other numbers on another device.
    parameters = {"dtype": "float64", "batch_size": 60, "early_stopping": False, "rtol": 1e-5, "atol": 1e-5}
    parameters |= {"image_shift": 0.0} if name == "images" else {}
    parameters |= {"input_dropout": 0.0} if name != "density" else {}
    expected, found = (fit(name, place, **parameters) for place in ("cpu", device))
    assert found.loss_curve_[0] == pytest.approx(expected.loss_curve_[0], rel=1e-6, abs=1e-9)
    # Adam's first steps are as long for a gradient of rounding's size as for any other.
    assert found.loss_curve_[1] == pytest.approx(expected.loss_curve_[1], rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("name", ["classifier", "regressor", "density"])
def test_one_random_state_gives_the_same_to_the_bit(device, fitted, name):
    first, second, (_, X, y) = fitted(name), fit(name, device), CASES[name]
    assert first.loss_curve_ == second.loss_curve_
    assert_answers(answers(second, X, y), answers(first, X, y))


@pytest.mark.parametrize("name", ["images", "series", "driven series"])
def test_one_random_state_gives_the_same_where_sums_have_no_order(device, name):
    # In double precision: Adam makes much of rounding.
    first, second = (fit(name, device, dtype="float64") for _ in range(2))
    _, X, y = CASES[name]
    assert_answers(answers(second, X, y), answers(first, X, y), rtol=1e-6, atol=1e-6)


def test_other_random_states_give_something_else(device, fitted):
    other = fit("classifier", device, random_state=1)
    assert not np.allclose(other.predict_proba(X), fitted("classifier").predict_proba(X))


@pytest.mark.parametrize("name", ["classifier", "density", "series"])
def test_random_states_of_the_device_are_left_alone(gpu, name):
    before = torch.cuda.get_rng_state()
    estimator, (_, X, y) = fit(name, gpu), CASES[name]
    answers(estimator, X, y)
    assert torch.equal(torch.cuda.get_rng_state(), before)


# Pickles and copies


@pytest.mark.parametrize(
    ("name", "by"),
    [*((name, by) for name in CASES for by in ("pickle", "file")), ("classifier", "joblib"), ("density", "deepcopy")],
)
def test_copies_answer_the_same_on_the_device(fitted, tmp_path, name, by):
    estimator, (_, X, y) = fitted(name), CASES[name]
    if by == "joblib":
        joblib.dump(estimator, tmp_path / "estimator.joblib")
        other = joblib.load(tmp_path / "estimator.joblib")
    elif by == "file":
        estimator.save(tmp_path / "estimator.skode")
        other = load(tmp_path / "estimator.skode")
        assert {p.device.type for p in other.module_.parameters()} == {"cpu"}
    else:
        other = loaded(estimator) if by == "pickle" else copy.deepcopy(estimator)
    assert other.device == estimator.device
    tolerance = OF_IMAGES if name == "images" else SINGLE
    assert_answers(answers(other, X, y), answers(estimator, X, y), **tolerance)
    assert {p.device.type for p in estimator.module_.parameters()} == {torch.device(estimator.device).type}


def test_a_clone_is_not_fitted_and_keeps_the_device(fitted, name):
    estimator = clone(fitted(name))
    assert not hasattr(estimator, "module_")
    assert estimator.device == fitted(name).device


WITHOUT_GPU = """
import pickle, sys, warnings
import torch
assert not torch.cuda.is_available()
with open(sys.argv[1], "rb") as file:
    queries = pickle.load(file)
told = {}
for name, (estimator, X, method) in queries.items():
    try:
        told[name] = getattr(estimator, method)(X)
        assert all(p.device.type == "cpu" for p in estimator.module_.parameters())
    except ValueError as error:
        told[name] = str(error)
with open(sys.argv[2], "wb") as file:
    pickle.dump(told, file)
"""


def test_pickles_are_loaded_where_there_is_no_gpu(fitted, device, tmp_path):
    queries, expected = {}, {}
    for name, (_, X, _) in CASES.items():
        estimator = fitted(name)
        method = method_of(estimator)
        expected[name] = getattr(estimator, method)(X)
        queries[name] = (loaded(estimator).set_params(device="auto"), X, method)
    queries["elsewhere"] = (loaded(fitted("classifier")), CASES["classifier"][1], "predict_proba")
    (tmp_path / "queries").write_bytes(pickle.dumps(queries))
    paths = [str(tmp_path / "queries"), str(tmp_path / "told")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", WITHOUT_GPU, *paths], check=True, env=environment, timeout=120)
    told = pickle.loads((tmp_path / "told").read_bytes())
    for name, answer in expected.items():
        tolerance = OF_IMAGES if name == "images" else SINGLE
        np.testing.assert_allclose(told[name], answer, **tolerance, err_msg=name)
    if device.type == "cuda":
        assert "can't be used here" in told["elsewhere"]
        assert "'auto'" in told["elsewhere"]


# Devices by name


@pytest.mark.parametrize("name", ["classifier", "regressor", "density", "series"])
def test_auto_is_the_gpu(gpu, name):
    estimator, X, y = CASES[name]
    estimator = clone(estimator).set_params(device="auto", max_iter=1)
    estimator = estimator.fit(X) if y is None else estimator.fit(X, y)
    assert {p.device.type for p in estimator.module_.parameters()} == {"cuda"}


@pytest.mark.parametrize("name", ["classifier", "regressor", "density", "series"])
def test_a_gpu_by_its_number(gpu, name):
    estimator, (_, X, y) = fit(name, "cuda:0", max_iter=1), CASES[name]
    assert {p.device for p in estimator.module_.parameters()} == {torch.device("cuda:0")}
    assert all(np.isfinite(answer).all() for answer in answers(estimator, X, y).values())
    assert {p.device for p in estimator.module_.parameters()} == {torch.device("cuda:0")}


def test_a_gpu_that_is_not_there(gpu):
    number = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"device='cuda:{number}' can't be used here.*'cuda:0'"):
        fit("classifier", f"cuda:{number}")


@pytest.mark.parametrize("name", ["classifier", "regressor", "density"])
def test_the_device_may_change_between_calls(device, fitted, name):
    estimator, (_, X, y) = loaded(fitted(name)), CASES[name]
    for place in ("cpu", str(device), "cpu", str(device)):
        found = answers(estimator.set_params(device=place), X, y)
        assert {p.device.type for p in estimator.module_.parameters()} == {torch.device(place).type}
        assert_answers(found, answers(fitted(name), X, y), **SINGLE)


@pytest.mark.parametrize("name", ["classifier", "density", "series"])
def test_training_that_began_on_the_cpu_goes_on_on_the_device(device, name):
    estimator, X, y = CASES[name]
    estimator = clone(estimator).set_params(device="cpu", warm_start=True)
    estimator = estimator.fit(X) if y is None else estimator.fit(X, y)
    estimator.set_params(device=str(device))
    estimator = estimator.fit(X) if y is None else estimator.fit(X, y)
    assert {p.device.type for p in estimator.module_.parameters()} == {device.type}
    assert all(np.isfinite(answer).all() for answer in answers(estimator, X, y).values())


# scikit-learn's ways


def test_grid_search_over_tolerances(device):
    clf = ODENetClassifier(state_size=4, device=str(device), **COMMON)
    search = GridSearchCV(clf, {"rtol": [1e-2, 1e-3]}, cv=2, n_jobs=1).fit(X, LABELS)
    assert {p.device.type for p in search.best_estimator_.module_.parameters()} == {device.type}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_cross_validation_of_a_density(device):
    assert np.isfinite(cross_val_score(CNFDensityEstimator(**COMMON, device=str(device)), X, cv=2)).all()


@pytest.mark.parametrize("name", ["classifier", "regressor", "images", "density", "series"])
def test_a_warm_start_goes_on(device, name):
    estimator, (_, X, y) = fit(name, device, warm_start=True), CASES[name]
    before = [p.detach().clone() for p in estimator.module_.parameters()]
    estimator = estimator.fit(X) if y is None else estimator.fit(X, y)
    after = list(estimator.module_.parameters())
    assert {p.device.type for p in after} == {device.type}
    assert not all(torch.equal(p, q) for p, q in zip(before, after, strict=True))


def test_partial_fit(device):
    clf = ODENetClassifier(state_size=4, device=str(device), **COMMON)
    reg = ODENetRegressor(state_size=4, device=str(device), **COMMON)
    for rows in (slice(0, 30), slice(30, 60), slice(0, 30)):
        clf.partial_fit(X[rows], LABELS[rows], classes=[0, 1])
        reg.partial_fit(X[rows], TARGET[rows])
    for estimator in (clf, reg):
        assert len(estimator.loss_curve_) == 3
        assert {p.device.type for p in estimator.module_.parameters()} == {device.type}
        np.testing.assert_allclose(
            estimator.predict(X), loaded(estimator).set_params(device="cpu").predict(X), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("name", ["classifier", "regressor", "density", "series"])
def test_early_stopping(device, name):
    parameters = {"early_stopping": True, "validation_fraction": 0.2, "max_iter": 3}
    estimator = fit(name, device, **parameters)
    assert len(estimator.validation_scores_) == 3
    assert np.isfinite(estimator.validation_scores_).all()
    assert estimator.best_validation_score_ == max(estimator.validation_scores_)


def test_it_learns_what_it_learns_on_the_cpu(device):
    X, y = make_moons(300, noise=0.1, random_state=1)
    clf = ODENetClassifier((16,), state_size=8, learning_rate_init=3e-2, max_iter=20, input_dropout=0.0, random_state=0)
    assert clf.set_params(device=str(device)).fit(X, y).score(X, y) > 0.85


# Out of memory


class Exhausting(nn.Module):
    """A field that can't get the memory for one of its evaluations."""

    n_calls, at = 0, None

    def __init__(self, n_features):
        super().__init__()
        self.linear = nn.Linear(n_features, n_features)

    def forward(self, t, z):
        Exhausting.n_calls += 1
        if Exhausting.n_calls == Exhausting.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return torch.tanh(self.linear(z))


@pytest.fixture
def exhausting():
    """A field's class; ``at`` says, from now on, at which evaluation it fails."""
    yield Exhausting
    Exhausting.n_calls, Exhausting.at = 0, None


def refusal(fit):
    """What a fit says that finds too little memory; the error itself would keep what it had allocated."""
    with pytest.raises(MemoryError, match="batch_size") as caught:
        fit()
    return str(caught.value)


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("name", ["classifier", "regressor", "density"])
def test_out_of_memory_in_the_middle_of_training(device, exhausting, name, warm_start):
    _, X, y = CASES[name]
    field = exhausting(2 if name == "density" else 4)
    estimator = fit(name, device, field=field, warm_start=warm_start, batch_size=20, max_iter=4)
    before, curve = answers(estimator, X, y), list(estimator.loss_curve_)
    exhausting.n_calls, exhausting.at = 0, 40  # after some updates
    message = refusal(lambda: estimator.fit(X) if y is None else estimator.fit(X, y))
    assert device.type in message
    exhausting.at = None
    assert estimator.loss_curve_ == curve
    assert_answers(answers(estimator, X, y), before)


@pytest.fixture
def little_memory(gpu):
    """A function that leaves the process some memory more than it has; afterwards all is as before."""

    def leave(more):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(gpu).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def too_much(name):
    """Data that a layer of 2048 units makes 300 MB of, at one evaluation."""
    rng = np.random.RandomState(0)
    if name == "series":
        return waves(n_series=40_000, n_rows=3)
    X = rng.normal(size=(40_000, 2))
    return X, {"classifier": (X[:, 0] > 0).astype(int), "regressor": X[:, 0], "density": None}[name]


LARGE = {"hidden_layer_sizes": (2048,), "batch_size": 40_000, "early_stopping": False, "max_iter": 1}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("classifier", {}),
        ("classifier", {"adjoint": "backprop"}),
        ("classifier", {"warm_start": True}),
        ("regressor", {}),
        ("density", {}),
        ("density", {"warm_start": True}),
        ("series", {}),
    ],
)
def test_out_of_memory_is_an_error_that_leaves_the_estimator_as_it_was(gpu, little_memory, name, options):
    _, X, y = CASES[name]
    estimator = fit(name, gpu, **LARGE, **options)
    before, attributes, curve = answers(estimator, X, y), set(vars(estimator)), list(estimator.loss_curve_)
    big, targets = too_much(name)
    little_memory(2**27)
    message = refusal(lambda: estimator.fit(big) if targets is None else estimator.fit(big, targets))
    gc.collect()
    assert "cuda" in message
    assert set(vars(estimator)) == attributes
    assert estimator.loss_curve_ == curve
    near = {"rtol": 1e-5, "atol": 1e-6} if name == "series" else {}  # whose sums over rows have no order
    assert_answers(answers(estimator, X, y), before, **near)
    # What the message asks for helps.
    estimator.set_params(batch_size=20)
    estimator.fit(X) if y is None else estimator.fit(X, y)


@pytest.mark.parametrize("name", ["classifier", "density", "series"])
def test_out_of_memory_in_the_first_fit_leaves_nothing(gpu, little_memory, name):
    estimator, _, _ = CASES[name]
    estimator = clone(estimator).set_params(**LARGE, device=str(gpu))
    big, targets = too_much(name)
    little_memory(2**27)
    refusal(lambda: estimator.fit(big) if targets is None else estimator.fit(big, targets))
    with pytest.raises(NotFittedError):
        getattr(estimator, method_of(estimator))(big)


def test_the_memory_of_a_failed_fit_is_given_back(gpu, little_memory):
    estimator = fit("classifier", gpu, **LARGE)
    big, targets = too_much("classifier")
    little_memory(2**27)
    allocated = torch.cuda.memory_allocated()
    for _ in range(2):
        refusal(lambda: estimator.fit(big, targets))
    gc.collect()
    assert torch.cuda.memory_allocated() <= allocated + 2**20


def test_tensors_on_the_device_are_answered_there(device, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    given = torch.from_numpy(X).to(device)
    fitted = CNFDensityEstimator(**COMMON, device=str(device)).fit(given)
    assert type(fitted.score_samples(given)) is np.ndarray
    with config_context(array_api_dispatch=True):
        answer = fitted.score_samples(given)
    assert answer.device == given.device
    np.testing.assert_array_equal(answer.cpu().numpy(), fitted.score_samples(X))


def test_known_dynamics_with_doses_and_inputs_that_jump(device):
    X, y = long_frame(6)[:2]
    X = X.assign(u=np.round(X["time"]), amount=np.where(X["time"] == 1.0, 4.0, 0.0))
    dynamics = KnownDynamics(
        driven,
        {"rate": (0.5, 0.0, None), "gain": 1.0},
        states=["dose"],
        observe="dose",
        fixed="gain",
        doses={"amount": ("dose", "gain")},
        interpolation="previous",
    )
    later = pd.DataFrame({"series": 1, "time": [4.0, 5.0], "u": 1.0, "amount": [3.0, 0.0]})
    for dtype, tolerance in (("float64", 1e-4), ("float32", 1e-2)):
        here, there = (
            known_regressor(dynamics, dtype=dtype, rtol=1e-6, atol=1e-6, device=which).fit(X, y)
            for which in ("cpu", str(device))
        )
        assert next(there.module_.parameters()).device.type == device.type
        np.testing.assert_allclose(there.predict(later), here.predict(later), rtol=tolerance)
