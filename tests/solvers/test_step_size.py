"""The error test and the choice of the first step and the next one (Hairer, Norsett, Wanner I, section II.4)."""

import math

import pytest
import torch

from skode.solvers.step_size import Tolerances, first_step_size, rms_norm, step_factor


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_rms_norm_does_not_depend_on_how_often_a_state_is_repeated():
    x = tensor(3.0, 4.0)
    assert rms_norm(x).item() == pytest.approx(5 / math.sqrt(2))
    assert rms_norm(x.repeat(1000)).item() == pytest.approx(5 / math.sqrt(2))


def test_rms_norm_of_nothing_is_zero():
    assert rms_norm(torch.empty(0, 3)).item() == 0.0


def test_error_ratio_is_one_where_every_error_is_just_allowed():
    tolerances = Tolerances(rtol=0.1, atol=0.01)
    y, y_next = tensor(1.0, -5.0), tensor(-2.0, 3.0)
    allowed = tensor(0.01 + 0.1 * 2.0, 0.01 + 0.1 * 5.0)
    assert tolerances.error_ratio(allowed, y, y_next) == pytest.approx(1.0, rel=1e-14)
    assert tolerances.error_ratio(-3 * allowed, y, y_next) == pytest.approx(3.0, rel=1e-14)


def test_the_error_test_leaves_its_arguments_alone():
    y, y_next, error = tensor(1.0, -5.0), tensor(-2.0, 3.0), tensor(0.1, 0.1)
    Tolerances(rtol=0.1, atol=0.01).error_ratio(error, y, y_next)
    Tolerances(rtol=0.1, atol=0.01).scaled_size(error, y)
    assert (y.tolist(), y_next.tolist(), error.tolist()) == ([1.0, -5.0], [-2.0, 3.0], [0.1, 0.1])


def test_a_component_that_stays_zero_makes_no_relative_error():
    relative = Tolerances(rtol=0.1, atol=0.0)
    ratio = relative.error_ratio(tensor(0.1, 0.0), tensor(1.0, 0.0), tensor(1.0, 0.0))
    assert ratio == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_error_that_is_not_finite_is_never_accepted(bad):
    tolerances = Tolerances(rtol=0.1, atol=0.01)
    ratio = tolerances.error_ratio(tensor(bad, 0.0), tensor(1.0, 1.0), tensor(bad, 1.0))
    assert not ratio <= 1.0


def first_step(rate, y0, *, t=0.0, span=10.0, order=4, rtol=1e-6, atol=1e-6):
    y0 = tensor(*y0)
    return first_step_size(
        lambda t, y: rate * y, t, y0, rate * y0, span=span, order=order, tolerances=Tolerances(rtol, atol)
    )


def test_first_step_is_smaller_for_faster_problems_and_tighter_tolerances():
    assert first_step(-10.0, [1.0]) < first_step(-1.0, [1.0]) < first_step(-0.1, [1.0])
    assert first_step(-1.0, [1.0], rtol=1e-9, atol=1e-9) < first_step(-1.0, [1.0])


def test_first_step_of_a_first_order_method_makes_about_a_hundredth_of_the_allowed_error():
    # h^(p+1) max(|y'|, |y''|) / tolerance = 0.01, by definition; here y'' = y.
    h = first_step(-1.0, [1.0], order=1, rtol=0.0, atol=1e-4)
    assert h**2 * 1.0 / 1e-4 == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("span", [1e-9, -1e-9, 5.0, -5.0])
def test_first_step_goes_with_time_and_not_beyond_the_span(span):
    h = first_step(-1.0, [1.0], span=span)
    assert 0 < abs(h) <= abs(span)
    assert math.copysign(1.0, h) == math.copysign(1.0, span)


@pytest.mark.parametrize("y0", [[0.0], [1.0, 0.0], [1e-30]])
@pytest.mark.parametrize("atol", [0.0, 1e-9])
def test_first_step_is_positive_where_components_are_zero(y0, atol):
    y0 = tensor(*y0)
    tolerances = Tolerances(1e-6, atol)
    h = first_step_size(
        lambda t, y: torch.ones_like(y), 0.0, y0, torch.ones_like(y0), span=1.0, order=4, tolerances=tolerances
    )
    assert 0 < h <= 1.0


def test_first_step_is_found_where_the_derivative_is_beyond_measure():
    # 1e35 / 1e-9 is infinite in float32.
    f = torch.tensor([1e35])
    tolerances = Tolerances(1e-6, 1e-9)
    h = first_step_size(lambda t, y: f, 0.0, torch.tensor([1.0]), f, span=1.0, order=4, tolerances=tolerances)
    assert 0 < h <= 1.0


def test_first_step_is_found_where_the_field_ends_next_to_the_start():
    tolerances = Tolerances(1e-6, 1e-9)
    h = first_step_size(
        lambda t, y: y * math.nan, 0.0, tensor(1.0), tensor(1.0), span=1.0, order=4, tolerances=tolerances
    )
    assert 0 < h <= 1.0


@pytest.mark.parametrize("error_order", [2, 4])
def test_step_factor_aims_at_the_allowed_error(error_order):
    # An error of order h^(q+1) that is 0.5 of the allowed one would be 0.9^(q+1) of it after the change.
    factor = step_factor(0.5, error_order, after_rejection=False)
    assert 0.5 * factor ** (error_order + 1) == pytest.approx(0.9 ** (error_order + 1))


def test_step_factor_is_bounded():
    assert step_factor(1e-30, 4, after_rejection=False) == 10.0
    assert step_factor(0.0, 4, after_rejection=False) == 10.0
    assert step_factor(1e30, 4, after_rejection=False) == 0.2


def test_step_size_does_not_grow_right_after_a_rejection():
    assert step_factor(0.0, 4, after_rejection=True) == 1.0
    assert step_factor(1e-5, 4, after_rejection=True) == 1.0
    assert step_factor(0.9, 4, after_rejection=True) < 1.0


@pytest.mark.parametrize("ratio", [1.0000001, 2.0, 1e5, math.nan, math.inf])
def test_a_rejected_step_always_shrinks(ratio):
    for after_rejection in (False, True):
        assert step_factor(ratio, 4, after_rejection=after_rejection) < 1.0
