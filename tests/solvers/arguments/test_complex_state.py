"""Complex states: against closed forms, real equivalents of two dimensions, and torch's convention for gradients."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch

from skode.solvers import METHODS, odeint, odeint_event, solve_ivp

EXPLICIT = sorted(name for name, method in METHODS.items() if not getattr(method, "implicit", False))
IMPLICIT = sorted(METHODS.keys() - set(EXPLICIT))
T = 1.2


def settings(name):
    """Of a method at which the decay below is solved to six digits or so."""
    method = METHODS[name]
    return {"rtol": 1e-7, "atol": 1e-8} if method.adaptive else {"step_size": 0.01}


def complex_tensor(*values, requires_grad=False):
    return torch.tensor(values, dtype=torch.complex128).requires_grad_(requires_grad)


def loss(y):
    """A real number that sees real and imaginary parts."""
    return (y * complex_tensor(1 - 2j)).real.sum() + (y.abs() ** 2).sum()


@pytest.mark.parametrize("name", EXPLICIT)
def test_explicit_methods_solve_a_complex_oscillator_as_its_real_equivalent(name, adjoint):
    compare_with_the_real_equivalent(name, adjoint)


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_methods_do_so(name):
    compare_with_the_real_equivalent(name, "discrete")


def compare_with_the_real_equivalent(name, adjoint):
    """``z' = (a + ib) z`` beside the real matrix ``[[a, -b], [b, a]]``, with the gradients of both."""
    z0, rate = complex_tensor(1 + 0.5j, requires_grad=True), complex_tensor(-0.3 + 1.1j, requires_grad=True)
    options = {"step_size": 0.2} if not METHODS[name].adaptive else {"first_step": 0.2, "min_step": 0.2}

    def real_func(t, y):
        a, b = rate.real, rate.imag
        return torch.cat([a * y[:1] - b * y[1:], b * y[:1] + a * y[1:]])

    # The adjoint equation's own error test is of elements.
    tight = {"rtol": 1e-8, "atol": 1e-8} if adjoint == "continuous" else {}
    precise = 1e-6 if adjoint == "continuous" else 1e-9
    x0 = torch.view_as_real(z0)[0]
    z = odeint(lambda t, z: rate * z, z0, [0.0, T], method=name, adjoint=adjoint, options=options, **tight)
    x = odeint(real_func, x0, [0.0, T], method=name, adjoint=adjoint, options=options, **tight)
    assert z.dtype == torch.complex128
    torch.testing.assert_close(torch.view_as_real(z[-1, 0]).detach(), x[-1].detach(), rtol=1e-9, atol=1e-9)
    found = torch.autograd.grad(loss(z[-1]), [z0, rate])
    expected = torch.autograd.grad(loss(torch.view_as_complex(x[-1:].contiguous())), [z0, rate])
    torch.testing.assert_close(found, expected, rtol=precise, atol=precise)


@pytest.mark.parametrize("name", ["dopri5", "dopri8", "bosh3", "kvaerno5"])
@pytest.mark.parametrize("door", ["odeint", "solve_ivp"])
def test_gradients_are_those_of_the_exponential(name, door, adjoint):
    z0, rate = complex_tensor(1 + 0.5j, requires_grad=True), complex_tensor(-0.3 + 1.1j, requires_grad=True)
    how = {"method": name, "adjoint": adjoint, **settings(name)}
    if door == "odeint":
        z = odeint(lambda t, z: rate * z, z0, torch.tensor([0.0, T / 2, T]), **how)[1:]
    else:
        z = solve_ivp(lambda t, z: rate * z, (0.0, T), z0, t_eval=[T / 2, T], **how).y
    exact = torch.stack([z0 * torch.exp(rate * T / 2), z0 * torch.exp(rate * T)])
    torch.testing.assert_close(z, exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss(z), [z0, rate]), torch.autograd.grad(loss(exact), [z0, rate]), rtol=1e-5, atol=1e-5
    )


