"""The error test and the choice of the first step and the next one (Hairer, Norsett, Wanner I, section II.4)."""

import math

import numpy as np
import pytest
import torch

from skode.solvers.forward.step_size import CONTROLLERS, Controller, ControllerEach, first_step_size, first_step_sizes
from skode.solvers.tolerances import NORMS, EachSample, Tolerances
from tests.solvers.problems import vector

ELEMENTARY = (1.0, 0.0, 0.0)


def first_step(rate, y0, *, t=0.0, span=10.0, order=4, rtol=1e-6, atol=1e-6):
    y0 = vector(*y0)
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
    y0 = vector(*y0)
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
        lambda t, y: y * math.nan, 0.0, vector(1.0), vector(1.0), span=1.0, order=4, tolerances=tolerances
    )
    assert 0 < h <= 1.0


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("span", [10.0, -10.0, 1e-5])
def test_first_steps_of_a_batch_are_those_of_its_samples(norm, span):
    y = torch.tensor([[1.0, 2.0], [0.0, 0.0], [1e-30, 1.0], [300.0, -1.0], [2.0, 2.0]], dtype=torch.float64)
    starts, tolerances = np.array([0.0, 1.0, -2.0, 0.5, 3.0]), Tolerances(1e-6, 1e-8, NORMS[norm])

    def field(t, y):
        return torch.where(y > 250.0, math.nan, torch.sin(3 * y) + t * y)

    def column(values):
        return torch.from_numpy(values)[:, None]

    def evaluate(t, y):
        return field(column(t), y)

    f = field(column(starts), y)
    f[3] = 1e35
    f[4] = math.inf
    found = first_step_sizes(
        evaluate, column, starts, y, f, span=np.full(5, span), order=4, measure=EachSample(tolerances)
    )
    for i in range(5):
        one = slice(i, i + 1)
        alone = first_step_size(
            lambda t, y: field(t, y), starts[i], y[one], f[one], span=span, order=4, tolerances=tolerances
        )
        assert found[i] == pytest.approx(alone, rel=1e-13)


@pytest.mark.parametrize("error_order", [2, 4])
def test_the_step_factor_aims_at_the_allowed_error(error_order):
    # An error of order h^(q+1) that is 0.5 of the allowed one would be 0.9^(q+1) of it after the change.
    factor = Controller(ELEMENTARY, error_order).factor(0.5)
    assert 0.5 * factor ** (error_order + 1) == pytest.approx(0.9 ** (error_order + 1))


def test_the_controllers_are_soderlinds():
    # H_0 110, PI.4.2 and H_0 312 of Soderlind 2003, table I.
    assert CONTROLLERS["I"] == ELEMENTARY
    assert CONTROLLERS["PI"] == pytest.approx((3 / 5, -1 / 5, 0.0))
    assert CONTROLLERS["PID"] == pytest.approx((1 / 18, 1 / 9, 1 / 18))


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_accepted_ratios_enter_with_their_exponents(name):
    b1, b2, b3 = CONTROLLERS[name]
    controller = Controller(CONTROLLERS[name], 4)
    before = [1.0, 1.0]
    for ratio in (0.5, 0.9, 0.3, 0.7, 0.05):
        expected = 0.9 * ratio ** (-b1 / 5) * before[0] ** (-b2 / 5) * before[1] ** (-b3 / 5)
        assert 0.2 < expected < 10.0
        assert controller.factor(ratio) == pytest.approx(expected, rel=1e-14)
        before = [ratio, before[0]]


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_rejected_ratios_do_not_enter_the_history(name):
    smooth, disturbed = Controller(CONTROLLERS[name], 4), Controller(CONTROLLERS[name], 4)
    for ratio in (0.5, 0.9):
        assert smooth.factor(ratio) == disturbed.factor(ratio)
    for ratio in (5.0, math.nan, 2.0):
        disturbed.factor(ratio)
    assert disturbed.factor(0.95) == min(1.0, smooth.factor(0.95))
    assert disturbed.factor(0.6) == smooth.factor(0.6)


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_the_step_factor_after_a_rejection_is_the_elementary_one(name):
    assert Controller(CONTROLLERS[name], 4).factor(3.0) == pytest.approx(0.9 * 3.0 ** (-1 / 5), rel=1e-14)


def test_the_step_factor_is_bounded():
    assert Controller(ELEMENTARY, 4).factor(1e-30) == 10.0
    assert Controller(ELEMENTARY, 4).factor(0.0) == 10.0
    assert Controller(ELEMENTARY, 4).factor(1e30) == 0.2
    assert Controller(ELEMENTARY, 4).factor(math.nan) == 0.1


@pytest.mark.parametrize("rejected", [1.5, math.nan])
def test_the_step_size_does_not_grow_right_after_a_rejection(rejected):
    for ratio, expected in ((0.0, 1.0), (1e-5, 1.0), (0.9, 0.9 * 0.9 ** (-1 / 5))):
        controller = Controller(ELEMENTARY, 4)
        controller.factor(rejected)
        assert controller.factor(ratio) == pytest.approx(expected, rel=1e-14)
        assert controller.factor(1e-5) > 1.0


@pytest.mark.parametrize("name", list(CONTROLLERS))
@pytest.mark.parametrize("ratio", [1.0000001, 2.0, 1e5, math.nan, math.inf])
def test_a_rejected_step_always_shrinks(name, ratio):
    controller = Controller(CONTROLLERS[name], 4)
    assert [controller.factor(ratio) < 1.0 for _ in range(3)] == [True] * 3


@pytest.mark.parametrize("name", list(CONTROLLERS))
@pytest.mark.parametrize("error_order", [1, 4])
def test_the_controller_of_many_is_as_many_controllers(name, error_order):
    n, generator = 7, np.random.default_rng(0)
    together = ControllerEach(CONTROLLERS[name], error_order, n)
    alone = [Controller(CONTROLLERS[name], error_order) for _ in range(n)]
    for attempt in range(60):
        ratios = np.exp(generator.normal(0.0, 2.0, len(alone)))
        special = generator.random(len(alone))
        for value, share in ((math.nan, 0.05), (math.inf, 0.1), (0.0, 0.15), (1.0, 0.2), (1e-30, 0.25)):
            ratios = np.where((special < share) & (special >= share - 0.05), value, ratios)
        expected = [one.factor(ratio) for one, ratio in zip(alone, ratios.tolist(), strict=True)]
        np.testing.assert_allclose(together.factor(ratios), expected, rtol=1e-14)
        if attempt == 30:
            stay = np.array([True, False, True, True, False, True, True])
            together.keep(stay)
            alone = [one for one, kept in zip(alone, stay, strict=True) if kept]
