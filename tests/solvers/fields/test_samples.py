"""Functions with data of each sample: closed forms, on every road where samples leave the batch."""

import pytest
import torch
from torch import nn

from skode.solvers import TakesSamples, solve_ivp

RATES = [0.3, 2.0, 0.8, 5.0, 1.2]
ENDS = [1.0, 0.2, 2.0, 0.6, 1.5]


class Decay(nn.Module):
    """``dy/dt = -k_i y + sin(t)``, where sample i has a rate of its own."""

    def __init__(self, rates, size=2):
        super().__init__()
        self.rates, self.size = rates, size

    def forward(self, t, y):
        assert len(y) == len(self.rates)
        return -self.rates * y + torch.sin(torch.as_tensor(t)).reshape(-1, *[1] * (y.ndim - 1))

    def take(self, rows):
        return Decay(self.rates[rows], self.size)


class WithPullback:
    """``dy/dt = w tanh(c_i y)`` with a pullback of its own: ``w`` is a parameter, ``c`` is data of the samples."""

    def __init__(self, w, c):
        self.w, self.c = w, c

    def parameters(self):
        return [self.w]

    def take(self, rows):
        return WithPullback(self.w, self.c[rows])

    def __call__(self, t, y):
        return self.w * torch.tanh(self.c * y)

    def linearize(self, t, y):
        tanh = torch.tanh(self.c * y)
        return self.w * tanh, (tanh, self.c)

    def pullback(self, residuals, cotangent):
        tanh, c = residuals
        return cotangent * self.w * c * (1 - tanh**2), cotangent

    def parameter_gradients(self, tape):
        return [sum((cotangent * residuals[0]).sum() for residuals, cotangent in tape)]


def exact(k, y0, t):
    """The closed form of :class:`Decay`."""
    return torch.exp(-k * t) * (y0 + 1 / (1 + k**2)) + (k * torch.sin(t) - torch.cos(t)) / (1 + k**2)


def setting(dtype=torch.float64):
    ends = torch.tensor(ENDS, dtype=torch.float64)
    span = torch.stack([torch.zeros_like(ends), ends], dim=1)
    log_rates = torch.tensor(RATES, dtype=dtype).log()[:, None].requires_grad_()
    y0 = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype).requires_grad_()
    return span, log_rates, y0


def test_the_protocol_is_recognised():
    assert isinstance(Decay(torch.ones(1, 1)), TakesSamples)
    assert not isinstance(nn.Tanh(), TakesSamples)


@pytest.mark.parametrize("method", ["dopri5", "kvaerno3"])
@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
@pytest.mark.parametrize("derived", [False, True], ids=["leaf", "computed"])
def test_each_sample_keeps_its_own_data(method, adjoint, derived):
    span, log_rates, y0 = setting()
    rates = log_rates.exp() if derived else log_rates.detach().exp().requires_grad_()
    wanted = [y0, log_rates if derived else rates]
    tol = 1e-6 if method.startswith("kvaerno") else 1e-8
    options = {"method": method, "adjoint": adjoint, "rtol": tol, "atol": tol, "step_control": "per_sample"}
    y = solve_ivp(Decay(rates), span, y0, t_eval=span[:, 1:], **options).y[:, 0]
    expected = exact(rates, y0, span[:, 1:])
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    weights = torch.arange(1.0, 11.0, dtype=torch.float64).view(5, 2)
    ours = torch.autograd.grad((weights * y).sum(), wanted, retain_graph=True)
    theirs = torch.autograd.grad((weights * expected).sum(), wanted)
    for gradient, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("options", [{}, {"memory_budget": 0}, {"adjoint": "backprop"}], ids=str)