def test_gradients_pass_gradcheck_for_a_field_that_is_not_analytic(exact_adjoint):
    def final(z0, weight):
        field = lambda t, z: weight @ z.conj() - z * z.abs() + t  # noqa: E731
        return odeint(field, z0, [0.0, 0.5], method="rk4", adjoint=exact_adjoint, options={"step_size": 0.1})[-1]

    weight = torch.tensor([[0.1 + 1j, 0.3], [-0.5j, 0.2 - 0.4j]], dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(final, (complex_tensor(0.5 - 0.2j, 1j, requires_grad=True), weight))


def test_real_parameters_get_real_gradients(adjoint):
    """Schrodinger's equation of two levels: ``P(t) = sin(w t)^2``."""
    frequency = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    hamiltonian = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.complex128)
    psi = odeint(lambda t, psi: -1j * frequency * (hamiltonian @ psi), complex_tensor(1, 0), [0.0, T], adjoint=adjoint)
    excited = psi[-1, 1].abs() ** 2
    excited.backward()
    assert excited.item() == pytest.approx(math.sin(0.7 * T) ** 2, abs=1e-7)
    assert frequency.grad.item() == pytest.approx(T * math.sin(2 * 0.7 * T), abs=1e-6)
    assert frequency.grad.dtype == torch.float64


def test_single_precision_stays_single(adjoint):
    z0 = torch.tensor([1 + 1j], dtype=torch.complex64, requires_grad=True)
    z = odeint(lambda t, z: 1j * z, z0, [0.0, T], rtol=1e-5, atol=1e-6, adjoint=adjoint)[-1]
    (gradient,) = torch.autograd.grad(z.imag.sum(), z0)
    assert z.dtype == gradient.dtype == torch.complex64
    # Im(e^(iT) z0) = cos(T) y + sin(T) x
    torch.testing.assert_close(gradient, torch.tensor([math.sin(T) + 1j * math.cos(T)]).to(z0), rtol=1e-4, atol=1e-4)


def test_a_state_without_dimensions(adjoint):
    z0 = torch.tensor(2j, dtype=torch.complex128, requires_grad=True)
    z = solve_ivp(lambda t, z: -z, (0.0, 1.0), z0, t_eval=[1.0], rtol=1e-9, atol=1e-9, adjoint=adjoint).y
    assert z.shape == (1,)
    assert torch.autograd.grad(z.imag.sum(), z0)[0].item() == pytest.approx(1j * math.exp(-1), abs=1e-7)


@pytest.mark.parametrize("phase", [0.0, 0.4, math.pi / 2, 3.0])
def test_steps_do_not_depend_on_the_phase(phase):
    """The error test takes moduli: a number that passes the real axis is no small one."""
    z0 = torch.polar(torch.ones(3, dtype=torch.float64), torch.full((3,), phase, dtype=torch.float64))
    solution = solve_ivp(lambda t, z: 1j * z, (0.0, 20.0), z0, rtol=1e-6, atol=1e-12)
    turned = solve_ivp(lambda t, z: 1j * z, (0.0, 20.0), z0 * 1j, rtol=1e-6, atol=1e-12)
    assert (solution.n_accepted, solution.n_rejected) == (turned.n_accepted, turned.n_rejected)
    torch.testing.assert_close(solution.t, turned.t, rtol=1e-9, atol=0.0)


def test_steps_are_as_many_as_scipys():
    field = lambda t, z: (1j * math.cos(t) - 0.1) * z  # noqa: E731
    y0 = [1 + 0j, 0.3j]
    ours = solve_ivp(field, (0.0, 20.0), complex_tensor(*y0), rtol=1e-6, atol=1e-9)
    scipys = scipy.integrate.solve_ivp(field, (0.0, 20.0), np.array(y0), rtol=1e-6, atol=1e-9)
    assert ours.n_accepted == pytest.approx(len(scipys.t) - 1, rel=0.05)


@pytest.mark.parametrize("norm", ["rms", "max", "mixed", lambda x: x.square().mean().sqrt()])
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_norms_are_those_of_moduli(norm, step_control):
    """Real numbers in a complex state take the steps of a real one."""
    y0 = torch.tensor([[1.0, 2.0], [0.1, 3.0]], dtype=torch.float64)
    how = {"t_eval": [3.0], "norm": norm, "step_control": step_control}
    real = solve_ivp(lambda t, y: -y * torch.cos(y), (0.0, 3.0), y0, **how)
    complex_ = solve_ivp(lambda t, z: -z * torch.cos(z), (0.0, 3.0), y0.to(torch.complex128), **how)
    torch.testing.assert_close(complex_.y, real.y.to(torch.complex128), rtol=1e-9, atol=1e-9)
    assert (complex_.n_accepted == real.n_accepted) is True or bool((complex_.n_accepted == real.n_accepted).all())


