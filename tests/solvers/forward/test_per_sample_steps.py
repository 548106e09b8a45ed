"""``step_control="per_sample"``: every sample is solved as if it were alone."""

import gc
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.dynamics.mlp_tape import Arena
from skode.solvers import METHODS as METHODS_BY_NAME
from skode.solvers import free_idle_memory, solve_ivp
from skode.solvers.stepping.buffers import StageBuffers

METHODS = ["dopri5", "tsit5", "dopri8", "kvaerno5"]
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def van_der_pol(t, y):
    """Samples of position, velocity and their own stiffness, with a push that depends on time."""
    x, v, mu = y.unbind(-1)
    return torch.stack([v, mu * (1 - x**2) * v - x + 0.1 * torch.sin(t.reshape(-1)), torch.zeros_like(mu)], dim=-1)


def each(func, t_span, y0, **settings):
    return solve_ivp(func, t_span, y0, step_control="per_sample", **settings)


def alone(func, t_span, y0, i, **settings):
    return each(func, t_span, y0[i : i + 1], **settings)


def dop853(func, span, y0, times):
    def rates(t, y):
        return func(torch.tensor([[t]], dtype=torch.float64), torch.from_numpy(y)[None])[0].numpy()

    return scipy.integrate.solve_ivp(rates, span, y0.numpy(), "DOP853", times, rtol=1e-13, atol=1e-14).y.T


@pytest.fixture
def y0():
    """From easy to hard."""
    return torch.tensor(
        [[0.1, 0.0, 0.05], [2.0, 0.0, 1.0], [2.0, 0.0, 6.0], [-1.0, 0.5, 3.0]],
        dtype=torch.float64,
    )


@pytest.fixture
def mlp():
    return MLPField(3, (16, 16), generator=torch.Generator().manual_seed(0)).double()


