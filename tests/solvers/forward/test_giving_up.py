"""When a solve can't go on: one policy for steps of all samples, of each sample, and ahead of the host."""

import math

import numpy as np
import pytest
import torch

from skode.solvers import ConvergenceError, NonFiniteDerivativeError, SolverError, StepSizeUnderflowError, solve_ivp
from skode.solvers.forward.giving_up import LEAST_ULPS, MOST_EXITS, DomainExits, DomainExitsEach, is_too_short
from skode.solvers.stepping import implicit


def verdict(exits, *arguments, **settings):
    try:
        exits.check(*arguments, **settings)
    except SolverError as error:
        return type(error), error.time, error.step_size
    return None


def drawn(rng):
    """Attempts of one sample: present time, step size, ratio, and whether the step is good."""
    t, way = float(rng.choice([0.0, -3.0])), []
    for _ in range(400):
        h = 10.0 ** rng.uniform(-17, -1)
        ratio = float(rng.choice([0.5, 3.0, math.nan, math.inf], p=[0.1, 0.3, 0.3, 0.3]))
        way.append((t, h, ratio))
        if ratio <= 1.0:
            t += h * float(rng.choice([1.0, 1e-8]))
    return way


def test_steps_of_each_sample_are_given_up_as_shared_ones():
    rng, found = np.random.default_rng(0), []
    ways = [drawn(rng) for _ in range(20)]
    starts = np.array([way[0][0] for way in ways])
    each, shared, last = DomainExitsEach(starts), [DomainExits(float(t)) for t in starts], np.zeros(len(ways))
    for attempt in zip(*ways, strict=True):
        t, h, ratio = map(np.array, zip(*attempt, strict=True))
        too_short = is_too_short(t, h)
        assert too_short.tolist() == [h <= LEAST_ULPS * math.ulp(t) for t, h, _ in attempt]
        failed, error = each.check(t, h, last, too_short)
        for i, exits in enumerate(shared):
            expected = verdict(exits, *attempt[i][:2], last[i], too_short=bool(too_short[i]))
            assert bool(failed[i]) is (expected is not None)
            if expected is not None:
                one = error(i, i)
                assert (type(one), one.time, one.step_size, one.sample) == (*expected, i)
                found.append(expected[0])
            if not math.isfinite(ratio[i]):
                exits.note(float(t[i] + h[i]))
        each.note(t + h, ~np.isfinite(ratio))
        last = ratio
    assert set(found) == {NonFiniteDerivativeError, StepSizeUnderflowError}


def test_samples_that_are_left_keep_their_counts():
    each = DomainExitsEach(np.zeros(3))
    for _ in range(MOST_EXITS + 1):
        each.note(np.full(3, 0.5), np.array([False, True, False]))
    each.keep(np.array([False, True, True]))
    failed, error = each.check(np.zeros(2), np.full(2, 0.1), np.zeros(2), np.zeros(2, dtype=bool))
    assert failed.tolist() == [True, False]
    assert isinstance(error(0, 1), NonFiniteDerivativeError)


def test_steps_may_leave_the_domain_many_times_on_a_way_that_goes_on():
    exits = DomainExits(0.0)
    for k in range(1, 10):
        for _ in range(MOST_EXITS + 1):
            exits.note(k + 1.0)
        assert verdict(exits, float(k), 0.1, math.nan, too_short=False) is None
    for _ in range(MOST_EXITS + 1):
        exits.note(10.0)
    assert verdict(exits, 9.005, 0.1, math.nan, too_short=False) == (NonFiniteDerivativeError, 9.005, 0.1)


def ends(t, y):
    """Leaves its domain at 0.5."""
    return torch.where(t > 0.5, math.nan, -y)


def pole(t, y):
    """Finite on both sides of 0.5, with steps that the error test makes shorter without end."""
    return torch.where(t == 0.5, 1.0, 1 / (t - 0.5).abs() ** 3) + 0 * y


def close_to_the_end(t, y):
    """``1 / (0.5 - t)``, which is no number from 0.5 on."""
    return torch.where(t < 0.5, 1 / (0.5 - t) ** 3, math.nan) + 0 * y


@pytest.mark.parametrize("field", [ends, pole, close_to_the_end])
@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_all_loops_give_up_alike(field, method):
    y0 = torch.ones(1, 1, dtype=torch.float64)
    errors = []
    for step_control in ("shared", "per_sample"):
        with pytest.raises(SolverError) as caught:
            solve_ivp(field, (0.0, 1.0), y0, method=method, step_control=step_control, rtol=1e-6, atol=1e-9)
        errors.append(caught.value)
    shared, each = errors
    assert type(each) is type(shared)
    assert each.time == pytest.approx(shared.time, rel=1e-9)
    assert each.step_size == pytest.approx(shared.step_size, rel=0.5)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("solved_from", [0.1, 0.0])
def test_the_shortest_step_is_tried_before_a_solve_is_given_up(step_control, solved_from, monkeypatch):
    """Where Newton's method does not solve the equations of longer ones."""
    attempt, sizes = implicit.ImplicitStepper.attempt, []

    def unsolved(self, t, h, y, *edges):
        step = attempt(self, t, h, y, *edges)
        size = float(h.abs().max() if isinstance(h, torch.Tensor) else abs(h))
        sizes.append(size)
        if size > solved_from * 1.001:
            self.failed = torch.ones(len(y), dtype=torch.bool)
            step.unsolved = self.failed.numpy()
        return step

    monkeypatch.setattr(implicit.ImplicitStepper, "attempt", unsolved)
    settings = {"method": "kvaerno3", "min_step": 0.1, "first_step": 0.15, "step_control": step_control}
    y0 = torch.ones(2, 1, dtype=torch.float64)
    if solved_from:
        solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, **settings)
    else:
        with pytest.raises(ConvergenceError) as caught:
            solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, **settings)
        assert (caught.value.time, caught.value.step_size) == (0.0, 0.1)
    assert sizes[:2] == pytest.approx([0.15, 0.1])
