"""Solves that can't be finished: they end soon, say why, and spare what is not concerned."""

import math
import pickle

import numpy as np
import pytest
import torch

from skode.solvers import (
    METHODS,
    ConvergenceError,
    MaxStepsError,
    NonFiniteDerivativeError,
    SolverError,
    StepSizeUnderflowError,
    odeint,
    solve_ivp,
)
from skode.solvers.forward.giving_up import LEAST_ULPS, MOST_EXITS, DomainExits, DomainExitsEach, is_too_short
from skode.solvers.stepping import implicit
from tests.solvers.problems import explode, ones

ALL = sorted(METHODS)
ADAPTIVE = [name for name in ALL if METHODS[name].adaptive]
FIXED = [name for name in ALL if not METHODS[name].adaptive]
EXPLICIT = [name for name in ALL if not getattr(METHODS[name], "implicit", False)]
EXPLICIT_ADAPTIVE = [name for name in ADAPTIVE if name in EXPLICIT]

soon = pytest.mark.timeout(60)  # far more than they need, also on a busy machine


def settings_of(method):
    return {"method": method} if METHODS[method].adaptive else {"method": method, "step_size": 0.1}


def always_nan(t, y):
    return y * math.nan


def always_inf(t, y):
    return y + math.inf


def nan_after_half(t, y):
    return torch.where(t > 0.5, math.nan, -y)


def stiff(t, y):
    return -1e8 * (y - torch.cos(t))


@soon
@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("field", [always_nan, always_inf])
def test_a_field_that_is_never_finite(method, field):
    with pytest.raises(NonFiniteDerivativeError) as caught:
        solve_ivp(field, (0.0, 1.0), ones(2, 3), **settings_of(method))
    assert caught.value.time == 0.0
    assert caught.value.sample == 0


@soon
@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_a_field_that_stops_being_finite(method, step_control):
    with pytest.raises(SolverError) as caught:
        solve_ivp(nan_after_half, (0.0, 1.0), ones(2, 3), step_control=step_control, **settings_of(method))
    assert isinstance(caught.value, (NonFiniteDerivativeError, ConvergenceError))
    assert 0.3 <= caught.value.time < 0.61


@soon
@pytest.mark.parametrize("method", ALL)
def test_a_solution_that_explodes(method):
    with pytest.raises(SolverError) as caught:
        solve_ivp(explode, (0.0, 3.0), ones(2, 1), **settings_of(method), rtol=1e-4)
    if method in ADAPTIVE:
        assert caught.value.time == pytest.approx(1.0, abs=0.05)
    assert math.isfinite(caught.value.step_size)


@soon
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_solution_that_explodes_in_one_sample_of_many(method):
    y0 = torch.tensor([[0.1], [1.0], [0.2]], dtype=torch.float64)
    with pytest.raises(SolverError) as caught:
        solve_ivp(explode, (0.0, 3.0), y0, method=method, step_control="per_sample", rtol=1e-4)
    assert caught.value.sample == 1
    assert caught.value.time == pytest.approx(1.0, abs=0.05)


@soon
@pytest.mark.parametrize("method", EXPLICIT_ADAPTIVE)
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_an_extremely_stiff_field_uses_up_the_steps_of_an_explicit_method(method, step_control):
    with pytest.raises(MaxStepsError, match="max_steps=200") as caught:
        solve_ivp(stiff, (0.0, 10.0), 2 * ones(2, 1), method=method, max_steps=200, step_control=step_control)
    assert "stiff" in caught.value.advice
    assert caught.value.time < 1.0


@soon
@pytest.mark.parametrize("method", [name for name in FIXED if name in EXPLICIT])
def test_an_extremely_stiff_field_blows_up_an_explicit_method_of_fixed_steps(method):
    with pytest.raises(NonFiniteDerivativeError):
        solve_ivp(stiff, (0.0, 30.0), 2 * ones(2, 1), method=method, step_size=0.1)


@soon
@pytest.mark.parametrize("method", ["kvaerno3", "kvaerno5", "radauIIA5", "implicit_euler"])
def test_an_extremely_stiff_field_is_solved_by_an_implicit_method(method):
    y = solve_ivp(stiff, (0.0, 1.0), 2 * ones(2, 1), t_eval=[1.0], **settings_of(method)).y
    torch.testing.assert_close(y[0], ones(2, 1) * math.cos(1.0), rtol=0, atol=2e-3)