class Forced(nn.Module):
    """A user's module: ``-k sin(y) + sin(w t)``, for states of any number of features."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, t, y):
        return -self.k * torch.sin(y) + torch.sin(self.w * t)


# Steps of 0.1, whatever rounding does to the error estimates.
EQUAL = {"first_step": 0.1, "max_step": 0.1, "rtol": 1e-1, "atol": 1e-1}
TIMES = [0.0, 0.7, 1.3, 3.0, 4.0]


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_solved_as_if_alone(method, y0):
    solution = each(van_der_pol, (0.0, 4.0), y0, method=method, t_eval=TIMES)
    assert solution.y.shape == (5, 4, 3)
    for i in range(4):
        lone = alone(van_der_pol, (0.0, 4.0), y0, i, method=method, t_eval=TIMES)
        torch.testing.assert_close(solution.y[:, i], lone.y[:, 0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_of_an_mlp_is_solved_as_if_alone(method, y0, mlp):
    # A batched product rounds otherwise than one of a single row. Where a step's error is a small part r of the
    # allowed one, down to 0.09^order, the next step, and so the solution, feels rounding 1 / r times.
    felt = 1e-15 / 0.09 ** METHODS_BY_NAME[method].error_order
    solution = each(mlp, (0.0, 4.0), y0, method=method, t_eval=TIMES)
    for i in range(4):
        lone = alone(mlp, (0.0, 4.0), y0, i, method=method, t_eval=TIMES)
        torch.testing.assert_close(solution.y[:, i], lone.y[:, 0], rtol=felt, atol=felt)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_steps_of_an_mlp_give_the_same_numbers(method, y0, mlp):
    settings = {"method": method, "t_eval": TIMES, **EQUAL}
    solution = each(mlp, (0.0, 4.0), y0, **settings)
    for i in range(4):
        lone = alone(mlp, (0.0, 4.0), y0, i, **settings)
        torch.testing.assert_close(solution.y[:, i], lone.y[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_batch_plays_no_part(method, y0):
    order = [2, 0, 3, 1]
    straight = each(van_der_pol, (0.0, 4.0), y0, method=method, t_eval=TIMES)
    shuffled = each(van_der_pol, (0.0, 4.0), y0[order], method=method, t_eval=TIMES)
    torch.testing.assert_close(shuffled.y, straight.y[:, order], rtol=1e-13, atol=1e-13)
    assert torch.equal(shuffled.n_accepted, straight.n_accepted[order])


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "bosh3"])
def test_cost_follows_each_samples_difficulty(method, y0):
    solution = each(van_der_pol, (0.0, 4.0), y0, method=method, t_eval=[4.0])
    for name in ("nfev", "n_accepted", "n_rejected"):
        counts = getattr(solution, name)
        assert counts.shape == (4,)
        lone = [
            int(getattr(alone(van_der_pol, (0.0, 4.0), y0, i, method=method, t_eval=[4.0]), name)) for i in range(4)
        ]
        assert counts.tolist() == lone
    assert solution.n_accepted[0] < solution.n_accepted[1] < solution.n_accepted[2]


@pytest.mark.parametrize("method", ["kvaerno3", "kvaerno5", "adaptive_heun", "fehlberg2"])
def test_the_steps_of_other_methods_are_those_of_the_sample_alone(method, y0):
    # Newton's iterations, and first stages evaluated anew, are made for the whole active: the steps are not.
    solution = each(van_der_pol, (0.0, 4.0), y0, method=method, t_eval=[4.0])
    for i in range(4):
        lone = alone(van_der_pol, (0.0, 4.0), y0, i, method=method, t_eval=[4.0])
        assert solution.n_accepted[i] == lone.n_accepted[0]
        assert solution.n_rejected[i] == lone.n_rejected[0]


def test_one_sample_takes_the_steps_of_shared_control(y0):
    for i in range(4):
        own = alone(van_der_pol, (0.0, 4.0), y0, i)
        shared = solve_ivp(van_der_pol, (0.0, 4.0), y0[i : i + 1])
        # Norms are summed in another order, and Van der Pol's equation is sensitive to where its steps end.
        torch.testing.assert_close(own.t[0], shared.t, rtol=1e-9, atol=0)
        torch.testing.assert_close(own.y[0], shared.y[:, 0], rtol=1e-9, atol=1e-9)
        assert int(own.nfev) == shared.nfev


def test_each_sample_meets_the_tolerance_where_shared_control_may_not():
    # One oscillator among a hundred at rest: the root mean square over the batch allows its error ten times too much.
    frequencies = torch.zeros(100, 1, dtype=torch.float64)
    frequencies[7] = 10.0
    y0 = torch.cat([torch.ones_like(frequencies), torch.zeros_like(frequencies), frequencies], dim=1)

    def oscillators(t, y):
        x, v, w = y.unbind(-1)
        return torch.stack([w * v, -w * x, torch.zeros_like(w)], dim=-1)

    settings = {"t_eval": [5.0], "rtol": 1e-9, "atol": 1e-9}
    expected = math.cos(50.0), -math.sin(50.0)

    def error(solution):
        return max(abs(float(solution.y[0, 7, j]) - expected[j]) for j in range(2))

    own = error(each(oscillators, (0.0, 5.0), y0, **settings))
    assert own < 1e-6
    assert error(solve_ivp(oscillators, (0.0, 5.0), y0, **settings)) > 3 * own


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "kvaerno5"])
def test_against_dop853_at_tight_tolerance(method, y0):
    tolerance = 1e-12 if method != "kvaerno5" else 1e-10
    solution = each(
        van_der_pol, (0.0, 4.0), y0, method=method, t_eval=TIMES, rtol=tolerance, atol=tolerance, max_steps=100_000
    )
    for i in range(4):
        expected = dop853(van_der_pol, (0.0, 4.0), y0[i], TIMES)
        np.testing.assert_allclose(solution.y[:, i], expected, rtol=0, atol=200 * tolerance)


SPANS = np.array([[0.0, 3.0], [2.0, -1.0], [1.0, 1.0], [-2.0, 0.5]])


def test_spans_per_sample_in_both_directions_and_of_no_length(y0):
    t_eval = torch.tensor(
        [
            [3.0, 1.5, 0.0, 1.5],
            [0.0, 2.0, -1.0, math.nan],
            [1.0, math.nan, 1.0, math.nan],
            [math.nan] * 4,
        ],
        dtype=torch.float64,
    )
    y0[1, 2] = 0.1  # backward in time it grows fast
    solution = each(van_der_pol, SPANS, y0, t_eval=t_eval, rtol=1e-11, atol=1e-12)
    assert solution.y.shape == (4, 4, 3)
    assert torch.equal(solution.t.isnan(), t_eval.isnan())
    assert torch.equal(solution.y.isnan().all(-1), t_eval.isnan())
    assert torch.equal(solution.y.isnan().any(-1), t_eval.isnan())
    for i in (0, 1):
        there = ~t_eval[i].isnan()
        times = t_eval[i][there].numpy()
        order = np.unique(times) if i == 0 else np.unique(times)[::-1]
        expected = dop853(van_der_pol, SPANS[i], y0[i], order)
        where = [int(np.flatnonzero(order == time)[0]) for time in times]
        np.testing.assert_allclose(solution.y[i][there], expected[where], rtol=0, atol=1e-9)
    assert torch.equal(solution.y[2, 0], y0[2])
    assert torch.equal(solution.y[2, 2], y0[2])
    assert solution.n_accepted[2] == 0
    assert solution.status.tolist() == [0, 0, 0, 0]


def test_without_t_eval_each_samples_own_steps_are_given_padded(y0):
    y0[1, 2] = 0.1
    solution = each(van_der_pol, SPANS, y0, **TIGHT)
    steps = solution.n_accepted
    assert solution.t.shape == (4, int(steps.max()) + 1)
    assert solution.y.shape == (*solution.t.shape, 3)
    for i, (t0, t1) in enumerate(SPANS):
        own = solution.t[i][: int(steps[i]) + 1]
        assert solution.t[i][int(steps[i]) + 1 :].isnan().all()
        assert solution.y[i][int(steps[i]) + 1 :].isnan().all()
        assert (own[0], own[-1]) == (t0, t1)
        assert (own.diff() * (t1 - t0) > 0).all()
        assert torch.equal(solution.y[i, 0], y0[i])
        if len(own) > 1:
            expected = dop853(van_der_pol, (t0, t1), y0[i], own.numpy())
            np.testing.assert_allclose(solution.y[i, : len(own)], expected, rtol=0, atol=1e-7)


def test_states_of_more_dimensions():
    y0 = torch.arange(12, dtype=torch.float64).view(3, 2, 2) / 10

    def field(t, y):
        assert t.ndim == 0 or t.shape == (len(y), 1, 1)
        return torch.cos(t) * y

    solution = each(field, (0.0, 2.0), y0, t_eval=[0.5, 2.0], **TIGHT)
    for j, t in enumerate((0.5, 2.0)):
        torch.testing.assert_close(solution.y[j], y0 * math.exp(math.sin(t)), rtol=1e-9, atol=1e-10)


def test_one_number_per_sample_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"needs y0 of shape \(batch, \.\.\.\), got \(3,\): .* y0\[:, None\]"):
        each(lambda t, y: -y * t, (0.0, 2.0), torch.ones(3, dtype=torch.float64))


def test_an_empty_batch():
    solution = each(lambda t, y: -y, (0.0, 1.0), torch.empty(0, 3, dtype=torch.float64), t_eval=[0.5, 1.0])
    assert solution.y.shape == (2, 0, 3)
    assert solution.nfev.shape == (0,)


@pytest.mark.parametrize("controller", ["I", "PI", "PID"])
def test_controllers_keep_each_samples_own_history(controller, y0):
    solution = each(van_der_pol, (0.0, 4.0), y0, controller=controller, t_eval=[4.0], rtol=1e-6, atol=1e-8)
    for i in range(4):
        lone = solve_ivp(
            van_der_pol, (0.0, 4.0), y0[i : i + 1], controller=controller, t_eval=[4.0], rtol=1e-6, atol=1e-8
        )
        assert (int(solution.n_accepted[i]), int(solution.n_rejected[i])) == (lone.n_accepted, lone.n_rejected)
        torch.testing.assert_close(solution.y[0, i], lone.y[0, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "norm", ["rms", "max", "mixed", lambda x: x[..., 0].abs().amax()], ids=["rms", "max", "mixed", "own"]
)
def test_norms_are_over_each_samples_features(norm, y0):
    solution = each(van_der_pol, (0.0, 4.0), y0, norm=norm, t_eval=[4.0], rtol=1e-6)
    accepted = []
    for i in range(4):
        lone = solve_ivp(van_der_pol, (0.0, 4.0), y0[i : i + 1], norm=norm, t_eval=[4.0], rtol=1e-6)
        accepted.append(lone.n_accepted)
        torch.testing.assert_close(solution.y[0, i], lone.y[0, 0], rtol=1e-12, atol=1e-12)
    assert solution.n_accepted.tolist() == accepted


def test_a_jump_is_met_by_every_sample():
    def switched(t, y):
        return torch.where(t < 1.0, torch.ones_like(t), -2 * torch.ones_like(t)) * torch.ones_like(y)

    y0 = torch.tensor([[0.0], [5.0]], dtype=torch.float64)
    solution = each(switched, (0.0, 3.0), y0, jump_t=[1.0], t_eval=[0.5, 1.0, 2.0, 3.0])
    expected = torch.tensor([0.5, 1.0, -1.0, -3.0], dtype=torch.float64).view(4, 1, 1) + y0
    torch.testing.assert_close(solution.y, expected, rtol=1e-14, atol=1e-14)
    assert (solution.n_rejected == 0).all()
    assert (each(switched, (0.0, 3.0), y0).n_rejected > 0).all()


def gradients(func, y0, wanted, **settings):
    """Of a sum of squares of the solution."""
    y = each(func, **{"t_span": (0.0, 2.0), "y0": y0, "t_eval": [0.5, 1.1, 2.0], **settings}).y
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).view(y.shape)
    loss = (weights * torch.where(y.isnan(), 0.0, y) ** 2).sum()
    return torch.autograd.grad(loss, wanted)


def fields(kind):
    if kind == "module":
        return Forced(), None
    if kind == "mlp":
        return MLPField(3, (16,), generator=torch.Generator().manual_seed(1)).double(), None
    rate = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    return (lambda t, y: -rate * torch.sin(y) * (1 + t)), rate


def assert_relative(ours, reference, tolerance):
    for ours_of, reference_of in zip(ours, reference, strict=True):
        assert (ours_of - reference_of).abs().max() <= tolerance * reference_of.abs().max()


@pytest.mark.parametrize("kind", ["module", "mlp", "closure"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["same span", "own spans"])
def test_the_discrete_gradient_is_that_of_backprop(kind, method, where, y0):
    func, closed_over = fields(kind)
    y0.requires_grad_()
    wanted = [y0, *(func.parameters() if closed_over is None else [closed_over])]
    settings = {"method": method, **(EQUAL if kind == "mlp" else {"rtol": 1e-5, "atol": 1e-7})}
    span, times = (0.0, 2.0), [0.5, 1.1, 2.0]
    if where == "own spans":
        span, times = SPANS, [[3.0, 0.4], [0.0, math.nan], [1.0, 1.0], [0.5, -1.9]]
    share = 1.0
    if method == "kvaerno5":  # Newton's iterations end within a part of the tolerance, not of rounding
        settings |= {"rtol": 1e-10, "atol": 1e-11}
        share = 0.25  # of the spans, for these are many steps
    settings["t_span"] = share * torch.tensor(span, dtype=torch.float64)
    settings["t_eval"] = share * torch.tensor(times, dtype=torch.float64)
    discrete = gradients(func, y0, wanted, adjoint="discrete", **settings)
    recomputed = gradients(func, y0, wanted, adjoint="discrete", memory_budget=0, **settings)
    backprop = gradients(func, y0, wanted, adjoint="backprop", **settings)
    assert_relative(discrete, backprop, 1e-11)
    assert_relative(recomputed, discrete, 1e-13)


@pytest.mark.parametrize("kind", ["module", "mlp", "closure"])
@pytest.mark.parametrize("where", ["same span", "own spans"])
def test_the_continuous_gradient_agrees_to_tolerance(kind, where, y0):
    func, closed_over = fields(kind)
    y0.requires_grad_()
    wanted = [y0, *(func.parameters() if closed_over is None else [closed_over])]
    settings = dict(TIGHT)
    if where == "own spans":
        settings["t_span"] = SPANS
        settings["t_eval"] = torch.tensor([[3.0, 0.4], [0.0, math.nan], [1.0, 1.0], [0.5, -1.9]]).double()
    continuous = gradients(func, y0, wanted, adjoint="continuous", **settings)
    discrete = gradients(func, y0, wanted, adjoint="discrete", **settings)
    assert_relative(continuous, discrete, 1e-7)


@pytest.mark.parametrize("kind", ["module", "mlp", "closure"])
def test_gradients_are_sums_of_the_samples_own(kind, y0):
    func, closed_over = fields(kind)
    parameters = list(func.parameters() if closed_over is None else [closed_over])

    def gradient(y0):
        loss = each(func, (0.0, 2.0), y0, t_eval=[0.7, 2.0]).y.pow(3).sum()
        return torch.autograd.grad(loss, parameters)

    together = gradient(y0)
    one_by_one = [sum(parts) for parts in zip(*(gradient(y0[i : i + 1]) for i in range(4)), strict=True)]
    assert_relative(together, one_by_one, 1e-12)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
def test_gradients_of_spans_and_output_times(method, adjoint):
    # y(t) = y0 exp(rate (t^2 - t0^2) / 2), by closed form
    rate = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64, requires_grad=True)
    t_span = torch.tensor([[0.0, 2.0], [2.0, 0.5], [-1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    t_eval = torch.tensor([[0.5, 1.5], [1.0, math.nan], [-0.5, 0.8]], dtype=torch.float64, requires_grad=True)
    wanted = (y0, rate, t_span, t_eval)
    settings = {"rtol": 1e-11, "atol": 1e-12, "max_steps": 100_000}

    def loss(y):
        return torch.where(t_eval.detach().isnan()[..., None], 0.0, y).square().sum()

    y = each(lambda t, y: rate * t * y, t_span, y0, t_eval=t_eval, method=method, adjoint=adjoint, **settings).y
    ours = torch.autograd.grad(loss(y), wanted, allow_unused=True)
    times = torch.where(t_eval.isnan(), 0.0, t_eval)
    exact = y0[:, None] * torch.exp(rate * (times**2 - t_span[:, :1] ** 2) / 2)[..., None]
    expected = torch.autograd.grad(loss(exact), wanted)
    for of_ours, of_exact in zip(ours, expected, strict=True):
        assert not of_ours.isnan().any()
        torch.testing.assert_close(of_ours, of_exact, rtol=1e-7, atol=1e-7)


def test_gradients_of_one_shared_span(adjoint):
    rate = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    t_span = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    y = each(lambda t, y: rate * t * y, t_span, y0, adjoint=adjoint, t_eval=t_span, **TIGHT).y
    ours = torch.autograd.grad(y[-1].sum(), (rate, t_span))
    exact = y0 * torch.exp(rate * (t_span[1] ** 2 - t_span[0] ** 2) / 2)
    expected = torch.autograd.grad(exact.sum(), (rate, t_span))
    torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("exact", ["discrete", "backprop"])
def test_gradcheck(exact):
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.2], [0.3, -0.5]], dtype=torch.float64, requires_grad=True)
    t_span = torch.tensor([[0.0, 1.0], [1.0, -0.5]], dtype=torch.float64, requires_grad=True)
    t_eval = torch.tensor([[0.3, 0.9], [0.0, -0.4]], dtype=torch.float64, requires_grad=True)

    def solved(y0, rate, t_span, t_eval):
        return each(
            lambda t, y: torch.tanh(rate * y) * torch.cos(t), t_span, y0, t_eval=t_eval, adjoint=exact, **TIGHT
        ).y

    # fast: along one random direction of each input
    inputs = (y0, rate, t_span, t_eval)
    assert torch.autograd.gradcheck(solved, inputs, eps=1e-6, atol=1e-6, rtol=1e-6, fast_mode=True)


def test_fixed_steps_are_the_same_for_all(y0):
    settings = {"method": "rk4", "step_size": 0.1, "t_eval": [1.0]}
    own = each(van_der_pol, (0.0, 1.0), y0, **settings)
    assert torch.equal(own.y, solve_ivp(van_der_pol, (0.0, 1.0), y0, **settings).y)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"y0": torch.tensor(1.0)}, "batch"),
        ({"step_control": "each"}, "step_control"),
        ({"dense_output": True}, "dense_output"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(settings, name):
    arguments = {"t_span": (0.0, 1.0), "y0": torch.ones(2, 1), "step_control": "per_sample", **settings}
    with pytest.raises(ValueError, match=name):
        solve_ivp(lambda t, y: -y, arguments.pop("t_span"), arguments.pop("y0"), **arguments)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "kvaerno3"])
def test_memory_is_handed_on_when_samples_leave(method):
    def live():
        return [x for x in gc.get_objects() if type(x) in (Arena, StageBuffers)]

    field = MLPField(2, (8,), generator=torch.Generator().manual_seed(0)).double()
    spans = torch.stack([torch.zeros(20, dtype=torch.float64), torch.linspace(0.1, 8.0, 20, dtype=torch.float64)], 1)
    free_idle_memory()
    gc.collect()
    before = len(live())
    gc.disable()  # what is left to the garbage collector comes back much later, if at all
    try:
        with torch.no_grad():
            solve_ivp(field, spans, torch.ones(20, 2, dtype=torch.float64), method=method, step_control="per_sample")
        assert len(live()) > before  # kept for the next solve ...
        free_idle_memory()
        assert len(live()) == before  # ... and by nobody else
    finally:
        gc.enable()


ROWS = torch.tensor([[1.0], [2.0], [30.0]])


@pytest.mark.parametrize(
    "func",
    [
        lambda t, y: -ROWS * y,  # fails in torch
        lambda t, y: -y * torch.nn.functional.linear(y, torch.eye(1))[torch.tensor([True, True, True])],
        lambda t, y: -torch.cat([y, ROWS], dim=1)[:, 1:] * y,
    ],
)
def test_tensors_of_one_row_per_sample_are_refused_by_name(func, adjoint):
    y0 = torch.tensor([[1.0], [2.0], [30.0]], requires_grad=True)
    with pytest.raises(ValueError, match=r"failed on \d of the 3 samples.*step_control='per_sample'.*take\(rows\)"):
        solve_ivp(func, (0.0, 1.0), y0, t_eval=[1.0], step_control="per_sample", adjoint=adjoint)


def test_events_of_one_threshold_per_sample_are_refused_by_name():
    with pytest.raises(ValueError, match=r"an event failed on \d of the 3 samples.*step_control='shared'"):
        solve_ivp(
            lambda t, y: -y * y,
            (0.0, 1.0),
            ROWS.clone(),
            step_control="per_sample",
            events=lambda t, y: y[:, 0] - ROWS[:, 0] / 2,
        )


def test_errors_of_the_field_that_have_other_reasons_stay_as_they_are():
    def func(t, y):
        if len(y) < 3:
            raise RuntimeError("the pump is broken")
        return -y * y

    with pytest.raises(RuntimeError, match=r"^the pump is broken$"):
        solve_ivp(func, (0.0, 1.0), ROWS.clone(), step_control="per_sample")
