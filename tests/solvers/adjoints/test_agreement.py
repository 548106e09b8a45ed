"""All three adjoints against finite differences, against each other and against float64."""

import math

import pytest
import torch
from torch import nn

from skode.solvers import odeint, solve_ivp
from tests.solvers.problems import relative_error

FIXED = ("euler", "midpoint", "rk4")
# Steps as large as one likes where the derivative is that of the computed solution: by states and parameters, not by
# times, by which it is that of the exact one.
COARSE = {"euler": 0.07, "midpoint": 0.07, "rk4": 0.07, "bosh3": 0.03, "tsit5": 0.07, "dopri5": 0.07}
# Steps for which the derivative of the solution is that of the computed one to gradcheck's own tolerances.
FINE = {"euler": 2e-4, "midpoint": 2e-3, "rk4": 0.02, "bosh3": 0.01, "tsit5": 0.02, "dopri5": 0.02}


def field_of(w):
    """A field that depends on ``w`` through its closure, on time, and on the state nonlinearly."""
    return lambda t, y: torch.sin(w[0] * y + t) - w[1] * y.flip(-1)


@pytest.fixture
def y0():
    return torch.tensor([0.4, -0.7], dtype=torch.float64, requires_grad=True)


@pytest.fixture
def batch_of_three():
    return torch.linspace(-1, 1, 3, dtype=torch.float64)[:, None].requires_grad_()


@pytest.fixture
def w():
    return torch.tensor([1.3, 0.6], dtype=torch.float64, requires_grad=True)


def times(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def gradcheck(solve, *inputs, fast_mode=False):
    """Compare with finite differences all entries of the Jacobian or, in fast mode, one projection of it."""
    assert torch.autograd.gradcheck(solve, inputs, fast_mode=fast_mode)


def odeint_settings(settings):
    """Arguments of ``solve_ivp`` as those of ``odeint``."""
    in_options = ("first_step", "max_step", "step_size")
    options = {name: value for name, value in settings.items() if name in in_options}
    return {**{name: value for name, value in settings.items() if name not in in_options}, "options": options}


# Nowhere below does an output of the Euler method, whose interpolant has kinks there, lie at the end of a step, and
# nowhere is a time span a multiple of the step size, next to which the number of steps changes.


@pytest.mark.parametrize("t", [(0.1, 0.17, 0.371), (0.371, 0.19, 0.1)], ids=["forward", "backward"])
def test_exact_adjoints_of_odeint_pass_gradcheck(method, exact_adjoint, y0, w, t, equal_steps):
    settings = odeint_settings({**equal_steps(method, COARSE[method]), "adjoint": exact_adjoint})
    t = torch.tensor(t, dtype=torch.float64)
    gradcheck(lambda y0, w: odeint(field_of(w), y0, t, **settings), y0, w, fast_mode=bool(t[0] > t[-1]))


@pytest.mark.parametrize("t", [(0.1, 0.13, 0.1613), (0.1613, 0.12, 0.1)], ids=["forward", "backward"])
def test_the_continuous_adjoint_of_odeint_passes_gradcheck(method, y0, w, t, equal_steps):
    settings = odeint_settings({**equal_steps(method, FINE[method]), "adjoint": "continuous"})
    if method == "euler":  # in whose solution outputs depend on later times, by an error above gradcheck's 1e-5
        t = t[::2]
    gradcheck(lambda y0, w, t: odeint(field_of(w), y0, t, **settings), y0, w, times(*t), fast_mode=t[0] > t[-1])


def test_exact_adjoints_on_a_grid_of_output_times_pass_gradcheck(fixed_method, exact_adjoint, y0, w):
    settings = {"method": fixed_method, "adjoint": exact_adjoint}
    t = torch.tensor([0.1, 0.4, 1.0, 1.5], dtype=torch.float64)
    gradcheck(lambda y0, w: odeint(field_of(w), y0, t, **settings), y0, w)


def test_exact_adjoints_of_solve_ivp_pass_gradcheck(method, exact_adjoint, y0, w, equal_steps):
    settings = {**equal_steps(method, COARSE[method]), "adjoint": exact_adjoint}

    def solve(y0, w):
        return solve_ivp(field_of(w), (0.1, 0.351), y0, t_eval=[0.1234, 0.2345], **settings).y

    gradcheck(solve, y0, w)


def test_the_continuous_adjoint_of_solve_ivp_passes_gradcheck(method, y0, w, equal_steps):
    settings = {**equal_steps(method, FINE[method]), "adjoint": "continuous"}
    end = times(0.1613)[0].detach().requires_grad_(method != "euler")

    def solve(y0, w, start, t_eval, end=end):
        return solve_ivp(field_of(w), (start[0], end), y0, t_eval=t_eval, **settings).y

    inputs = (y0, w, times(0.1), times(0.1234, 0.1433))
    gradcheck(solve, *(inputs if method == "euler" else (*inputs, end)))


@pytest.fixture
def own_times():
    """Per-sample spans and output times, padded; one sample runs backward."""
    spans = torch.tensor([[0.1, 0.3], [0.4, 0.2], [0.0, 0.1]], dtype=torch.float64)
    fractions = torch.tensor([[0.3, 0.7, math.nan], [0.55, math.nan, math.nan], [0.9, 0.2, 0.2]], dtype=torch.float64)
    return spans, spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * fractions


def test_exact_adjoints_of_per_sample_spans_pass_gradcheck(
    method, exact_adjoint, batch_of_three, w, own_times, equal_steps
):
    spans, t_eval = own_times
    settings = {**equal_steps(method, 0.15), "adjoint": exact_adjoint}
    present = ~t_eval.isnan()

    def solve(y0, w):
        return solve_ivp(field_of(w), spans, y0, t_eval=t_eval, **settings).y[present]

    gradcheck(solve, batch_of_three, w, fast_mode=exact_adjoint == "backprop")


def test_the_continuous_adjoint_of_per_sample_spans_passes_gradcheck(method, batch_of_three, w, own_times, equal_steps):
    spans, t_eval = own_times
    size = {"euler": 2e-3, "midpoint": 0.04}.get(method, 0.2)
    settings = {**equal_steps(method, size), "adjoint": "continuous"}

    def solve(y0, w):
        return solve_ivp(field_of(w), spans, y0, t_eval=t_eval, **settings).y[~t_eval.isnan()]

    gradcheck(solve, batch_of_three, w, fast_mode=method == "euler")


def test_exact_adjoints_of_output_times_per_sample_on_one_span_pass_gradcheck(
    method, exact_adjoint, batch_of_three, w, equal_steps
):
    settings = {**equal_steps(method, 0.07), "adjoint": exact_adjoint}
    t_eval = torch.tensor([[0.11, 0.33], [0.22, 0.22], [0.4, 0.05]], dtype=torch.float64)

    def solve(y0, w):
        return solve_ivp(field_of(w), (0.0, 0.451), y0, t_eval=t_eval, **settings).y

    gradcheck(solve, batch_of_three, w, fast_mode=exact_adjoint == "backprop")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 16), nn.Softplus(), nn.Linear(16, 3)).double()