@soon
@pytest.mark.parametrize("method", ALL)
def test_a_span_of_no_length_is_answered_at_its_start(method):
    y0 = ones(2, 3)
    for field in (explode, always_nan):
        solution = solve_ivp(field, (1.0, 1.0), y0, t_eval=[1.0], **settings_of(method))
        assert torch.equal(solution.y, y0[None])
        assert solution.success
    assert torch.equal(odeint(explode, y0, [1.0], method=method), y0[None])


@soon
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_tolerance_below_rounding_ends(method):
    with pytest.raises((MaxStepsError, StepSizeUnderflowError)):
        solve_ivp(
            lambda t, y: torch.sin(50 * y + t), (0.0, 10.0), torch.ones(3, 2), method=method, rtol=1e-14, atol=0.0,
            max_steps=300,
        )  # fmt: skip


@soon
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_an_overflow_of_float32_does_not_pass_for_an_answer(method, step_control):
    # Tolerances that float32 can meet, so that it is the overflow that ends it, not too many steps.
    settings = {"method": method, "step_control": step_control, "rtol": 1e-3, "atol": 1e-6}
    with pytest.raises(NonFiniteDerivativeError) as caught:
        solve_ivp(lambda t, y: 50 * y, (0.0, 10.0), torch.ones(2, 1), **settings)
    # The derivative overflows where 50 exp(50 t) is the largest float32, sums of stages somewhat before.
    assert caught.value.time == pytest.approx(math.log(3.4e38 / 50) / 50, rel=0.07)


# on_failure="nan"

TIMES = [0.0, 0.25, 0.5, 1.5, 2.0]


def enough_steps(method):
    """To come near an explosion; further ones of an implicit method cost seconds."""
    return 250 if METHODS[method].implicit else 2_000


def closed_form(y0, t):
    return y0 / (1 - y0 * t)


@soon
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "kvaerno5"])
def test_shared_steps_keep_the_outputs_up_to_the_failure(method):
    y0 = torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    settings = {"method": method, "t_eval": TIMES, "rtol": 1e-9, "atol": 1e-11, "max_steps": enough_steps(method)}
    solution = solve_ivp(explode, (0.0, 2.0), y0, on_failure="nan", **settings)
    assert (solution.status, solution.success) == (-1, False)
    for j in range(3):
        torch.testing.assert_close(solution.y[j], closed_form(y0, TIMES[j]), rtol=1e-7, atol=0)
    assert solution.y[3:].isnan().all()
    assert solution.t.tolist() == TIMES
    assert list(solution.failures) == [-1]
    assert solution.message == str(solution.failures[-1])
    assert solution.failures[-1].time == pytest.approx(1.0, abs=1e-3)


@soon
def test_the_steps_up_to_a_failure_are_given():
    solution = solve_ivp(explode, (0.0, 2.0), ones(1, 1), on_failure="nan", max_steps=50, rtol=1e-9, atol=1e-11)
    assert solution.status == -1
    torch.testing.assert_close(
        solution.y[:, 0, 0], closed_form(ones(), solution.t), rtol=1e-4, atol=0
    )  # the last ones are close to the singularity
    assert len(solution.t) == solution.n_accepted + 1
    assert solution.t[-1] < 1.0


@soon
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_keep_the_outputs_up_to_the_failure(method):
    settings = {"method": method, "step_size": 0.1, "t_eval": [0.1, 0.2, 0.9, 1.0]}
    solution = solve_ivp(nan_after_half, (0.0, 1.0), ones(2, 1), on_failure="nan", **settings)
    assert solution.status == -1
    regular = solve_ivp(lambda t, y: -y, (0.0, 1.0), ones(2, 1), **settings)
    torch.testing.assert_close(solution.y[:2], regular.y[:2], rtol=1e-12, atol=1e-12)
    assert solution.y[2:].isnan().all()


@soon
def test_a_field_that_is_never_finite_leaves_the_initial_state():
    solution = solve_ivp(always_nan, (0.0, 1.0), ones(2, 1), t_eval=[0.0, 0.5, 1.0], on_failure="nan")
    assert torch.equal(solution.y[0], ones(2, 1))
    assert solution.y[1:].isnan().all()
    assert isinstance(solution.failures[-1], NonFiniteDerivativeError)


