import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from skode import KnownDynamics
from skode.timeseries import empirical_bayes
from tests.timeseries.decays import decay, doubled, driven, known_rate, long_frame, regressor


def frame():
    X, y, _, _ = long_frame(4)
    return X, y


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": ["dose", "dose"]}, "states must hold names that differ"),
        ({"params": {"rate": (0.5, 1.0, None)}}, r"params\['rate'\] starts at 0.5, which its bounds"),
        ({"params": {"rate": (0.0, 0.0, None)}}, r"params\['rate'\] starts at its bound, 0"),
        ({"params": {"dose": 1.0, "rate": 1.0}}, "states names 'dose', which is a parameter"),
        ({"observe": "plasma"}, "observe names 'plasma', which is not a state"),
        ({"observe": ["dose", None]}, "observe has 2 entries"),
        ({"observe": None}, "initial has no entry for 'dose'"),
        ({"initial": {"plasma": 1.0}}, "initial names 'plasma'"),
        ({"initial": {"dose": (2.0, 3.0, None)}}, r"initial.* starts at 2.0, which its bounds"),
        ({"initial": {"dose": (0.0, 0.0, None)}}, r"initial\['dose'\] starts at its bound"),
        ({"per_series": ["speed"]}, "per_series names 'speed'"),
        ({"fixed": ["speed"]}, "fixed names 'speed'"),
        ({"fixed": "rate", "initial": {"dose": 5.0}}, "nothing unknown of a series"),
        ({"priors": {"speed": 1.0}}, "priors names 'speed', which is not an unknown"),
        ({"priors": {"rate": -1.0}}, r"priors\['rate'\] must be a positive"),
        ({"priors": [1.0]}, "priors must be a dict"),
        ({"rhs": "decay"}, "rhs must be a function"),
        ({"rhs": lambda t, y, p: y[..., 0]}, "rhs.* must return a tensor of y's shape"),
        ({"rhs": lambda t, y, p: -p["rate"][..., None] * y.detach()}, "rhs.* breaks autograd"),
        (
            {"observe": lambda t, y, p: torch.cat([y, y], dim=-1), "initial": [(1.0, 0.0, None)]},
            "observe.* returns 2 outputs, but y has 1",
        ),
    ],
)
def test_bad_arguments_get_an_error_that_names_them(arguments, message):
    arguments = {"rhs": decay, "params": {"rate": (0.5, 0.0, None)}, "states": ["dose"], "observe": "dose", **arguments}
    with pytest.raises((ValueError, TypeError), match=message):
        regressor(KnownDynamics(**arguments)).fit(*frame())


def test_a_parameter_with_the_name_of_a_column_is_refused():
    X, y = frame()
    with pytest.raises(ValueError, match="params names 'rate', which is a column of X"):
        regressor(KnownDynamics(decay, {"rate": 1.0}, states=["dose"], observe="dose")).fit(X.assign(rate=1.0), y)


def test_covariates_of_an_array_are_named_by_position():
    X, y = frame()
    values = np.column_stack([np.cos(X["time"]), X])
    dynamics = KnownDynamics(
        lambda t, y, p: driven(t, y, {"u": p["x0"], "rate": p["rate"]}),
        {"rate": (0.5, 0.0, None)},
        states=["dose"],
        observe="dose",
    )
    model = regressor(dynamics, series=1, time=2).fit(values, y)
    named = regressor(clone(dynamics).set_params(rhs=driven))
    expected = named.fit(X.assign(u=values[:, 0]), y).predict(X.assign(u=values[:, 0]))
    np.testing.assert_allclose(model.predict(values), expected, rtol=1e-9)
    with pytest.raises(ValueError, match=r"fails with KeyError: 'x0'.*p holding 'rate' of shape"):
        regressor(clone(dynamics)).fit(X, y)


def test_it_is_cloned_pickled_and_set_with_the_estimator():
    X, y = frame()
    model = regressor(known_rate(), dtype="float64").fit(X, y)
    again = clone(model).set_params(dynamics__priors={"dose": 1.0})
    assert again.dynamics is not model.dynamics
    assert again.dynamics.rhs is decay
    assert model.dynamics.priors is None
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(clone(model).fit(X, y).predict(X), model.predict(X))