def test_a_norm_of_ones_own_receives_moduli_in_the_states_shape():
    shapes = set()

    def norm(x):
        shapes.add((tuple(x.shape), x.dtype))
        return x.amax()

    solve_ivp(lambda t, z: 1j * z, (0.0, 1.0), torch.ones(2, 3, dtype=torch.complex64), norm=norm)
    assert shapes == {((2, 3), torch.float32)}


def test_samples_with_steps_and_spans_of_their_own(adjoint):
    rates = torch.tensor([[1j], [3j - 1], [-2 + 0.5j]], dtype=torch.complex128, requires_grad=True)
    z0 = torch.tensor([[1.0], [1j], [2 - 1j]], dtype=torch.complex128, requires_grad=True)
    ends = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    spans = torch.stack([torch.zeros(3, dtype=torch.float64), ends], dim=1)
    # The field sees the samples that are still on their way: their rate is part of the state.
    state = torch.cat([z0, rates], dim=1)

    def func(t, y):
        return torch.stack([y[:, 1] * y[:, 0], torch.zeros_like(y[:, 1])], dim=1)

    for step_control in ("shared", "per_sample"):
        how = {"rtol": 1e-7, "atol": 1e-8, "adjoint": adjoint, "step_control": step_control}
        y = solve_ivp(func, spans, state, t_eval=ends[:, None], **how).y
        exact = z0[:, 0] * torch.exp(rates[:, 0] * ends)
        assert y.shape == (3, 1, 2)
        torch.testing.assert_close(y[:, 0, 0], exact, rtol=1e-6, atol=1e-6)
        found = torch.autograd.grad(loss(y[:, 0, 0]), [z0, rates], retain_graph=True)
        expected = torch.autograd.grad(loss(exact), [z0, rates])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_field_receives_a_column_of_times_where_samples_have_their_own():
    shapes = set()

    def func(t, z):
        shapes.add((tuple(t.shape), t.dtype, tuple(z.shape)))
        return t * z

    spans = torch.tensor([[0.0, 1.0], [0.5, 2.0]], dtype=torch.float64)
    y = solve_ivp(func, spans, torch.ones(2, 3, dtype=torch.complex128), t_eval=spans[:, 1:], rtol=1e-8, atol=1e-8).y
    assert shapes == {((2, 1), torch.float64, (2, 3))}
    exact = torch.exp((spans[:, 1] ** 2 - spans[:, 0] ** 2) / 2)
    torch.testing.assert_close(y[:, 0, 0].real, exact, rtol=1e-6, atol=1e-6)


def test_gradients_of_times(adjoint):
    t = torch.tensor([0.2, T], dtype=torch.float64, requires_grad=True)
    z0 = complex_tensor(1 + 1j)
    z = odeint(lambda t, z: 1j * t * z, z0, t, rtol=1e-10, atol=1e-10, adjoint=adjoint)[-1]
    exact = z0 * torch.exp(0.5j * (t[1] ** 2 - t[0] ** 2))
    torch.testing.assert_close(
        torch.autograd.grad(loss(z), t), torch.autograd.grad(loss(exact), t), rtol=1e-6, atol=1e-6
    )


