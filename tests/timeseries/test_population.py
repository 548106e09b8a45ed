import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from skode.equations.parameters import Parameter
from skode.timeseries.population import Bounds, Population, usual_spread

PARAMETERS = [
    Parameter("free", -3.0),
    Parameter("above", 2.5, low=0.5),
    Parameter("below", 2.5, high=4.0),
    Parameter("between", 0.3, low=-1.0, high=2.0),
]


def population(priors=None, learns=True):
    return Population(PARAMETERS, [Parameter("rate", 2.0, low=0.0)], priors or {}, {"free": 0.5}, learns=learns)


def test_values_stay_within_bounds_and_start_where_they_should():
    u = np.linspace(-4.0, 4.0, 9)
    found = Bounds(PARAMETERS)(torch.from_numpy(u)[:, None].expand(-1, 4)).numpy()
    expected = [-3.0 + u, 0.5 + 2.0 * np.exp(u), 4.0 - 1.5 * np.exp(-u), -1.0 + 3.0 * expit(logit(1.3 / 3.0) + u)]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found[4], [p.start for p in PARAMETERS], rtol=1e-12)
    assert (np.diff(found, axis=0) > 0.0).all()


def test_slopes_are_finite_far_out():
    u = torch.tensor([[-1e3], [1e3]], dtype=torch.float64).expand(-1, 4).clone().requires_grad_()
    (slope,) = torch.autograd.grad(Bounds(PARAMETERS)(u).sum(), u)
    assert torch.isfinite(slope).all()


def test_spreads_to_start_with():
    assert [usual_spread(p) for p in [*PARAMETERS, Parameter("zero", 0.0)]] == [3.0, 1.0, 1.0, 1.5, 1.0]
    assert population().spread.tolist() == [0.5, 1.0, 1.0, 1.5]
    assert population({"free": 2.0}).spread[0] == 2.0


@pytest.mark.parametrize(("priors", "learns", "learnt"), [({}, True, 4), ({"below": 0.3}, True, 3), ({}, False, 0)])
def test_what_is_given_is_not_learnt(priors, learns, learnt):
    model = population(priors, learns)
    with torch.no_grad():
        model.log_ratio += 0.5
    z = torch.ones(7, 4, dtype=torch.float64)
    model.own_values(z).sum().backward()
    for grad in (model.location.grad, model.log_ratio.grad):
        assert int((grad != 0.0).sum()) == learnt
    assert model.log_hyperprior().item() == pytest.approx(0.5 * learnt)


def test_a_shared_prior_is_part_of_the_density():
    model = population({"rate": 0.2})
    with torch.no_grad():
        model.shared_location += 1.5
    assert model.shared_values().item() == pytest.approx(2.0 * np.exp(0.3))
    assert model.log_hyperprior().item() == pytest.approx(-0.5 * 1.5**2)


def test_quantiles_are_those_of_the_normal_transformed():
    low, median = population().quantiles(-1.0), population().quantiles(0.0)
    np.testing.assert_allclose(median, [p.start for p in PARAMETERS])
    np.testing.assert_allclose(low[:2], [-3.5, 0.5 + 2.0 / np.e])