def gradients(network, y0, **settings):
    """Outputs, and gradients of a loss on all of them, as one flat tensor each."""
    y0 = y0.clone().requires_grad_()
    t = torch.linspace(0, 2, 6, dtype=y0.dtype)
    y = odeint(lambda t, y: network(y) * torch.cos(t), y0, t, **settings)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    found = torch.autograd.grad((weights * y).sum(), [y0, *network.parameters()])
    return y.detach().flatten(), torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_discrete_is_backprop_at_any_tolerance(adaptive_method, network, batch, rtol):
    settings = {"rtol": rtol, "atol": rtol, "method": adaptive_method}
    discrete = gradients(network, batch, **settings, adjoint="discrete")
    backprop = gradients(network, batch, **settings, adjoint="backprop")
    for one, other in zip(discrete, backprop, strict=True):
        assert relative_error(one, other) < 1e-12


def test_discrete_is_backprop_for_fixed_steps(fixed_method, network, batch):
    discrete = gradients(network, batch, method=fixed_method, adjoint="discrete")
    backprop = gradients(network, batch, method=fixed_method, adjoint="backprop")
    for one, other in zip(discrete, backprop, strict=True):
        assert relative_error(one, other) < 1e-12


@pytest.mark.parametrize("rtol", [1e-4, 1e-7])
def test_all_three_agree_to_the_tolerance(adaptive_method, network, batch, rtol):
    _, reference = gradients(network, batch, rtol=1e-9, atol=1e-9, adjoint="backprop")
    for adjoint in ("discrete", "continuous", "backprop"):
        _, found = gradients(network, batch, rtol=rtol, atol=rtol, method=adaptive_method, adjoint=adjoint)
        assert relative_error(found, reference) < 10 * rtol


def test_float32_is_as_exact_as_float32_can_be(method, network, batch):
    # The same steps in both, so that only rounding is left.
    settings = {"method": method, "rtol": 1e3, "atol": 1e3}
    settings["options"] = {"step_size": 0.05} if method in FIXED else {"first_step": 0.05, "max_step": 0.05}
    _, reference = gradients(network, batch, **settings, adjoint="backprop")
    _, found = gradients(network.float(), batch.float(), **settings, adjoint="discrete")
    assert found.dtype == torch.float32
    assert relative_error(found, reference) < 2e-6


def test_losses_on_few_outputs_leave_the_others_out(adjoint, network, batch):
    y0 = batch.clone().requires_grad_()
    t = torch.linspace(0, 2, 6, dtype=torch.float64)
    settings = {"rtol": 1e-9, "atol": 1e-9, "adjoint": adjoint}
    y = odeint(lambda t, y: network(y), y0, t, **settings)
    found = torch.autograd.grad(y[2].sum(), [y0, *network.parameters()])
    y_short = odeint(lambda t, y: network(y), y0, t[:3], **settings)
    expected = torch.autograd.grad(y_short[2].sum(), [y0, *network.parameters()])
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < 1e-6


