"""Tables in blocks on the device: pools of blocks stay in the memory of the CPU, batches go to the device."""

import numpy as np
import pytest
from sklearn.datasets import make_moons

from skode import CNFDensityEstimator, ODENetClassifier
from skode.io import ArrayTable

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

X, LABELS = make_moons(200, noise=0.1, random_state=0)
COMMON = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        (ODENetClassifier(**COMMON, early_stopping=True, input_dropout=0.0), (LABELS,)),  # whose draws are the device's
        (CNFDensityEstimator(**COMMON), ()),
    ],
)
def test_fits_in_blocks_are_those_on_the_cpu(device, monkeypatch, model, targets):
    monkeypatch.setattr("skode.training.blocks.POOL_BYTES", 1000)
    table = ArrayTable(X, block_rows=30)
    expected = model.set_params(device="cpu", dtype="float64").fit(table, *targets).loss_curve_
    found = model.set_params(device=str(device)).fit(table, *targets).loss_curve_
    assert next(model.module_.parameters()).device.type == device.type
    np.testing.assert_allclose(found, expected, rtol=1e-4)