def test_data_of_the_samples_with_a_pullback_of_ones_own(options):
    span, log_rates, y0 = setting()
    w, c = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True), log_rates.detach().exp()
    tight = {"rtol": 1e-9, "atol": 1e-9, "t_eval": span[:, 1:]}
    y = solve_ivp(WithPullback(w, c), span, y0, step_control="per_sample", **tight, **options).y[:, 0]
    ours = torch.autograd.grad(y.square().sum(), [y0, w], retain_graph=True)
    # sinh(c y) grows by exp(w c t)
    expected = torch.asinh(torch.sinh(c * y0) * torch.exp(w * c * span[:, 1:])) / c
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-7)
    for gradient, truth in zip(ours, torch.autograd.grad(expected.square().sum(), [y0, w]), strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_jumps_find_the_samples_that_meet_them(adjoint):
    """A sample's input switches from 0 to its own height at a time that all share."""
    span, log_rates, y0 = setting()
    heights = log_rates.detach().exp().requires_grad_()
    tau = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)

    class Switched:
        def __init__(self, heights):
            self.heights = heights

        def take(self, rows):
            return Switched(self.heights[rows])

        def __call__(self, t, y):
            return self.heights * (torch.as_tensor(t) >= tau.detach()).to(y) + 0 * y

    options = {"step_control": "per_sample", "adjoint": adjoint, "rtol": 1e-8, "atol": 1e-8, "jump_t": tau}
    y = solve_ivp(Switched(heights), span, y0, t_eval=span[:, 1:], **options).y[:, 0]
    expected = y0 + heights * (span[:, 1:] - tau).clamp_min(0.0)
    torch.testing.assert_close(y, expected)
    ours = torch.autograd.grad(y.sum(), [tau, heights])
    for gradient, truth in zip(ours, torch.autograd.grad(expected.sum(), [tau, heights]), strict=True):
        torch.testing.assert_close(gradient, truth)


def test_events_have_data_of_the_samples_too():
    thresholds = torch.tensor([0.9, 0.5, 0.1, 0.7], dtype=torch.float64)[:, None]

    class Below:
        terminal = True

        def __init__(self, levels):
            self.levels = levels

        def take(self, rows):
            return Below(self.levels[rows])

        def __call__(self, t, y):
            return (y - self.levels)[:, 0]

    rates = torch.tensor([0.3, 2.0, 0.8, 5.0], dtype=torch.float64)[:, None]

    class Plain(Decay):
        def forward(self, t, y):
            return -self.rates * y

        def take(self, rows):
            return Plain(self.rates[rows])

    solution = solve_ivp(
        Plain(rates),
        (0.0, 10.0),
        torch.ones(4, 1, dtype=torch.float64),
        events=Below(thresholds),
        step_control="per_sample",
        rtol=1e-9,
        atol=1e-9,
    )
    torch.testing.assert_close(solution.t_events[0], -thresholds.log() / rates, rtol=1e-6, atol=1e-7)


def test_samples_that_fail_leave_the_others_their_data():
    span, _, y0 = setting()

    class Failing(Decay):
        def forward(self, t, y):
            rates = super().forward(t, y)
            late = (self.rates == RATES[2]) & (torch.as_tensor(t).reshape(-1, 1) > 0.5)
            return torch.where(late | (self.rates == RATES[0]), torch.nan, rates)

        def take(self, rows):
            return Failing(self.rates[rows])

    rates = torch.tensor(RATES, dtype=torch.float64)[:, None]
    options = {"step_control": "per_sample", "on_failure": "nan", "rtol": 1e-8, "atol": 1e-8}
    solution = solve_ivp(Failing(rates), span, y0.detach(), t_eval=span[:, 1:], **options)
    assert solution.status.tolist() == [-1, 0, -1, 0, 0]
    good = [1, 3, 4]
    torch.testing.assert_close(solution.y[good, 0], exact(rates, y0, span[:, 1:])[good].detach(), rtol=1e-6, atol=1e-7)


