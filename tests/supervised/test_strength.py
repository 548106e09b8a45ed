"""The strength of the L2 penalty, chosen by rows held out."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_friedman1

from skode import ODENetClassifier, ODENetRegressor
from skode.supervised.strength import DECAYS, ENDS, Path, parts, up_to
from skode.training import TrainingRecord, TrainingSettings
from tests.weights import same_weights

QUICK = {"hidden_layer_sizes": (8,), "state_size": 8, "max_iter": 25, "random_state": 0}


def test_every_row_is_held_out_once_at_most_and_classes_are_shared_out():
    strata = np.array(list("aaaaaaaaaabbbbbbbbbbbbbbbbbbbbbc"))
    found = list(parts(np.arange(len(strata)), strata))
    assert len(found) == 4
    held_out = np.concatenate([out for _, out in found])
    assert len(np.unique(held_out)) == len(held_out)
    for kept, out in found:
        np.testing.assert_array_equal(np.sort(np.concatenate([kept, out])), np.arange(len(strata)))
        assert set(strata[kept]) == {"a", "b", "c"}  # the only row of a class stays
        assert (strata[out] == "a").sum() == 2
    assert len(list(parts(np.arange(1000), None))) == 1  # of which a fifth is enough


def test_rows_with_the_same_features_are_held_out_together():
    groups, labels = np.repeat(np.arange(10), 3), np.arange(30) % 2
    for kept, out in parts(groups, labels):
        assert not set(groups[kept]) & set(groups[out])
        assert len(out) == 6


def test_training_up_to_a_strength_has_the_proportions_of_training_to_the_last():
    settings = TrainingSettings(learning_rate=1.0, batch_size=10, max_iter=100)
    for place, decay in enumerate(DECAYS):
        some = up_to(place, settings)
        assert some.max_iter == 100
        np.testing.assert_allclose([ENDS[place] * end for end, _ in some.stages], ENDS[: place + 1])
        assert some.stages[-1] == (1.0, decay * 10)


def test_losses_are_taken_at_the_ends_and_those_not_reached_are_infinite():
    path = Path(up_to(len(DECAYS) - 1, TrainingSettings(learning_rate=1.0, batch_size=1, max_iter=25)), lambda: now)
    for now in range(1, 20):
        path.at_end_of_epoch(TrainingRecord(loss_curve=[0.0] * now))
    np.testing.assert_array_equal(path.losses, [17.0, 19.0, np.inf, np.inf, np.inf])


@pytest.mark.parametrize("kind", [ODENetRegressor, ODENetClassifier])
def test_a_weight_is_a_number_of_copies(kind):
    rng = np.random.RandomState(0)
    X = rng.uniform(-2, 2, (120, 2))
    y = np.sin(2 * X[:, 0]) + X[:, 1]
    y = y if kind is ODENetRegressor else (y > 0).astype(int)
    counts = rng.randint(0, 4, len(X))
    weighted = kind(**QUICK).set_params(max_iter=6).fit(X, y, sample_weight=counts)
    order = rng.permutation(np.repeat(np.arange(len(X)), counts))
    repeated = kind(**QUICK).set_params(max_iter=6).fit(X[order], y[order])
    assert weighted.alpha_ == repeated.alpha_
    assert same_weights(weighted, repeated)


def test_the_strength_follows_the_noise():
    rng = np.random.RandomState(0)
    X = rng.uniform(-2, 2, (500, 2))
    truth = X[:, 0] + X[:, 1] ** 2
    given = {**QUICK, "max_iter": 50, "learning_rate_init": 2e-2}
    clear, noise = (ODENetRegressor(**given).fit(X[:100], y[:100]) for y in (truth, rng.normal(size=500)))
    assert clear.alpha_ < noise.alpha_
    assert clear.score(X[100:], truth[100:]) > 0.95
    assert np.mean(noise.predict(X) ** 2) < 0.1


def test_few_rows_images_and_parts_have_a_strength_without_a_search():
    X, y = make_friedman1(40, random_state=0)
    assert ODENetRegressor(**QUICK).fit(X, y).alpha_ == pytest.approx(DECAYS[2] * 32)
    assert ODENetRegressor(**QUICK).partial_fit(X, y).alpha_ == 1.0
    images = np.random.RandomState(0).normal(size=(60, 16))
    reg = ODENetRegressor(**{**QUICK, "max_iter": 1}, image_shape=(1, 4, 4)).fit(images, images[:, 0])
    assert reg.alpha_ == 1.0
    assert ODENetRegressor(**QUICK, alpha=0.3).fit(X, y).alpha_ == 0.3


def test_going_on_keeps_the_strength():
    X, y = make_friedman1(100, noise=1.0, random_state=0)
    reg = ODENetRegressor(**QUICK, warm_start=True).fit(X, y)
    found = reg.alpha_
    assert reg.set_params(max_iter=2).fit(X, y).alpha_ == found
    assert reg.n_iter_ == 2
    assert reg.partial_fit(X, y).alpha_ == found
    assert not same_weights(reg, clone(reg).set_params(max_iter=25).fit(X, y))


def test_an_interrupted_search_ends_the_fit(monkeypatch):
    X, y = make_friedman1(100, random_state=0)
    step = torch._fused_adam_
    calls = []

    def interrupt(*args, **kwargs):
        calls.append(0)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(torch, "_fused_adam_", interrupt)
    with pytest.warns(UserWarning, match="interrupted by user"):
        reg = ODENetRegressor(**QUICK).fit(X, y)
    assert reg.stop_reason_ == "interrupted"
    assert np.isfinite(reg.predict(X)).all()
