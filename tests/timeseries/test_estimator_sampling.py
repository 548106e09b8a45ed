"""Draws of observations, and new series."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from skode import LatentODERegressor
from skode.timeseries.posterior import Posterior
from tests.timeseries.waves import TINY, make_waves

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


# Draws


def test_draws_agree_with_predictions(fitted):
    t = np.linspace(0.5, 3.5, 4)
    query = pd.DataFrame({"id": np.repeat(["s0", "new"], 4), "t": np.tile(t, 2)})
    model = pickle.loads(pickle.dumps(fitted))
    drawn = model.sample_y(query, 3000, random_state=0)
    # against as many quasi-random draws as give the moments exactly
    known = model.posterior_
    uniform = torch.full((512, len(known.mean)), -np.log(512), dtype=torch.float64)
    model.posterior_ = Posterior(known.mean, known.factor, uniform)
    mean, std = model.predict(query, return_std=True)
    np.testing.assert_allclose(drawn.mean(1), mean, atol=4 * std.max() / np.sqrt(3000))
    np.testing.assert_allclose(drawn.std(1), std, rtol=0.07)


def test_rows_of_a_series_share_a_path(fitted):
    query = pd.DataFrame({"id": ["new", "new", "newer"], "t": [1.0, 1.001, 1.0]})
    drawn = fitted.sample_y(query, 2000)
    correlation = np.corrcoef(drawn)
    white = fitted.noise_std_[0] ** 2 * (1.0 - fitted.noise_share_[0])
    expected = 1 - white / drawn.std() ** 2
    assert expected > 0.3
    assert correlation[0, 1] == pytest.approx(expected, abs=0.08)
    assert abs(correlation[0, 2]) < 0.1


def test_draws_are_repeatable_and_come_in_the_order_of_the_rows(fitted, waves):
    X, _ = waves
    first = fitted.sample_y(X, 3, random_state=5)
    np.testing.assert_array_equal(first, fitted.sample_y(X, 3, random_state=5))
    assert np.abs(first - fitted.sample_y(X, 3, random_state=6)).max() > 0.1
    assert fitted.sample_y(X).shape == (len(X), 1)
    order = np.random.RandomState(1).permutation(len(X))
    many = fitted.sample_y(X.iloc[order], 400).mean(1)
    np.testing.assert_allclose(many, fitted.sample_y(X, 400, random_state=1).mean(1)[order], atol=0.25)


def test_draws_of_several_outputs(waves):
    X, y = waves
    model = LatentODERegressor(**TINY).fit(X, np.column_stack([y, -100 * y]))
    drawn = model.sample_y(X, 50)
    assert drawn.shape == (len(X), 2, 50)
    assert drawn[:, 1].std() > 20 * drawn[:, 0].std()
    one = LatentODERegressor(**TINY).fit(X, y[:, None])
    assert one.sample_y(X, 4).shape == (len(X), 1, 4)


# New series


def test_new_series_are_a_long_frame(fitted):
    frame = fitted.sample(3, [2.0, 0.0, 1.0], random_state=0)
    assert frame.columns.tolist() == ["id", "t", "y"]
    assert frame["id"].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert frame["t"].tolist() == [0.0, 1.0, 2.0] * 3
    pd.testing.assert_frame_equal(frame, fitted.sample(3, [2.0, 0.0, 1.0], random_state=0))
    assert not frame.equals(fitted.sample(3, [2.0, 0.0, 1.0], random_state=1))


def test_new_series_are_those_of_the_prior(fitted, waves):
    times = np.array([0.0, 1.0, 2.5])
    frame = fitted.sample(2000, times, random_state=0)
    drawn = frame["y"].to_numpy().reshape(2000, 3)
    # where a series never seen is taken to have its first row
    start = float(np.median(waves[0].groupby("id")["t"].min()))
    query = pd.DataFrame({"id": "new", "t": start + times})
    expected = fitted.sample_y(query, 2000)
    np.testing.assert_allclose(drawn.mean(0), expected.mean(1), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(expected), atol=0.1)


@pytest.mark.parametrize(
    "times", [[0.0, 1.0, 2.0], pd.Series([0.0, 1.0, 2.0], index=[5, 6, 7]), pd.Index([0.0, 1.0, 2.0])]
)
def test_times_of_new_series_may_be_of_any_sequence(fitted, times):
    assert fitted.sample(2, times, random_state=0)["t"].tolist() == [0.0, 1.0, 2.0] * 2


def test_new_series_have_times_of_their_own_kind(waves):
    X, y = waves
    days = pd.to_timedelta(X["t"].round(2), unit="D")
    dates = pd.Timestamp("2024-03-01") + days
    for column, dtype in (
        (dates, "datetime64"),
        (dates.dt.tz_localize("Europe/Berlin"), "datetime64"),
        (days, "timedelta64"),
    ):
        dated = X.assign(t=column)
        model = LatentODERegressor(**TINY).fit(dated, y)
        frame = model.sample(2, random_state=0)
        assert len(frame) == 100
        assert str(frame["t"].dtype).startswith(dtype)
        assert (getattr(frame["t"].dtype, "tz", None) is None) == (getattr(column.dtype, "tz", None) is None)
        assert column.min() - pd.Timedelta(days=1) <= frame["t"].min() <= column.max()
        # It can be asked about, once its ids can't be taken for those of fit.
        query = frame[["id", "t"]].assign(id="new" + frame["id"].astype(str))
        assert np.isfinite(model.predict(query)).all()
        for times in (column[:4], pd.Index(column[:4]), column[:4].tolist()):
            given = model.sample(2, times, random_state=0)
            assert given["t"].tolist() == sorted(column[:4]) * 2
            assert str(given["t"].dtype).startswith(dtype)
        with pytest.raises(ValueError, match="times holds a number, but the time column held a"):
            model.sample(2, [0.0, 1.0])
    with pytest.raises(ValueError, match="n_series must be an integer, 1 or more"):
        model.sample(0)


def test_new_series_have_covariates(waves):
    X, y = waves
    X = X.assign(dose=np.linspace(1, 3, len(X)))
    model = LatentODERegressor(**TINY).fit(X, y)
    frame = model.sample(2, [0.0, 1.0], random_state=0)
    assert frame.columns.tolist() == ["id", "t", "dose", "y"]
    np.testing.assert_allclose(frame["dose"], 2.0)
    given = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    np.testing.assert_allclose(model.sample(2, [0.0, 1.0], covariates=given)["dose"], [1, 2, 3, 4])
    backward = model.sample(2, [1.0, 0.0], covariates=given[:, ::-1], random_state=3)
    pd.testing.assert_frame_equal(backward, model.sample(2, [0.0, 1.0], covariates=given, random_state=3))


# Faults that users found


def test_samples_long_ago(waves):
    X, y = waves
    days = (X["t"] * 10).round().astype(int)
    dates = pd.Series(np.datetime64("1000-01-01", "s") + days.to_numpy() * np.timedelta64(86400, "s"))
    model = LatentODERegressor(**TINY).fit(X.assign(t=dates.to_numpy()), y)
    sampled = model.sample(1)
    assert sampled["t"].dt.year.between(999, 1001).all()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"n_series": 2.5}, "n_series must be an integer"),
        ({"times": []}, "one time at least"),
        ({"times": [[0.0, 1.0]]}, "one dimension"),
        ({"covariates": np.ones((1, 50, 1))}, "fitted without any"),
    ],
)
def test_bad_samples_are_refused(brief, query, message):
    with pytest.raises(ValueError, match=message):
        brief.sample(**query)


def test_counts_too_large_are_refused(waves):
    X, y = waves
    with pytest.raises(ValueError, match="counts up to"):
        LatentODERegressor(**TINY, likelihood="poisson").fit(X, np.round(y) * 1e15)


# Common mistakes


@pytest.mark.parametrize("n", [0, -1, 2.5, "a"])
def test_numbers_of_draws_are_checked(tiny_waves, n):
    model, X, _ = tiny_waves
    with pytest.raises(ValueError, match=f"n_samples must be an integer, 1 or more; got {n!r}"):
        model.sample_y(X, n)
    with pytest.raises(ValueError, match=f"n_series must be an integer, 1 or more; got {n!r}"):
        model.sample(n)


def test_times_to_sample_at_are_a_list():
    X, y = make_waves(n_series=4)
    X["u"] = 1.0 + X["t"]
    model = LatentODERegressor(**TINY).fit(X, y)
    with pytest.raises(ValueError, match=r"times must have one dimension .* got 3\.0"):
        model.sample(2, times=3.0)
    with pytest.raises(ValueError, match="The array times holds"):
        model.sample(2, times=["a", "b"])
    with pytest.raises(ValueError, match=r"covariates must broadcast to .* = \(2, 2, 1\); got shape \(5, 7\)"):
        model.sample(2, times=[1.0, 2.0], covariates=np.zeros((5, 7)))
    with pytest.raises(ValueError, match="covariates contains NaN"):
        model.sample(2, times=[1.0, 2.0], covariates=np.nan)


def test_draws_that_no_memory_holds_and_covariates_that_are_none_are_named(tiny_waves):
    model, X, _ = tiny_waves
    with pytest.raises(MemoryError, match="n_samples=1000000000000000 takes more memory than there is"):
        model.sample_y(X, 10**15)
    with pytest.raises(MemoryError, match="n_series=1000000000000000 takes more memory than there is"):
        model.sample(10**15)
