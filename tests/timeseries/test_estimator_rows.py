"""Rows of any order, type and kind of time; values that are missing; data that are refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from skode import LatentODERegressor
from tests.timeseries.waves import TINY, make_waves, tight, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


# Rows


def test_the_order_of_rows_changes_nothing(waves, brief):
    X, y = waves
    order = np.random.RandomState(1).permutation(len(X))
    shuffled = LatentODERegressor(**TINY).fit(X.iloc[order], y[order])
    for p, q in zip(weights(brief), weights(shuffled), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(shuffled.predict(X), brief.predict(X), rtol=1e-7)


def test_answers_come_in_the_order_of_the_questions(fitted, waves):
    X, _ = waves
    order = np.random.RandomState(1).permutation(len(X))
    mean, std = fitted.predict(X, return_std=True)
    asked_mean, asked_std = fitted.predict(X.iloc[order], return_std=True)
    np.testing.assert_allclose(asked_mean, mean[order], rtol=1e-5)
    np.testing.assert_allclose(asked_std, std[order], rtol=1e-4)


def test_an_answer_does_not_depend_on_what_else_is_asked(fitted, waves):
    X, _ = waves
    model = tight(fitted)
    together = model.predict(X)
    alone = np.concatenate([model.predict(X.iloc[[i]]) for i in range(0, len(X), 9)])
    np.testing.assert_allclose(alone, together[::9], rtol=1e-7)
    later = pd.DataFrame({"id": X["id"].iloc[[0]], "t": [12.0]})
    np.testing.assert_allclose(model.predict(pd.concat([X, later]))[:-1], together, rtol=1e-7)


def test_repeated_times_are_accepted(brief):
    X, y = make_waves()
    X = X.assign(t=X["t"].round())
    assert X.duplicated().any()
    model = LatentODERegressor(**TINY).fit(X, y)
    predicted = pd.Series(model.predict(X))
    assert np.isfinite(predicted).all()
    # equal questions, equal answers
    np.testing.assert_allclose(predicted.groupby([X["id"], X["t"]]).transform("first"), predicted, rtol=1e-12)


def test_a_series_of_one_row_is_accepted(waves):
    X, y = waves
    X = pd.concat([X, pd.DataFrame({"id": ["lonely"], "t": [1.0]})])
    model = LatentODERegressor(**TINY).fit(X, np.append(y, 5.0))
    assert np.isfinite(model.predict(X)).all()


def test_all_series_of_one_row_are_accepted():
    X = pd.DataFrame({"id": np.arange(5), "t": np.arange(5.0)})
    model = LatentODERegressor(**TINY).fit(X, np.arange(5.0))
    assert np.isfinite(model.predict(X)).all()


def test_one_series_without_ids():
    t = np.linspace(0, 3, 12)
    model = LatentODERegressor(**{**TINY, "series": None, "time": 0}).fit(t[:, None], np.sin(t))
    assert model.predict(t[:, None]).shape == (12,)


def test_columns_of_an_object_array_by_position(waves, brief):
    X, y = waves
    model = LatentODERegressor(**{**TINY, "series": 0, "time": 1}).fit(X.to_numpy(dtype=object), y)
    np.testing.assert_array_equal(model.predict(X.to_numpy(dtype=object)), brief.predict(X))


@pytest.mark.parametrize("kind", ["category", object])
def test_what_ids_are_stored_as_changes_nothing(waves, brief, kind):
    X, y = waves
    other = X.astype({"id": kind})
    model = LatentODERegressor(**TINY).fit(other, y)
    np.testing.assert_array_equal(model.predict(X), brief.predict(X))
    np.testing.assert_array_equal(model.predict(other), brief.predict(X))


# Dates


def test_dates_and_numbers_of_seconds_give_the_same_model(waves, brief):
    X, y = waves
    seconds = X["t"].round(3)
    numbers = LatentODERegressor(**TINY).fit(X.assign(t=seconds), y)
    dates = pd.Timestamp("1970-01-01") + pd.to_timedelta(seconds, unit="s")
    for column in (dates, dates.dt.tz_localize("Europe/Berlin"), pd.to_timedelta(seconds, unit="s")):
        dated = LatentODERegressor(**TINY).fit(X.assign(t=column), y)
        np.testing.assert_allclose(dated.predict(X.assign(t=column)), numbers.predict(X.assign(t=seconds)), rtol=1e-5)


def test_dates_of_another_unit_or_zone_are_the_same_instants(waves):
    X, y = waves
    dates = (pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(X["t"].round(), unit="D")).dt.as_unit("ns")
    model = LatentODERegressor(**TINY).fit(X.assign(t=dates), y)
    for other in (dates.dt.as_unit("s"), dates.dt.tz_convert("Asia/Tokyo")):
        np.testing.assert_array_equal(model.predict(X.assign(t=other)), model.predict(X.assign(t=dates)))


@pytest.mark.parametrize("method", ["predict", "condition"])
def test_another_kind_of_time_than_in_fit_is_refused(brief, waves, method):
    X, y = waves
    dated = X.assign(t=pd.to_datetime("2024-01-01"))
    with pytest.raises(ValueError, match="time='t' holds a date, but held a number in fit"):
        brief.predict(dated) if method == "predict" else brief.condition(dated, y)


# Missing values


def test_values_not_observed_are_data(waves):
    X, y = waves
    y = np.where(np.arange(len(y)) % 3 == 0, np.nan, y)
    model = LatentODERegressor(**TINY).fit(X, y)
    assert np.isfinite(model.predict(X)).all()


def test_rows_not_observed_say_nothing(waves):
    X, y = waves
    inside = pd.DataFrame({"id": X["id"].iloc[[5]], "t": [(X["t"].iloc[5] + X["t"].iloc[6]) / 2]})
    with_row = LatentODERegressor(**TINY).fit(pd.concat([X, inside]), np.append(y, np.nan))
    without = LatentODERegressor(**TINY).fit(X, y)
    np.testing.assert_allclose(with_row.predict(X), without.predict(X), rtol=1e-7)


def test_one_of_two_outputs_may_be_missing(waves):
    X, y = waves
    Y = np.column_stack([y, -y])
    Y[::2, 0] = np.nan
    model = LatentODERegressor(**TINY).fit(X, Y)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == Y.shape
    assert np.isfinite(mean).all()
    assert model.noise_std_.shape == (2,)


# Refusals


def test_y_without_any_observation_is_refused(waves):
    X, y = waves
    with pytest.raises(ValueError, match="Input y contains NaN only"):
        LatentODERegressor(**TINY).fit(X, np.full(len(y), np.nan))
    with pytest.raises(ValueError, match="NaN only in output 1"):
        LatentODERegressor(**TINY).fit(X, np.column_stack([y, np.full(len(y), np.nan)]))


def test_an_infinite_y_is_refused(waves):
    X, y = waves
    with pytest.raises(ValueError, match="Input y contains infinity"):
        LatentODERegressor(**TINY).fit(X, np.where(np.arange(len(y)) == 3, np.inf, y))


def test_other_columns_than_in_fit_are_refused(brief, waves):
    X, _ = waves
    with pytest.raises(ValueError, match="feature names"):
        brief.predict(X.rename(columns={"t": "time"}))
    with pytest.raises(ValueError, match="dose"):
        brief.predict(X.assign(dose=1.0))


@pytest.mark.parametrize(
    ("parameter", "bad"),
    [
        ("series", "patient"),
        ("series", 2.5),
        ("series", "t"),
        ("time", "day"),
        ("time", None),
        ("latent_size", 0),
        ("encoder_size", 0),
        ("n_draws", 0),
        ("hidden_layer_sizes", (8, 0)),
        ("method", "dopri9"),
        ("rtol", -1.0),
        ("atol", -1.0),
        ("adjoint", "exact"),
        ("device", "no such device"),
        ("likelihood", "cauchy"),
        ("observation_times", "random"),
        ("encoder", "lstm"),
        ("bound", "vlb"),
        ("n_samples", 0),
        ("kl_annealing", 1.5),
        ("forecasting", -0.1),
        ("posterior", "exact"),
        ("learning_rate", "linear"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(waves, parameter, bad):
    with pytest.raises(ValueError, match=parameter):
        LatentODERegressor(**{**TINY, parameter: bad}).fit(*waves)


# Faults that users found


def test_outputs_in_another_order_are_refused(waves):
    X, y = waves
    Y = pd.DataFrame({"a": y, "b": -y})
    model = LatentODERegressor(**TINY).fit(X, Y)
    for method in (model.condition, model.score, model.score_samples):
        with pytest.raises(ValueError, match="y has the columns"):
            method(X, Y[["b", "a"]])


# Common mistakes


def test_an_output_that_was_never_observed_is_named():
    X, y = make_waves(n_series=4)
    with pytest.raises(ValueError, match="NaN only in output 'bili'"):
        LatentODERegressor(**TINY).fit(X, pd.DataFrame({"weight": y, "bili": np.nan}))


@pytest.mark.parametrize("ids", [[[1], [2]], [{"id": 1}, {"id": 2}], [{1}, {2}]])
def test_ids_that_have_no_hash_are_refused_by_the_column_s_name(ids):
    X = pd.DataFrame({"who": ids, "when": [0.0, 1.0]})
    with pytest.raises(ValueError, match=rf"series column 'who' holds {type(ids[0]).__name__}, which can't be told"):
        LatentODERegressor(series="who", time="when").fit(X, [0.0, 1.0])


@pytest.mark.parametrize("times", [[-1.7e308, 1.7e308], [-1e308, 0.0, 1e308]])
def test_times_that_span_more_than_there_are_numbers_are_refused_by_the_column_s_name(times):
    X = pd.DataFrame({"when": times})
    with pytest.raises(ValueError, match="time column 'when' spans more than float64 can hold"):
        LatentODERegressor(time="when").fit(X, np.zeros(len(times)))
