"""Conditioning on more observations."""

import numpy as np
import pandas as pd
import pytest
import torch

from skode import LatentODERegressor
from tests.timeseries.waves import TINY, conditioned_pair, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


# Conditioning


def test_conditioning_leaves_the_original_as_it_was(fitted, waves):
    X, _ = waves
    before = fitted.predict(X)
    new = X[X["id"] == "s0"].assign(id="new")
    fitted.condition(new, np.full(len(new), 5.5))
    np.testing.assert_array_equal(fitted.predict(X), before)
    np.testing.assert_array_equal(fitted.predict(new), fitted.predict(new.assign(id="other")))


def test_conditioning_shares_the_weights(fitted, waves):
    X, y = waves
    assert fitted.condition(X.assign(id="new " + X["id"]), y).module_ is fitted.module_


def test_a_new_series_with_the_observations_of_a_known_one_gets_its_answers(fitted, waves):
    X, y = waves
    known = X["id"] == "s3"
    twin = X[known].assign(id="twin")
    conditioned = fitted.condition(twin, y[known])
    for answer, expected in zip(
        conditioned.predict(twin, return_std=True), fitted.predict(X[known], return_std=True), strict=True
    ):
        np.testing.assert_allclose(answer, expected, rtol=1e-3)  # the solver's tolerance
    np.testing.assert_allclose(conditioned.predict(X), fitted.predict(X), rtol=1e-10)


def test_conditioning_in_two_parts_is_conditioning_at_once(fitted, waves):
    X, y = waves
    new, values = X[:10].assign(id="new"), y[:10]
    once = fitted.condition(new, values)
    twice = fitted.condition(new[:4], values[:4]).condition(new[4:], values[4:])
    np.testing.assert_allclose(twice.predict(new), once.predict(new), rtol=1e-10)


def test_more_observations_of_a_known_series_change_its_answers_only(fitted, waves):
    X, _ = waves
    more = pd.DataFrame({"id": ["s2"] * 3, "t": [1.0, 2.0, 3.0]})
    changed = np.abs(fitted.condition(more, [9.0, 9.0, 9.0]).predict(X) - fitted.predict(X))
    assert changed[X["id"] == "s2"].max() > 1e-3
    assert changed[X["id"] != "s2"].max() < 1e-3  # the solver's tolerance


def test_conditioning_after_a_series_without_observations(waves):
    X, y = waves
    empty = pd.DataFrame({"id": ["never"] * 2, "t": [100.0, 101.0]})
    model = LatentODERegressor(**TINY).fit(pd.concat([empty, X]), np.append([np.nan, np.nan], y))
    conditioned = model.condition(X[:5].assign(id="new"), y[:5])
    np.testing.assert_allclose(conditioned.predict(X), model.predict(X), rtol=1e-10)
    np.testing.assert_allclose(conditioned.predict(empty), model.predict(empty), rtol=1e-10)


def test_conditioning_checks_y(fitted, waves):
    X, y = waves
    with pytest.raises(ValueError, match="y has 2 outputs, but the model was fitted to 1"):
        fitted.condition(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fitted.condition(X, y[:-1])


# Refusals


def test_training_a_conditioned_copy_further_leaves_the_original_as_it_was():
    model, X, y = conditioned_pair()
    before = model.predict(X)
    later = model.condition(X[:3].assign(series=77), y[:3]).set_params(warm_start=True)
    later.fit(X, -y)
    np.testing.assert_array_equal(model.predict(X), before)


# Conditioning, to the bit


def test_conditioning_one_series_leaves_the_others_as_they_were_to_the_bit(fitted, waves):
    X, _ = waves
    others = X[X["id"] != "s2"]
    before = fitted.predict(others, return_std=True)
    more = pd.DataFrame({"id": ["s2"] * 2 + ["new"] * 2, "t": [1.0, 2.0, 0.0, 1.0]})
    after = fitted.condition(more, [9.0, 8.0, 7.0, 6.0]).predict(others, return_std=True)
    np.testing.assert_array_equal(before, after)


def test_a_known_series_may_be_conditioned_on_earlier_rows(fitted, waves):
    X, _ = waves
    start = X["t"][X["id"] == "s1"].min()
    earlier = pd.DataFrame({"id": ["s1"], "t": [start - 0.5]})
    before, std = fitted.predict(earlier, return_std=True)
    value = before + 2 * std
    after = fitted.condition(earlier, value).predict(earlier)
    assert before[0] < after[0] < value[0]
    far = fitted.condition(X[:10].assign(id="new", t=X["t"][:10] + 1), np.full(10, 5.0))
    assert np.isfinite(far.condition(X[:2].assign(id="new", t=[-1.0, -2.0]), [5.0, 5.0]).predict(X)).all()


def test_the_encoders_posterior_is_the_wider_one_of_what_it_missed(waves):
    X, y = waves
    laplace = LatentODERegressor(**TINY).fit(X, y)
    plain = LatentODERegressor(**TINY, posterior="encoder").fit(X, y)
    for (name, p), q in zip(laplace.module_.named_parameters(), weights(plain), strict=True):
        assert name == "likelihood.log_noise" or torch.equal(p, q)  # the noise may be widened after training
    assert laplace.score_samples(X, y).mean() > plain.score_samples(X, y).mean()


# Faults that users found


@pytest.mark.parametrize(("first", "then"), [("laplace", "encoder"), ("encoder", "laplace")])
def test_posteriors_are_of_one_kind(waves, first, then):
    X, y = waves
    model = LatentODERegressor(**TINY, posterior=first).fit(X, y)
    twin = X[X["id"] == "s3"].assign(id="twin")
    plain = model.condition(twin, y[X["id"] == "s3"])
    changed = model.set_params(posterior=then).condition(twin, y[X["id"] == "s3"])
    np.testing.assert_array_equal(changed.predict(twin), plain.predict(twin))