def test_a_warm_start_with_other_equations_is_refused():
    X, y = frame()
    model = regressor(known_rate(), warm_start=True).fit(X, y)
    n_iter = model.fit(X, y).n_iter_
    assert n_iter == 1
    with pytest.raises(ValueError, match="dynamics="):
        model.set_params(dynamics=known_rate(priors={"dose": 2.0})).fit(X, y)


def test_columns_are_named_by_states_and_parameters():
    X, y = frame()
    X = X.assign(u=np.sin(X["time"]), v=0.5)
    dynamics = KnownDynamics(
        lambda t, y, p: torch.stack([driven(t, y[..., :1], p)[..., 0], p["gain"] * y[..., 0] * p["scale"]], dim=-1),
        {"rate": (0.5, 0.0, None), "gain": (0.5, 0.0, 1.0), "scale": 2.0},
        states=["dose", "effect"],
        initial={"effect": "v"},
        observe=["dose"],
        per_series=["gain"],
        fixed="scale",
    )
    model = regressor(dynamics).fit(X, y)
    values, std = model.latent_states(return_std=True)
    assert list(values.columns) == list(std.columns) == ["dose", "effect", "gain"]
    assert list(model.get_feature_names_out()) == list(values.columns)
    assert list(model.params_) == ["rate"]
    assert list(model.priors_.index) == ["gain", "dose"]
    np.testing.assert_array_equal(values["effect"], 0.5)  # a column of X at the first row
    assert (std["effect"] == 0.0).all()
    assert (std[["dose", "gain"]] > 0.0).all(axis=None)
    np.testing.assert_allclose(model.transform(X), values.to_numpy()[X["series"]])
    assert model.latent_trajectory(X).shape == (len(X), 3)
    # Of a series that was never seen the medians of the priors.
    unknown = model.transform(X.assign(series=99))[0]
    np.testing.assert_allclose(unknown, [model.priors_["median"]["dose"], 0.5, model.priors_["median"]["gain"]])


def test_without_equations_there_is_nothing_of_theirs():
    X, y = frame()
    model = regressor(None).fit(X, y)
    assert not hasattr(model, "params_")
    assert not hasattr(model, "priors_")
    values, std = model.latent_states(return_std=True)
    assert list(values.columns) == [f"latentoderegressor{i}" for i in range(4)]
    covariance = model.posterior_.factor @ model.posterior_.factor.mT
    np.testing.assert_allclose(std, torch.diagonal(covariance, dim1=1, dim2=2).sqrt())


def test_dates_count_in_the_unit_of_time():
    X, y = frame()
    hours = X.assign(time=pd.Timestamp("2024-03-01") + pd.to_timedelta(X["time"], unit="h"))
    by_number = regressor(KnownDynamics(decay, {"rate": (0.5, 0.0, None)}, states=["dose"], observe=doubled_dose))
    by_date = clone(by_number).set_params(dynamics__time_unit="h")
    initial = {"dynamics__initial": {"dose": (5.0, 0.0, None)}}
    models = [model.set_params(**initial).fit(rows, y) for model, rows in ((by_number, X), (by_date, hours))]
    np.testing.assert_allclose(models[1].predict(hours), models[0].predict(X), rtol=1e-6)
    np.testing.assert_allclose(models[1].latent_states(), models[0].latent_states(), rtol=1e-6)


def doubled_dose(t, y, p):
    return doubled(t, y, p) / 2.0


@pytest.mark.filterwarnings("ignore:max_time=:sklearn.exceptions.ConvergenceWarning")
def test_the_time_limit_ends_the_search_for_the_population(monkeypatch):
    times = []

    def expanded(*args):
        times.append(1)
        return inner(*args)

    inner = empirical_bayes.expansion
    monkeypatch.setattr(empirical_bayes, "expansion", expanded)
    dynamics = KnownDynamics(decay, {"rate": (0.5, 0.0, None)}, states=["dose"], observe="dose")
    for max_time in (None, 1e-3):
        times.clear()
        regressor(dynamics, max_time=max_time).fit(*frame())
        assert (len(times) == 1) == (max_time is not None)
