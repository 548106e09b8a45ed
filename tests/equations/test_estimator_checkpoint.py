"""Fits of equations go on from checkpoints."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from skode import NeuralODERegressor, ODERegressor

t = np.linspace(0, 8, 25)
TIMES = pd.DataFrame({"t": t})
rng = np.random.RandomState(0)
SIZES = pd.Series(8 / (1 + 15 * np.exp(-t)) + rng.normal(0, 0.2, 25), name="size")
WAVE = pd.DataFrame({"x": np.cos(t), "v": -np.sin(t)}) + rng.normal(0, 0.05, (25, 2))


def growth(t, y, p):
    return (p["rate"] * y[..., 0] * (1 - y[..., 0] / p["capacity"]))[..., None]


PARAMS = {"rate": (0.3, 0, None), "capacity": (3, 0, None)}
FITS = {
    "equations": (ODERegressor(growth, PARAMS, time="t", n_restarts=2), (TIMES, SIZES)),
    "field": (NeuralODERegressor("mlp", hidden_layer_sizes=(3,), time="t", max_iter=5), (TIMES, WAVE)),
}


@pytest.mark.filterwarnings("ignore:The fit ended before an optimum")
@pytest.mark.parametrize("name", FITS)
def test_fits_end_in_the_same_bits_wherever_they_were_cut_off(name, tmp_path, cut):
    estimator, data = FITS[name]
    expected = clone(estimator).set_params(random_state=0).fit(*data)
    estimator = clone(estimator).set_params(random_state=0, checkpoint=tmp_path / "fit")
    looks = cut()
    clone(estimator).fit(*data)
    n = looks[0]
    assert n >= 4
    (tmp_path / "fit").unlink()
    for position in (2, n // 2):
        cut(position)
        with pytest.raises(cut.Cut):
            clone(estimator).fit(*data)
    looks = cut()
    found = clone(estimator).fit(*data)
    assert looks[0] == n - 2 - n // 2
    assert found.params_ == expected.params_
    pd.testing.assert_frame_equal(found.initial_states_, expected.initial_states_, check_exact=True)
    np.testing.assert_array_equal(found.predict(TIMES), expected.predict(TIMES))