def test_a_loss_on_the_initial_output_is_the_identity(adjoint, network, batch):
    y0 = batch.clone().requires_grad_()
    y = odeint(lambda t, y: network(y), y0, [0.0, 1.0], adjoint=adjoint)
    found = torch.autograd.grad((3 * y[0]).sum(), [y0, *network.parameters()], allow_unused=True)
    assert torch.equal(found[0], torch.full_like(y0, 3.0))
    assert all(gradient is None or not gradient.any() for gradient in found[1:])


def change_parameter(field, y0):
    with torch.no_grad():
        field.weight.mul_(2)


def change_initial_state(field, y0):
    with torch.no_grad():
        y0.mul_(2)


@pytest.mark.parametrize("change", [change_parameter, change_initial_state])
def test_a_change_in_place_before_the_backward_pass_is_noticed(tanh_field, batch, graphless_adjoint, change):
    for func in (tanh_field, lambda t, y: tanh_field(t, y)):
        y0 = batch.clone().requires_grad_()
        y = odeint(func, y0, [0.0, 1.0], adjoint=graphless_adjoint)
        change(tanh_field, y0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_backprop_notices_a_changed_parameter_too(tanh_field, batch):
    y = odeint(tanh_field, batch, [0.0, 1.0], adjoint="backprop")
    change_parameter(tanh_field, batch)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


class TestComplexParameters:
    """Their gradients are torch's, imaginary parts included: those of the closed form, differentiated by autograd."""

    T = 0.8

    @pytest.fixture(params=["discrete", "continuous", "backprop", "scipy_solver"])
    def solve(self, request):
        how = {"adjoint": request.param, "rtol": 1e-8, "atol": 1e-9}
        if request.param == "scipy_solver":
            how = {"method": "scipy_solver", "options": {"solver": "DOP853"}, "rtol": 1e-8, "atol": 1e-9}
        return lambda func, y0: odeint(func, y0, [0.0, self.T], **how)[-1]

    def compare(self, y, exact, inputs):
        torch.testing.assert_close(y, exact, rtol=1e-6, atol=1e-6)
        weights = torch.arange(1.0, 1.0 + y.numel(), dtype=y.dtype)
        found, expected = (torch.autograd.grad((x * weights).sum(), inputs, retain_graph=True) for x in (y, exact))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert any(gradient.is_complex() and bool(gradient.imag.abs().max() > 1e-3) for gradient in found)

    def test_a_rate(self, solve):
        """``y' = |w|^2 Re(w) y``."""
        w = torch.tensor(0.5 + 0.7j, dtype=torch.complex128, requires_grad=True)
        y0 = torch.ones(2, dtype=torch.float64)
        y = solve(lambda t, y: w.abs() ** 2 * w.real * y, y0)
        self.compare(y, torch.exp(self.T * w.abs() ** 2 * w.real) * y0, [w])

    def test_behind_an_odd_number_of_real_ones(self, solve):
        bias = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64, requires_grad=True)
        w = torch.tensor([[1 + 1j, 2j, 0.5]], dtype=torch.complex128, requires_grad=True)
        y0 = torch.zeros(3, dtype=torch.float64)
        y = solve(lambda t, y: bias * t + (w * w).imag[0], y0)
        self.compare(y, bias * self.T**2 / 2 + (w * w).imag[0] * self.T, [bias, w])

    def test_of_lower_precision_and_conjugated_before_the_solve(self, solve):
        w = torch.tensor([0.3 - 0.6j, 1j], dtype=torch.complex64, requires_grad=True)
        conjugate = w.conj() * 2
        held = w.conj()
        y = solve(lambda t, y: (conjugate * held).imag.double() * y, torch.ones(2, dtype=torch.float64))
        self.compare(y, torch.exp(self.T * (conjugate * held).imag.double()), [w])

    def test_a_filter_in_the_frequency_domain(self, solve):
        """A circular convolution, whose solution is the exponential of its eigenvalues."""
        spectrum = torch.tensor([0.2, -0.3 + 0.5j, 0.4j, -0.1 - 0.2j], dtype=torch.complex128, requires_grad=True)
        y0 = torch.tensor([1.0, -0.5, 0.25, 2.0, 0.0, 1.0, -1.0], dtype=torch.float64)
        y = solve(lambda t, y: torch.fft.irfft(spectrum * torch.fft.rfft(y), n=7), y0)
        self.compare(y, torch.fft.irfft(torch.exp(self.T * spectrum) * torch.fft.rfft(y0), n=7), [spectrum])

    def test_the_seminorm_leaves_them_out(self):
        w = torch.tensor(0.5 + 0.7j, dtype=torch.complex128, requires_grad=True)
        y0 = torch.ones(1, dtype=torch.float64)
        how = {"adjoint": "continuous", "rtol": 1e-8, "atol": 1e-9, "options": {"seminorm": True}}
        y = odeint(lambda t, y: (w * w).imag * y, y0, [0.0, self.T], **how)[-1]
        self.compare(y, torch.exp(self.T * (w * w).imag) * y0, [w])