@soon
def test_shared_outputs_before_a_failure_stay_differentiable(adjoint):
    y0 = torch.tensor([[1.0], [0.5]], dtype=torch.float64, requires_grad=True)
    y = solve_ivp(
        explode, (0.0, 2.0), y0, t_eval=TIMES, on_failure="nan", adjoint=adjoint, rtol=1e-9, atol=1e-11, max_steps=500
    ).y
    (ours,) = torch.autograd.grad(y[2].sum(), y0)
    (expected,) = torch.autograd.grad(closed_form(y0, 0.5).sum(), y0)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


@soon
def test_without_a_failure_nothing_changes():
    settings = {"t_eval": TIMES, "rtol": 1e-6}
    ours = solve_ivp(lambda t, y: -y, (0.0, 2.0), ones(2, 1), on_failure="nan", **settings)
    assert torch.equal(ours.y, solve_ivp(lambda t, y: -y, (0.0, 2.0), ones(2, 1), **settings).y)
    assert (ours.status, ours.success, ours.failures) == (0, True, {})


@soon
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "kvaerno5"])
def test_other_samples_are_spared(method):
    y0 = torch.tensor([[0.1], [1.0], [0.2], [0.8]], dtype=torch.float64)
    settings = {"step_control": "per_sample", "method": method, "t_eval": TIMES, "rtol": 1e-8, "atol": 1e-10}
    solution = solve_ivp(explode, (0.0, 2.0), y0, on_failure="nan", max_steps=enough_steps(method), **settings)
    assert solution.status.tolist() == [0, -1, 0, -1]
    assert solution.success.tolist() == [True, False, True, False]
    assert sorted(solution.failures) == [1, 3]
    for sample, error in solution.failures.items():
        assert error.sample == sample
        assert error.time == pytest.approx(1 / float(y0[sample]), abs=1e-3)
    assert solution.message in [str(error) for error in solution.failures.values()]
    spared = solve_ivp(explode, (0.0, 2.0), y0[[0, 2]], **settings)
    torch.testing.assert_close(solution.y[:, [0, 2]], spared.y, rtol=1e-13, atol=1e-13)
    for j in range(3):
        torch.testing.assert_close(solution.y[j, :, 0], closed_form(y0, TIMES[j])[:, 0], rtol=1e-6, atol=0)
    assert solution.y[3:, 1].isnan().all()
    assert solution.y[4, 3].isnan().all()