def test_dense_output_and_steps():
    solution = solve_ivp(
        lambda t, z: 1j * z, (0.0, 2.0), complex_tensor(1, 1j), dense_output=True, rtol=1e-8, atol=1e-8
    )
    times = torch.linspace(0, 2, 7, dtype=torch.float64)
    exact = torch.exp(1j * times)[:, None] * complex_tensor(1, 1j)
    torch.testing.assert_close(solution.sol(times), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(solution.sol(1.0), torch.exp(torch.tensor(1j)).to(exact) * complex_tensor(1, 1j))
    assert solution.y.shape == (len(solution.t), 2)


def test_events_on_complex_states(adjoint):
    """``Re(exp(iwt)) = 0`` at ``pi / (2 w)``."""
    frequency = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def event(t, z):
        assert z.is_complex()
        return z[0].real

    event.terminal, event.direction = 1, -1
    how = {"events": event, "rtol": 1e-9, "atol": 1e-10, "adjoint": adjoint}
    solution = solve_ivp(lambda t, z: 1j * frequency * z, (0.0, 10.0), complex_tensor(1), **how)
    time = solution.t_events[0][0]
    assert time.item() == pytest.approx(math.pi / 1.6, abs=1e-7)
    assert torch.autograd.grad(time, frequency)[0].item() == pytest.approx(-math.pi / 1.28, abs=1e-6)
    assert solution.y_events[0][0, 0].item() == pytest.approx(1j, abs=1e-7)
    assert solution.status == 1


def test_events_of_samples(adjoint):
    rates = torch.tensor([[1j], [2j]], dtype=torch.complex128)
    state = torch.cat([torch.ones_like(rates), rates], dim=1)
    for step_control in ("shared", "per_sample"):
        solution = solve_ivp(
            lambda t, z: torch.stack([z[:, 1] * z[:, 0], 0 * z[:, 1]], dim=1),
            (0.0, 3.0),
            state,
            events=lambda t, z: z[:, 0].real,
            rtol=1e-8,
            atol=1e-9,
            adjoint=adjoint,
            step_control=step_control,
        )
        expected = torch.tensor([[math.pi / 2, math.nan], [math.pi / 4, 3 * math.pi / 4]], dtype=torch.float64)
        torch.testing.assert_close(solution.t_events[0], expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_odeint_event(adjoint):
    frequency = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    time, z = odeint_event(
        lambda t, z: 1j * frequency * z, complex_tensor(1), 0.0, event_fn=lambda t, z: z[0].imag - 0.5, adjoint=adjoint
    )
    assert time.item() == pytest.approx(math.asin(0.5) / 0.8, abs=1e-7)
    assert torch.autograd.grad(time, frequency)[0].item() == pytest.approx(-math.asin(0.5) / 0.64, abs=1e-6)
    assert z.shape == (2, 1)
    assert z.dtype == torch.complex128


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tuples_of_real_and_complex_parts(adjoint, order):
    """A real rate that grows, a phase that it turns, and the integral of the phase's real part."""
    growth = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    w0 = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    z0 = torch.tensor([[1 + 1j]], dtype=torch.complex128, requires_grad=True)
    parts = (w0, z0, torch.zeros((), dtype=torch.float64))

    def func(t, state):
        w, z, s = (state[order.index(i)] for i in range(3))
        assert not w.is_complex()
        assert z.is_complex()
        assert not s.is_complex()
        rates = (growth * w, 1j * w * z, z.real.sum())
        return tuple(rates[i] for i in order)

    y0 = tuple(parts[i] for i in order)
    y = odeint(func, y0, [0.0, T], rtol=1e-9, atol=1e-10, adjoint=adjoint)
    w, z = y[order.index(0)][-1], y[order.index(1)][-1]
    assert [part.dtype for part in y] == [part.dtype for part in y0]
    exact_w = w0 * torch.exp(growth * T)
    exact_z = z0 * torch.exp(1j * w0 * (torch.exp(growth * T) - 1) / growth)
    torch.testing.assert_close((w, z), (exact_w, exact_z), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(loss(z) + w.sum(), [growth, w0, z0]),
        torch.autograd.grad(loss(exact_z) + exact_w.sum(), [growth, w0, z0]),
        rtol=1e-5,
        atol=1e-5,
    )


def test_events_and_norms_over_mixed_tuples():
    y0 = (torch.ones(1, dtype=torch.float64), complex_tensor(1))
    seen = set()

    def norm(parts):
        seen.add(tuple(part.dtype for part in parts))
        return torch.stack([part.abs().amax() for part in parts]).amax()

    time, (real, z) = odeint_event(
        lambda t, y: (-y[0], 1j * y[1]), y0, 0.0, event_fn=lambda t, y: y[1].real - y[0] + 0.1, options={"norm": norm}
    )
    assert seen == {(torch.float64, torch.float64)}
    t = time.item()
    assert math.cos(t) - math.exp(-t) + 0.1 == pytest.approx(0.0, abs=1e-6)
    assert z[-1].item() == pytest.approx(complex(math.cos(t), math.sin(t)), abs=1e-6)
    assert real[-1].item() == pytest.approx(math.exp(-t), abs=1e-6)


def test_scipys_solvers_take_complex_states():
    z0, rate = complex_tensor(1 + 0.5j, requires_grad=True), complex_tensor(-0.3 + 1.1j, requires_grad=True)
    z = odeint(lambda t, z: rate * z, z0, [0.0, T], method="scipy_solver", options={"solver": "DOP853"})[-1]
    exact = z0 * torch.exp(rate * T)
    torch.testing.assert_close(z, exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(loss(z), [z0, rate]), torch.autograd.grad(loss(exact), [z0, rate]), rtol=1e-4, atol=1e-4
    )


def test_a_state_that_blows_up_is_nan_for_its_sample():
    z0 = torch.tensor([[1 + 0j], [0.1 + 0j]], dtype=torch.complex128)
    how = {"step_control": "per_sample", "on_failure": "nan", "t_eval": [0.5, 2.0]}
    solution = solve_ivp(lambda t, z: z * z, (0.0, 2.0), z0, **how)
    assert solution.y.isnan().view(2, 2).tolist() == [[False, False], [True, False]]
    assert solution.status.tolist() == [-1, 0]


def test_second_derivatives_of_a_complex_solve():
    """``|z|^2 = exp(2 a T)``, whose second derivative by ``a`` is ``4 T^2`` times itself."""
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    z = odeint(lambda t, z: (a + 1j) * z, complex_tensor(1), [0.0, T], adjoint="backprop")[-1]
    (first,) = torch.autograd.grad((z.abs() ** 2).sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(first, a)
    assert second.item() == pytest.approx(4 * T**2 * math.exp(0.6 * T), rel=1e-6)


def test_a_constructed_grid_is_made_from_the_complex_state():
    def grid(func, y0, t):
        assert y0.is_complex()
        assert func(t[0], y0).is_complex()
        return torch.linspace(0, 1, 11, dtype=torch.float64)

    z = odeint(lambda t, z: 1j * z, complex_tensor(1), [0.0, 1.0], method="rk4", options={"grid_constructor": grid})
    assert z[-1].item() == pytest.approx(complex(math.cos(1), math.sin(1)), abs=1e-5)


class TestRefusals:
    @pytest.mark.filterwarnings("ignore:ComplexHalf support")
    def test_half_precision(self):
        with pytest.raises(TypeError, match=r"complex64 or complex128, got torch\.complex32"):
            odeint(lambda t, z: z, torch.zeros(2, dtype=torch.complex32), [0.0, 1.0])

    def test_a_field_with_real_values(self):
        with pytest.raises(TypeError, match=r"returned torch\.float64 .* for a state of torch\.complex128"):
            odeint(lambda t, z: z.real, complex_tensor(1), [0.0, 1.0])

    def test_the_first_evaluation_is_described_as_the_user_sees_it(self):
        with pytest.raises(RuntimeError) as caught:
            odeint(lambda t, z: z @ z.new_ones(3), complex_tensor(1, 2), [0.0, 1.0])
        assert "state y of shape (2,), torch.complex128" in caught.value.__notes__[0]

    def test_a_complex_rate_of_a_real_part(self):
        y0 = (torch.ones(1, dtype=torch.float64), complex_tensor(1))
        with pytest.raises(TypeError, match="must be the same"):
            odeint(lambda t, y: (1j * y[0], y[1]), y0, [0.0, 1.0])

    def test_parts_of_different_precision(self):
        with pytest.raises(TypeError, match="share dtype"):
            odeint(lambda t, y: y, (torch.ones(1, dtype=torch.float32), complex_tensor(1)), [0.0, 1.0])

    def test_complex_events(self):
        with pytest.raises(TypeError, match="An event must return real numbers"):
            solve_ivp(lambda t, z: z, (0.0, 1.0), complex_tensor(1), events=lambda t, z: z[0])
        with pytest.raises(TypeError, match="event_fn must return real numbers"):
            odeint_event(lambda t, z: z, complex_tensor(1), 0.0, event_fn=lambda t, z: z[0])

    def test_nan_in_either_part(self):
        with pytest.raises(ValueError, match="y0 contains NaN or infinity"):
            odeint(lambda t, z: z, complex_tensor(complex(1, math.nan)), [0.0, 1.0])

    @pytest.mark.parametrize("bad", [{"t_span": [[0.0, 1.0]] * 2}, {"t_eval": [[0.5]] * 2}])
    def test_spans_per_sample_of_a_state_without_samples(self, bad):
        how = {"t_span": (0.0, 1.0), "y0": torch.tensor(1j), **bad}
        with pytest.raises(ValueError, match="must be"):
            solve_ivp(lambda t, z: z, **how)

    def test_steps_per_sample_of_a_state_without_features(self):
        with pytest.raises(ValueError, match="needs y0 of shape"):
            solve_ivp(lambda t, z: z, (0.0, 1.0), complex_tensor(1, 2), step_control="per_sample")
