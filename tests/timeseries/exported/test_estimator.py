"""Exported latent ODEs answer new series as ``condition`` and ``predict`` do."""

import numpy as np
import pandas as pd
import pytest

from skode import LatentODERegressor
from tests.serving.run import by_module
from tests.timeseries.decays import known_rate, long_frame, regressor

SMALL = {
    "series": "series",
    "time": "time",
    "hidden_layer_sizes": (6,),
    "latent_size": 2,
    "encoder_size": 4,
    "n_draws": 8,
    "max_iter": 2,
    "early_stopping": False,
    "random_state": 0,
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def panel(n_series, seed, first=0.0, until=5.0):
    """Waves of random lengths and phases, with a covariate."""
    rng = np.random.RandomState(seed)
    series = np.repeat(np.arange(n_series) + 100 * seed, rng.randint(3, 7, n_series))
    X = pd.DataFrame({"series": series, "time": rng.uniform(first, until, len(series)), "dose": rng.randn(len(series))})
    X = X.sort_values(["series", "time"], ignore_index=True)
    return X, np.sin(X["time"] + X["series"]).to_numpy() + 0.1 * rng.randn(len(X))


def in_slots(X, column):
    """A column with a row for each series, NaN behind its last one."""
    parts = [part[column].to_numpy() for _, part in X.groupby("series")]
    slots = np.full((len(parts), max(map(len, parts))), np.nan)
    for row, part in zip(slots, parts, strict=True):
        row[: len(part)] = part
    return slots


def both(estimator, run, with_dose):
    """Predictions of new series before, between and behind their known rows: by a program, and by the estimator."""
    columns = ["series", "time", "dose"][: 2 + with_dose]
    (X, y), (X_new, _) = panel(3, seed=1), panel(3, seed=1, first=-2.0, until=9.0)
    y = y if estimator.likelihood == "gaussian" else (y > 0.0).astype(float)
    y[2] = np.nan
    inputs = {
        "known_times": in_slots(X, "time"),
        "known_y": in_slots(X.assign(y=y), "y")[..., None],
        "times": in_slots(X_new, "time"),
    }
    if with_dose:
        inputs |= {
            "known_covariates": in_slots(X, "dose")[..., None],
            "covariates": in_slots(X_new, "dose")[..., None],
        }
    expected = estimator.condition(X[columns], y).predict(X_new[columns], return_std=True)
    there = ~np.isnan(inputs["times"])
    found = run(inputs)
    assert all(np.isnan(x[~there]).all() for x in found)
    return [x[..., 0][there] for x in found], expected


@pytest.fixture(scope="module")
def data():
    return panel(8, seed=0)


@pytest.mark.parametrize(
    ("options", "with_dose"),
    [
        ({"posterior": "encoder"}, False),
        ({"posterior": "encoder", "encoder": "ode_rnn"}, True),
        ({"noise": "white"}, False),
        ({"noise": "coloured", "encoder": "rnn"}, True),
        ({"likelihood": "poisson"}, False),
    ],
    ids=["encoder", "ode_rnn", "white noise", "noise with a memory", "counts"],
)
def test_predictions_of_new_series(data, options, with_dose, monkeypatch):
    X, y = data
    kind = options.get("likelihood")
    y = y if kind is None else (y > 0.0).astype(float)
    X = X[["series", "time", "dose"][: 2 + with_dose]]
    estimator = LatentODERegressor(**SMALL, **options).fit(X, y)
    if options.get("noise") == "coloured":
        estimator.module_.likelihood.whiten()
        estimator.module_.likelihood.colour(0, 0.6, 0.3)
    program = estimator._program()
    found, expected = both(
        estimator, lambda inputs: by_module(program, monkeypatch, *inputs.values()), with_dose=with_dose
    )
    for mine, its in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-8)


def test_a_series_with_an_infinite_value_or_falling_times_is_not_answered(data, monkeypatch):
    X, y = data
    program = LatentODERegressor(**SMALL, posterior="encoder").fit(X[["series", "time"]], y)._program()
    times, values = np.tile(np.arange(3.0), (2, 1)), np.zeros((2, 3, 1))
    infinite, falling = values.copy(), times.copy()
    infinite[1, 1], falling[1] = np.inf, [0.0, 2.0, 1.0]
    for given in ((times, infinite), (falling, values)):
        for found in by_module(program, monkeypatch, *given, times):
            assert np.isfinite(found[0]).all()
            assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"periods": [2.0]}, r"its cycles \(periods\)"),
        ({"observation_times": "poisson"}, 'observation_times="poisson" enters'),
    ],
)
def test_what_is_not_in_the_graph_is_refused_by_name(data, options, reason, tmp_path):
    X, y = data
    estimator = LatentODERegressor(**SMALL, **options).fit(X[["series", "time"]], y)
    with pytest.raises(ValueError, match=f"can't be exported: {reason}"):
        estimator.export(tmp_path / "waves.onnx")


def test_equations_of_ones_own_are_refused(tmp_path):
    X, y, *_ = long_frame(n_series=4)
    estimator = regressor(known_rate(), posterior="encoder").fit(X, y)
    with pytest.raises(ValueError, match="can't be exported: its dynamics are functions of one's own"):
        estimator.export(tmp_path / "decays.onnx")
