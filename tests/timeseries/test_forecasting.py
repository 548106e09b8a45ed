"""Forecasts as frames, intervals, and answers from what lies before each row."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from skode import LatentODERegressor
from tests.timeseries.waves import TINY, make_waves


@pytest.fixture(scope="module")
def driven():
    """Two outputs, a covariate and dates with a time zone; a day between the rows."""
    X, y = make_waves(n_series=4, n_rows=6)
    place = X.groupby("id").cumcount()
    zone = "Europe/Berlin"
    date = pd.Timestamp("2024-03-25 08:00", tz=zone) + pd.to_timedelta(place, unit="D")
    u = np.random.default_rng(0).standard_normal(len(X))
    X = pd.DataFrame({"id": X["id"], "t": date, "u": u})
    Y = pd.DataFrame({"low": y, "high": np.where(place == 2, np.nan, 2 * y)})
    return LatentODERegressor(**TINY).fit(X, Y), X, Y


def predicted(model, rows, level):
    mean, std = model.predict(rows, return_std=True)
    ends = model.predict_interval(rows, level)
    return {"mean": mean, "std": std, "lower": ends[..., 0], "upper": ends[..., 1]}


def test_steps_are_the_usual_ones_of_each_series(tiny_waves):
    model, X, _ = tiny_waves
    frame = model.forecast(n_steps=3, level=0.8)
    assert frame.columns.tolist() == ["id", "t", "y_mean", "y_std", "y_lower", "y_upper"]
    for name, own in frame.groupby("id"):
        times = X.loc[X["id"] == name, "t"].sort_values()
        np.testing.assert_allclose(own["t"], times.max() + times.diff().median() * np.arange(1, 4))
    for what, values in predicted(model, frame[["id", "t"]], 0.8).items():
        np.testing.assert_array_equal(frame[f"y_{what}"], values)


def test_a_horizon_is_a_span_beyond_the_last_observation(tiny_waves):
    model, X, _ = tiny_waves
    later = model.condition(pd.DataFrame({"id": ["s1"], "t": [9.0]}), [np.nan])  # which is no observation
    frame = later.forecast(1.0, series="s1")
    times = X.loc[X["id"] == "s1", "t"].sort_values()
    step = times.diff().median()
    np.testing.assert_allclose(frame["t"], np.arange(times.max() + step, times.max() + 1.0, step))
    assert len(frame) == int(1.0 / step) > 1
    assert model.forecast(step / 3, series="s1")["t"].tolist() == pytest.approx([times.max() + step / 3])


def test_times_for_all_series_or_of_a_frame(tiny_waves):
    model, _, _ = tiny_waves
    frame = model.forecast(times=[5.0, 4.5], series=["s3", "s0"])
    assert frame["id"].tolist() == ["s3", "s3", "s0", "s0"]
    assert frame["t"].tolist() == [4.5, 5.0] * 2
    shuffled = frame.iloc[[2, 1, 3, 0]]
    again = model.forecast(times=shuffled[["t", "id"]])
    pd.testing.assert_frame_equal(again, shuffled.reset_index(drop=True))
    pl = pytest.importorskip("polars")
    pd.testing.assert_frame_equal(model.forecast(times=pl.from_pandas(frame[["id", "t"]])), frame)
    unseen = pd.DataFrame({"id": ["new"], "t": [2.0]})
    np.testing.assert_array_equal(model.forecast(times=unseen)["y_mean"], model.predict(unseen))


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_days_go_by_the_calendar_of_the_time_zone(driven):
    model, X, _ = driven
    frame = model.forecast("2D", series=["s0"])
    # The first is 23 hours after the last row.
    days = [pd.Timestamp(f"2024-{day} 08:00", tz="Europe/Berlin") for day in ("03-31", "04-01")]
    assert frame["t"].tolist() == days
    assert frame["t"].dt.tz == X["t"].dt.tz


def test_covariates_to_come(driven):
    model, X, _ = driven
    last = X[X["id"] == "s0"].iloc[-1]
    by_default = model.forecast(n_steps=2, series="s0")
    rows = pd.DataFrame({"id": "s0", "t": by_default["t"], "u": last["u"]})
    for what, values in predicted(model, rows, 0.9).items():
        np.testing.assert_allclose(by_default[[f"low_{what}", f"high_{what}"]], values, rtol=1e-6)

    rows["u"] = [1.5, -2.0]
    given = model.forecast(times=rows)
    np.testing.assert_allclose(given["low_mean"], model.predict(rows)[:, 0])
    assert not np.allclose(given["low_mean"], by_default["low_mean"])
    called = model.forecast(
        n_steps=2, series="s0", covariates=lambda ids, times: np.where(times == rows["t"][0], 1.5, -2.0)
    )
    pd.testing.assert_frame_equal(called, given)
    # Known at the second step only: the first lies on the line to there.
    knot = model.forecast(n_steps=2, series="s0", covariates=rows[1:])
    share = (rows["t"][0] - last["t"]) / (rows["t"][1] - last["t"])
    line = rows.assign(u=[last["u"] + share * (-2.0 - last["u"]), -2.0])
    np.testing.assert_allclose(knot["high_upper"], model.forecast(times=line)["high_upper"], rtol=1e-6)


def test_one_series_has_no_column_of_ids():
    t = np.linspace(0.0, 4.0, 15)
    model = LatentODERegressor(**{**TINY, "series": None, "time": 0}).fit(t[:, None], np.sin(t))
    frame = model.forecast(n_steps=2)
    assert frame.columns.tolist()[:2] == ["time", "y_mean"]
    np.testing.assert_array_equal(model.predict(frame[["time"]].to_numpy()), frame["y_mean"])


def test_arguments_that_do_not_go(tiny_waves, driven):
    model, X, _ = tiny_waves
    with pytest.raises(ValueError, match="exactly one of"):
        model.forecast(1.0, n_steps=2)
    with pytest.raises(ValueError, match="exactly one of"):
        model.forecast()
    with pytest.raises(ValueError, match="horizon='7D' does not suit the time column"):
        model.forecast("7D")
    with pytest.raises(ValueError, match=r"horizon=7 does not suit .* pd.Timedelta"):
        driven[0].forecast(7)
    with pytest.raises(ValueError, match="n_steps must be"):
        model.forecast(n_steps=0)
    with pytest.raises(ValueError, match=r"not conditioned on series \['no'\]"):
        model.forecast(1.0, series=["s0", "no"])
    with pytest.raises(ValueError, match="hold one time at least"):
        model.forecast(times=[])
    with pytest.raises(ValueError, match="times holds a date"):
        model.forecast(times=pd.date_range("2024-01-01", periods=2))
    with pytest.raises(ValueError, match="leave series=None"):
        model.forecast(times=X, series="s0")
    with pytest.raises(ValueError, match="without any; leave covariates=None"):
        model.forecast(1.0, covariates=X)
    with pytest.raises(ValueError, match=r"shape \(n, n_covariates\) = \(8, 1\); got \(8, 2\)"):
        driven[0].forecast(n_steps=2, covariates=lambda ids, times: np.zeros((len(ids), 2)))
    with pytest.raises(ValueError, match=r"covariates are of series \[7\], none of which is forecast; .* \['s0'\]"):
        driven[0].forecast(n_steps=2, series="s0", covariates=driven[1][:2].assign(id=7))
    with pytest.raises(ValueError, match="level must be"):
        model.predict_interval(X, 90)
    with pytest.raises(ValueError, match='known must be "all" or "before"'):
        model.predict(X, known="after")


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson", "bernoulli"])
def test_intervals_hold_what_is_drawn(likelihood):
    X, y = make_waves(n_series=4)
    y = {"gaussian": y, "poisson": np.round(3 * y), "bernoulli": (y > 5).astype(float)}[likelihood]
    model = LatentODERegressor(**{**TINY, "posterior": "encoder", "n_draws": 64}, likelihood=likelihood).fit(X, y)
    ends = model.predict_interval(X, 0.8)
    draws = model.sample_y(X, 400)
    inside = ((ends[:, :1] <= draws) & (draws <= ends[:, 1:])).mean()
    assert ends.shape == (len(X), 2)
    if likelihood == "gaussian":
        assert inside == pytest.approx(0.8, abs=0.02)
    else:
        assert inside > 0.78
        np.testing.assert_array_equal(ends, np.round(ends))


def before_by_hand(model, X, y):
    """Each row answered by a model that is conditioned on it and those before, its value and later ones unknown."""
    answers = []
    for i in range(len(X)):
        own = (X["id"] == X["id"].iloc[i]) & (X["t"] <= X["t"].iloc[i])
        values = np.where((X["t"] < X["t"].iloc[i])[own], np.asarray(y)[own].T, np.nan).T
        conditioned = model.condition(X[own], values)
        answers.append((*conditioned.predict(X.iloc[[i]], return_std=True), conditioned.predict_interval(X.iloc[[i]])))
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]


@pytest.mark.parametrize("noise", ["white", "coloured"])
def test_each_row_from_those_before(tiny_waves, noise):
    model, X, y = tiny_waves
    if noise == "coloured":
        model = LatentODERegressor(**{**TINY, "noise": noise}).fit(X, y)
        model.module_.likelihood.colour(0, 0.7, 0.5)
    new = X.assign(id="new " + X["id"])[5:15].sample(frac=1.0, random_state=0)
    new.iloc[3, 1] = new.iloc[4, 1]  # rows at one time do not tell of each other
    values = y[new.index]
    conditioned = model.condition(new, values)
    mean, std = conditioned.predict(new, return_std=True, known="before")
    by_hand = before_by_hand(model, new, values)
    np.testing.assert_allclose(mean, by_hand[0], rtol=1e-5)
    np.testing.assert_allclose(std, by_hand[1], rtol=1e-5)
    np.testing.assert_allclose(conditioned.predict_interval(new, known="before"), by_hand[2], rtol=1e-5)
    if noise == "white":
        z = (values - mean) / std
        expected = std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - np.pi**-0.5)  # of one normal distribution
        np.testing.assert_allclose(conditioned.crps(new, values, known="before"), expected, rtol=0.2)


def test_each_row_from_those_before_with_covariates_and_missing_values(driven):
    model, X, Y = driven
    new = X.assign(id="new " + X["id"])[:7]
    mean, std = model.condition(new, Y[:7]).predict(new, return_std=True, known="before")
    by_hand = before_by_hand(model, new, Y[:7])
    np.testing.assert_allclose(mean, by_hand[0], rtol=1e-5)
    np.testing.assert_allclose(std, by_hand[1], rtol=1e-5)


def test_series_never_seen_have_nothing_before(tiny_waves):
    model, X, y = tiny_waves
    new = X.assign(id="new")
    np.testing.assert_array_equal(model.predict(new, known="before"), model.predict(new))
    density = model.score_samples(X, y, known="before")
    assert density.mean() < model.score_samples(X, y).mean()