@soon
def test_other_samples_stay_differentiable(adjoint):
    y0 = torch.tensor([[0.1], [1.0], [0.2]], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y = solve_ivp(
        lambda t, y: rate * y**2, (0.0, 2.0), y0, t_eval=[1.5, 2.0], step_control="per_sample", on_failure="nan",
        adjoint=adjoint, rtol=1e-10, atol=1e-12, max_steps=500,
    ).y  # fmt: skip
    assert y[:, 1].isnan().all()
    ours = torch.autograd.grad(y[:, [0, 2]].square().sum(), (y0, rate))
    good = y0[[0, 2]]
    exact = torch.stack([good / (1 - rate * good * t) for t in (1.5, 2.0)])
    expected = torch.autograd.grad(exact.square().sum(), (y0, rate))
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


@soon
def root(k):
    """``y' = -k sqrt(y)``, whose solution ``(sqrt(y0) - k t / 2)^2`` leaves the field's domain where it is zero."""
    return lambda t, y: -k * torch.sqrt(torch.where(y > 0, y, math.nan))


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("t_eval", [[0.1, 0.3, 1.0], [[0.1, 0.3, 1.0], [0.3, 0.2, 0.9]]])
def test_outputs_before_a_failure_have_the_gradients_that_they_would_have_without(adjoint, step_control, t_eval):
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[4.0], [0.04]], dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-9, "atol": 1e-11, "adjoint": adjoint, "step_control": step_control, "on_failure": "nan"}
    times = torch.tensor(t_eval, dtype=torch.float64)
    y = solve_ivp(root(k), (0.0, 1.0), y0, t_eval=times, **settings).y
    times = times.T if times.ndim == 2 else times[:, None]
    y = y[..., 0].T if len(t_eval) == 2 else y[..., 0]
    exact = (y0[:, 0].sqrt() - k * times / 2) ** 2
    reached = ~y.isnan()
    assert reached.sum() == (5 if step_control == "per_sample" else 4)
    for i in range(2):
        found = torch.autograd.grad(y[reached[:, i], i].sum(), [k, y0], retain_graph=True)
        expected = torch.autograd.grad(exact[reached[:, i], i].sum(), [k, y0], retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reason", ["blow-up", "max_steps"])
def test_a_backward_pass_after_a_failure_does_not_fail(adjoint, reason):
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [0.01]], dtype=torch.float64)
    settings = {"rtol": 1e-8, "atol": 1e-10, "adjoint": adjoint, "step_control": "per_sample", "on_failure": "nan"}
    if reason == "max_steps":
        settings["max_steps"] = 25
    solution = solve_ivp(lambda t, y: a * y**2, (0.0, 2.0), y0, t_eval=[0.5, 2.0], **settings)
    assert solution.y[..., 0].isnan().tolist() == [[False, False], [True, False]]
    (found,) = torch.autograd.grad(torch.nan_to_num(solution.y).sum(), a)
    # y = 1 / (1 / y0 - a t), so that dy/da = t y^2
    expected = 0.5 * (1 / (1 - 0.5)) ** 2 + 0.5 / 99.5**2 + 2.0 / 98.0**2
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sample_whose_field_is_not_finite_from_the_start(bad):
    def field(t, y):
        return torch.where(y[:, :1] > 5.0, bad, -y)

    y0 = torch.tensor([[1.0, 2.0], [9.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    solution = solve_ivp(
        field, (0.0, 1.0), y0, t_eval=[0.0, 1.0], step_control="per_sample", on_failure="nan", rtol=1e-9, atol=1e-11
    )
    assert solution.status.tolist() == [0, -1, 0]
    assert torch.equal(solution.y[0], y0)
    assert solution.y[1, 1].isnan().all()
    torch.testing.assert_close(solution.y[1, [0, 2]], y0[[0, 2]] * math.exp(-1.0), rtol=1e-7, atol=0)
    assert isinstance(solution.failures[1], NonFiniteDerivativeError)


@soon
def test_all_samples_may_fail():
    solution = solve_ivp(
        explode, (0.0, 3.0), ones(3, 1), t_eval=[0.5, 3.0], step_control="per_sample", on_failure="nan", max_steps=200
    )
    assert solution.status.tolist() == [-1, -1, -1]
    assert solution.y[1].isnan().all()
    assert not solution.y[0].isnan().any()


@soon
def test_failures_without_t_eval_pad_the_samples_own_steps():
    y0 = torch.tensor([[0.1], [1.0]], dtype=torch.float64)
    solution = solve_ivp(explode, (0.0, 2.0), y0, step_control="per_sample", on_failure="nan", max_steps=100)
    assert solution.status.tolist() == [0, -1]
    assert solution.t[0].nan_to_num(-1.0).max() == 2.0
    assert solution.t[1].nan_to_num(-1.0).max() < 1.05


def test_unknown_answers_to_failure_are_refused():
    with pytest.raises(ValueError, match="on_failure"):
        solve_ivp(explode, (0.0, 1.0), ones(1, 1), on_failure="ignore")


# What errors say


@soon
def test_an_error_from_a_solve_says_where_how_and_what_to_try_and_survives_pickling():
    y0 = torch.tensor([[0.1], [1.0]], dtype=torch.float64)
    with pytest.raises(SolverError) as caught:
        solve_ivp(explode, (0.0, 3.0), y0, step_control="per_sample", max_steps=1_000)
    error = caught.value
    assert error.sample == 1
    assert "sample 1" in str(error)
    assert error.reason in str(error)
    assert error.advice in str(error)
    assert f"t={error.time:.6g}" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    for name in ("reason", "time", "step_size", "sample", "advice"):
        assert getattr(again, name) == getattr(error, name)


@soon
def test_too_many_steps_are_counted_for_each_sample():
    y0 = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    easy = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, step_control="per_sample", rtol=1e-8, atol=1e-8)
    attempts = int((easy.n_accepted + easy.n_rejected).max())
    solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, step_control="per_sample", rtol=1e-8, atol=1e-8, max_steps=attempts)
    with pytest.raises(MaxStepsError):
        solve_ivp(
            lambda t, y: -y, (0.0, 1.0), y0, step_control="per_sample", rtol=1e-8, atol=1e-8, max_steps=attempts - 1
        )


# One policy for steps of all samples, of each sample, and ahead of the host


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
