"""The error test: norms and tolerances."""

import math

import numpy as np
import pytest
import torch

from skode.solvers import solve_ivp
from skode.solvers.tolerances import NORMS, EachSample, Tolerances, max_norm, mixed_norm, rms_norm
from tests.solvers.problems import vector


def test_rms_norm_does_not_depend_on_how_often_a_state_is_repeated():
    x = vector(3.0, 4.0)
    assert rms_norm(x).item() == pytest.approx(5 / math.sqrt(2))
    assert rms_norm(x.repeat(1000)).item() == pytest.approx(5 / math.sqrt(2))


def test_rms_norm_of_nothing_is_zero():
    assert rms_norm(torch.empty(0, 3)).item() == 0.0


def test_max_norm_is_the_largest_absolute_value():
    assert max_norm(vector(3.0, -4.0, 1.0)).item() == 4.0
    assert max_norm(torch.empty(0, 3)).item() == 0.0


def test_mixed_norm_is_the_largest_rms_norm_of_a_sample():
    x = torch.stack([vector(1.0, -1.0), vector(3.0, 4.0), vector(0.0, 5.0)])
    assert mixed_norm(x).item() == pytest.approx(5 / math.sqrt(2))
    assert mixed_norm(x[..., None]).item() == pytest.approx(5 / math.sqrt(2))
    assert mixed_norm(torch.cat([x, x])).item() == mixed_norm(x).item()


def test_mixed_norm_of_nothing_is_zero():
    assert mixed_norm(torch.empty(0, 3)).item() == 0.0


@pytest.mark.parametrize("norm", list(NORMS.values()))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_norm_hides_what_is_not_finite(norm, bad):
    assert not math.isfinite(norm(torch.stack([vector(1.0, bad), vector(1.0, 1.0)])).item())


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (4, 2, 3), (4,)])
@pytest.mark.parametrize("norm", [*NORMS.values(), lambda x: x.abs().sum()])
def test_the_size_of_each_sample_is_that_of_the_sample_alone(norm, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x[:, None] if x.ndim == 1 else x
    sizes = EachSample(Tolerances(1e-3, 1e-6, norm)).size(x)
    assert sizes.shape == (4,)
    np.testing.assert_allclose(sizes, [norm(x[i : i + 1]).item() for i in range(4)], rtol=1e-14)


class FirstColumn:
    """A norm with one of all samples at once."""

    def __call__(self, x):
        raise AssertionError("called for single samples")

    def of_each(self, x):
        return x[:, 0].abs()


def test_a_norm_may_size_all_samples_at_once():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_array_equal(EachSample(Tolerances(1e-3, 1e-6, FirstColumn())).size(x), x[:, 0].abs().numpy())


def test_error_ratio_is_one_where_every_error_is_just_allowed():
    tolerances = Tolerances(rtol=0.1, atol=0.01)
    y, y_next = vector(1.0, -5.0), vector(-2.0, 3.0)
    allowed = vector(0.01 + 0.1 * 2.0, 0.01 + 0.1 * 5.0)
    assert tolerances.error_ratio(allowed, y, y_next) == pytest.approx(1.0, rel=1e-14)
    assert tolerances.error_ratio(-3 * allowed, y, y_next) == pytest.approx(3.0, rel=1e-14)


def test_the_error_test_leaves_its_arguments_alone():
    y, y_next, error = vector(1.0, -5.0), vector(-2.0, 3.0), vector(0.1, 0.1)
    Tolerances(rtol=0.1, atol=0.01).error_ratio(error, y, y_next)
    Tolerances(rtol=0.1, atol=0.01).over(error, Tolerances(rtol=0.1, atol=0.01).allowed(y))
    Tolerances(rtol=0.1, atol=0.01).in_allowed_errors(error, y, y_next)
    assert (y.tolist(), y_next.tolist(), error.tolist()) == ([1.0, -5.0], [-2.0, 3.0], [0.1, 0.1])


def test_a_component_that_stays_zero_makes_no_relative_error():
    relative = Tolerances(rtol=0.1, atol=0.0)
    ratio = relative.error_ratio(vector(0.1, 0.0), vector(1.0, 0.0), vector(1.0, 0.0))
    assert ratio == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_error_that_is_not_finite_is_never_accepted(bad):
    tolerances = Tolerances(rtol=0.1, atol=0.01)
    ratio = tolerances.error_ratio(vector(bad, 0.0), vector(1.0, 1.0), vector(bad, 1.0))
    assert not ratio <= 1.0


def test_a_norm_may_return_a_number_but_not_several():
    settings = {"t_span": (0.0, 1.0), "y0": torch.ones(4, 2)}
    assert solve_ivp(lambda t, y: -y, norm=lambda x: float(x.abs().max()), **settings).success
    with pytest.raises(ValueError, match=r"norm must return one number, got shape \(4,\)"):
        solve_ivp(lambda t, y: -y, norm=lambda x: x.abs().amax(1), **settings)