def test_functions_in_other_clothes_keep_their_data():
    """Complex states, times in float64, states differentiated inside: wrappers hand on what they wrap."""
    rates = torch.tensor(RATES)[:, None]

    class Complex(Decay):
        def forward(self, t, y):
            return 1j * self.rates * y

        def take(self, rows):
            return Complex(self.rates[rows])

    ends = torch.tensor(ENDS)
    span = torch.stack([torch.zeros_like(ends), ends], dim=1)
    options = {"step_control": "per_sample", "rtol": 1e-6, "atol": 1e-6}
    y = solve_ivp(Complex(rates), span, torch.ones(5, 1) + 0j, t_eval=span[:, 1:], **options).y[:, 0]
    torch.testing.assert_close(y, torch.exp(1j * rates * span[:, 1:]), rtol=1e-3, atol=1e-4)

    class Clock(Decay):
        def forward(self, t, y):
            return self.rates * (torch.as_tensor(t) - 1.7e9).to(y) + 0 * y

        def take(self, rows):
            return Clock(self.rates[rows])

    late = span.double() + 1.7e9
    y = solve_ivp(Clock(rates), late, torch.zeros(5, 1), t_eval=late[:, 1:], **options).y[:, 0]
    torch.testing.assert_close(y, 0.5 * rates * span[:, 1:] ** 2, rtol=1e-3, atol=1e-4)

    class Gradient(Decay):
        def forward(self, t, y):
            return -torch.autograd.grad((0.5 * self.rates * y.square()).sum(), y, create_graph=True)[0]

        def take(self, rows):
            return Gradient(self.rates[rows])

    y = solve_ivp(Gradient(rates), span, torch.ones(5, 1), t_eval=span[:, 1:], **options).y[:, 0]
    torch.testing.assert_close(y, torch.exp(-rates * span[:, 1:]), rtol=1e-3, atol=1e-4)


def test_a_function_without_a_part_is_told_how_to_have_one():
    class Whole(Decay):
        take = None

    span, log_rates, y0 = setting()
    rates = log_rates.detach().exp()
    with pytest.raises(ValueError, match=r"take\(rows\)"):
        solve_ivp(lambda t, y: -rates * y, span, y0, t_eval=span[:, 1:], step_control="per_sample")


def test_one_solve_per_sample_is_what_it_is_alone():
    span, log_rates, y0 = setting()
    rates = log_rates.detach().exp()
    options = {"step_control": "per_sample", "rtol": 1e-5, "atol": 1e-6}
    together = solve_ivp(Decay(rates), span, y0, t_eval=span[:, 1:], **options)
    for i in range(5):
        one = solve_ivp(Decay(rates[[i]]), span[[i]], y0[[i]], t_eval=span[[i], 1:], **options)
        torch.testing.assert_close(together.y[[i]], one.y, rtol=1e-12, atol=1e-12)
        assert int(together.nfev[i]) == int(one.nfev[0])


class Rates(nn.Module):
    def __init__(self, rates):
        super().__init__()
        self.rates = nn.Parameter(rates)

    def forward(self, t, y):
        return -self.rates * y

    def take(self, rows):
        return lambda t, y: -self.rates[rows] * y


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_a_part_that_has_no_parts_is_taken_of_the_whole(adjoint):
    span, log_rates, y0 = setting()
    field = Rates(log_rates.detach().exp())
    options = {"step_control": "per_sample", "adjoint": adjoint, "rtol": 1e-8, "atol": 1e-8}
    y = solve_ivp(field, span, y0, t_eval=span[:, 1:], **options).y[:, 0]
    expected = y0 * torch.exp(-field.rates * span[:, 1:])
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-7)
    ours, truth = (torch.autograd.grad(x.sum(), [y0, field.rates]) for x in (y, expected))
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("take", "error", "message"),
    [
        (lambda self, rows: Rates(self.rates[rows]), ValueError, "makes new nn.Parameters"),
        (lambda self, rows: None, TypeError, r"take\(rows\) of func must return a function"),
        (lambda self: self, TypeError, "positional argument"),
    ],
    ids=["new parameters", "nothing", "no rows"],
)
def test_parts_that_can_not_be_right_are_refused(take, error, message):
    span, log_rates, y0 = setting()
    kind = type("Wrong", (Rates,), {"take": take})
    with pytest.raises(error, match=message):
        solve_ivp(kind(log_rates.detach().exp()), span, y0, t_eval=span[:, 1:], step_control="per_sample")


def test_what_is_called_take_and_is_no_function_has_no_part():
    field = Decay(torch.tensor([[0.5]]))
    field.take = 3
    y = solve_ivp(field, (0.0, 1.0), torch.ones(1, 1), t_eval=[1.0], step_control="per_sample").y
    assert torch.isfinite(y).all()
