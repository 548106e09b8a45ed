"""Samples with time spans of their own: one solve gives each what it would get alone."""

import math

import pytest
import torch

from skode.dynamics import MLPField
from skode.dynamics.flow import flow_field
from skode.solvers import solve_ivp
from skode.solvers.fields.unit_interval import UnitIntervalField

SPANS = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 0.0], [-1.0, -0.9], [0.7, 0.7]], dtype=torch.float64)
FRACTIONS = torch.tensor([0.0, 0.4, 1.0, 0.4], dtype=torch.float64)


@pytest.fixture
def y0():
    return torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2)


@pytest.fixture
def t_eval():
    return SPANS[:, :1] + (SPANS[:, 1:] - SPANS[:, :1]) * FRACTIONS


def field(t, y):
    return torch.sin(t) * y.flip(-1) - torch.cos(y) * t


def test_each_sample_gets_what_it_would_get_alone(adaptive_method, y0, t_eval):
    settings = {"method": adaptive_method, "rtol": 1e-9, "atol": 1e-9}
    together = solve_ivp(field, SPANS, y0, t_eval=t_eval, **settings)
    assert torch.equal(together.t, t_eval)
    for i in range(5):
        alone = solve_ivp(field, SPANS[i], y0[i : i + 1], t_eval=t_eval[i : i + 1], **settings)
        torch.testing.assert_close(together.y[i], alone.y[0], rtol=0, atol=1e-7)


def test_fixed_steps_are_fractions_of_each_span(fixed_method, y0, t_eval):
    together = solve_ivp(field, SPANS, y0, t_eval=t_eval, method=fixed_method, step_size=0.05)
    for i in range(5):
        step_size = 0.05 * abs(SPANS[i, 1] - SPANS[i, 0]).item() or None
        settings = {"method": fixed_method, "step_size": step_size}
        alone = solve_ivp(field, SPANS[i], y0[i : i + 1], t_eval=t_eval[i : i + 1], **settings)
        torch.testing.assert_close(together.y[i], alone.y[0], rtol=1e-12, atol=1e-12)


def test_the_field_sees_each_sample_at_its_own_time(method, equal_steps):
    # y' = t from 0: y(t1) = (t1^2 - t0^2) / 2, which Runge-Kutta methods beyond Euler's integrate exactly
    y = solve_ivp(
        lambda t, y: t.expand(y.shape),
        SPANS,
        torch.zeros(5, 2, 3, dtype=torch.float64),
        t_eval=SPANS[:, 1:],
        **equal_steps(method, 0.01),
    ).y
    expected = ((SPANS[:, 1] ** 2 - SPANS[:, 0] ** 2) / 2)[:, None, None, None].expand(5, 1, 2, 3)
    torch.testing.assert_close(y, expected, rtol=0, atol=0.05 if method == "euler" else 1e-12)


def test_times_have_one_dimension_per_dimension_of_the_state():
    seen = set()

    def func(t, y):
        seen.add((tuple(t.shape), t.dtype))
        return -y

    for shape in ((5,), (5, 2), (5, 2, 3)):
        solve_ivp(func, SPANS, torch.ones(shape), t_eval=SPANS)
    assert seen == {((5,), torch.float32), ((5, 1), torch.float32), ((5, 1, 1), torch.float32)}


def test_no_sample_is_carried_beyond_its_own_end(y0, t_eval):
    latest = []

    def func(t, y):
        latest.append(t.flatten().detach().clone())
        return field(t, y)

    solve_ivp(func, SPANS, y0, t_eval=t_eval)
    times = torch.stack(latest)
    low, high = SPANS.min(1).values, SPANS.max(1).values
    assert (times >= low - 1e-12).all()
    assert (times <= high + 1e-12).all()


def test_an_output_at_the_end_of_the_span_is_the_state_there():
    spans = torch.tensor([[0.1, 0.1 + 0.2], [0.3, 0.9]], dtype=torch.float64)
    y0 = torch.ones(2, 1, dtype=torch.float64)
    ends = solve_ivp(lambda t, y: -y, spans, y0, t_eval=spans[:, 1:], rtol=1e-10, atol=1e-10).y
    torch.testing.assert_close(ends[:, 0], torch.exp(spans[:, :1] - spans[:, 1:]), rtol=1e-9, atol=0)


def test_one_list_of_output_times_may_serve_all_samples():
    spans = torch.tensor([[0.0, 1.0], [0.5, 2.0], [1.0, 0.0]], dtype=torch.float64)
    y0 = torch.ones(3, 1, dtype=torch.float64)
    solution = solve_ivp(lambda t, y: -y, spans, y0, t_eval=[0.5, 0.75, 1.0], rtol=1e-10, atol=1e-10)
    assert solution.t.shape == (3, 3)
    expected = torch.exp(spans[:, :1] - torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64))
    torch.testing.assert_close(solution.y[..., 0], expected, rtol=1e-8, atol=0)


def test_gradients_of_states_and_parameters_agree_with_solving_alone(adjoint, y0, t_eval):
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0.requires_grad_()
    settings = {"rtol": 1e-10, "atol": 1e-10, "adjoint": adjoint}

    def func(t, y):
        return w * field(t, y)

    together = solve_ivp(func, SPANS, y0, t_eval=t_eval, **settings).y
    found = torch.autograd.grad((together**2).sum(), [y0, w])
    alone = sum(
        (solve_ivp(func, SPANS[i], y0[i : i + 1], t_eval=t_eval[i : i + 1], **settings).y ** 2).sum() for i in range(5)
    )
    expected = torch.autograd.grad(alone, [y0, w])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_samples_may_be_numbers(exact_adjoint):
    y0 = torch.linspace(1, 2, 5, dtype=torch.float64, requires_grad=True)
    t_eval = SPANS.mean(1, keepdim=True).requires_grad_()
    y = solve_ivp(lambda t, y: -y, SPANS, y0, t_eval=t_eval, rtol=1e-9, atol=1e-9, adjoint=exact_adjoint).y
    found = torch.autograd.grad(y.sum(), [y0, t_eval])
    decay = torch.exp(SPANS[:, 0] - SPANS.mean(1))
    torch.testing.assert_close(y[:, 0], y0 * decay, rtol=1e-7, atol=0)
    torch.testing.assert_close(found[0], decay, rtol=1e-7, atol=0)
    torch.testing.assert_close(found[1][:, 0], -y0 * decay, rtol=1e-6, atol=1e-12)


def test_gradients_of_times_are_the_rates_at_them(exact_adjoint, y0):
    spans = SPANS[:4].clone().requires_grad_()
    y0 = y0[:4]
    t_eval = (spans.detach()[:, :1] + (spans.detach()[:, 1:] - spans.detach()[:, :1]) * FRACTIONS[1:3]).requires_grad_()
    y = solve_ivp(field, spans, y0, t_eval=t_eval, rtol=1e-10, atol=1e-10, adjoint=exact_adjoint).y
    grad_times, grad_spans = torch.autograd.grad(y.sum(), [t_eval, spans])
    rates = field(t_eval[..., None], y).sum(-1)
    torch.testing.assert_close(grad_times, rates, rtol=1e-6, atol=1e-7)
    # Neither the end of the span nor a step nearby moves the solution at a given time.
    assert not grad_spans[:, 1].any()


def test_the_continuous_adjoint_s_gradients_of_times_per_sample_are_the_exact_ones(y0):
    found = {}
    for adjoint in ("continuous", "discrete"):
        spans = SPANS.clone().requires_grad_()
        t_eval = SPANS[:, 1:].clone().requires_grad_()
        y = solve_ivp(field, spans, y0, t_eval=t_eval, adjoint=adjoint, rtol=1e-10, atol=1e-10).y
        found[adjoint] = torch.autograd.grad((y**2).sum(), [spans, t_eval])
    torch.testing.assert_close(found["continuous"], found["discrete"], rtol=1e-7, atol=1e-8)


def test_padding_stays_nan_and_sends_no_nan_back(exact_adjoint):
    spans = torch.tensor([[0.0, 1.0], [0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    t_eval = torch.tensor([[0.5, math.nan], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    y = solve_ivp(lambda t, y: -y, spans, y0, t_eval=t_eval, rtol=1e-10, atol=1e-10, adjoint=exact_adjoint).y
    assert y[..., 0].isnan().tolist() == [[False, True], [False, False]]
    gradients = torch.autograd.grad(torch.nan_to_num(y).sum(), [spans, t_eval, y0])
    assert all(gradient.isfinite().all() for gradient in gradients)
    expected = -torch.exp(torch.tensor([[-0.5, -math.inf], [-0.5, -1.5]], dtype=torch.float64))
    torch.testing.assert_close(gradients[1], expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(gradients[0][:, 0], -expected.sum(1), rtol=1e-6, atol=0)


@pytest.fixture(params=["f(t, y)", "f(y)", "silu", "flow"])
def taped_field(request):
    """A field of two features with tapes of its own, all of whose parameters are away from 0."""
    generator = torch.Generator().manual_seed(0)
    n_features = 1 if request.param == "flow" else 2  # the other one is the log-density
    activation = "silu" if request.param == "silu" else "tanh"
    inner = MLPField(n_features, (6, 5), activation, time_dependent=request.param != "f(y)", generator=generator)
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    inner = inner.double()
    return flow_field(inner) if request.param == "flow" else inner


def gradients_of(field, y0, t_eval, **settings):
    """A loss's gradients by the initial states and the field's parameters."""
    y0 = y0.clone().requires_grad_()
    y = solve_ivp(field, SPANS, y0, t_eval=t_eval, **settings).y
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad((weights * torch.nan_to_num(y).square()).sum(), [y0, *field.parameters()])


# True where a sample has no output time
PADDING = torch.tensor([[False, False, True, True], *[[False] * 4] * 3, [False, True, True, True]])


@pytest.mark.parametrize("memory_budget", [0, 4_000, 2**28])
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "dopri5"},
        {"method": "bosh3"},
        {"method": "rk4", "step_size": 0.1},
        {"method": "gl4", "step_size": 0.25, "rtol": 1e-10, "atol": 1e-10},  # which Newton's method is to meet
        {"method": "implicit_adams", "step_size": 0.1},
        {"method": "dopri5", "step_control": "per_sample"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_tapes_give_autograds_gradients(taped_field, settings, memory_budget, y0, t_eval):
    t_eval = t_eval.masked_fill(PADDING, math.nan)
    settings = {"rtol": 1e-4, "atol": 1e-6, "step_control": "shared", **settings}
    found = gradients_of(taped_field, y0, t_eval, memory_budget=memory_budget, **settings)
    expected = gradients_of(taped_field, y0, t_eval, adjoint="backprop", **settings)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_tapes_serve_the_continuous_adjoint(taped_field, y0, t_eval):
    settings = {"rtol": 1e-10, "atol": 1e-10}
    found = gradients_of(taped_field, y0, t_eval, adjoint="continuous", **settings)
    expected = gradients_of(taped_field, y0, t_eval, adjoint="backprop", **settings)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_fields_with_tapes_lend_them_to_their_own_times(taped_field):
    start, length = torch.zeros(5, 1), torch.ones(5, 1)
    assert hasattr(UnitIntervalField(taped_field, start, length).bind(), "tape")

    class Plain:
        """The same field, without tapes."""

        def __init__(self, field):
            self.linearize, self.parameters = field.linearize, field.parameters

    assert not hasattr(UnitIntervalField(Plain(taped_field), start, length).bind(), "tape")


def test_a_cotangent_is_pulled_alike_whether_given_or_written_in_its_place(taped_field, y0):
    start, length = SPANS[:, :1], SPANS[:, 1:] - SPANS[:, :1]
    own = UnitIntervalField(taped_field, start, length)
    bound, cotangent = own.bind(), y0.flip(0).contiguous()
    y = y0.clone().requires_grad_()
    expected_value = own(0.3, y)
    expected = torch.autograd.grad(expected_value, [y, *taped_field.parameters()], cotangent)
    for placed in (False, True):
        tape, session, value, pulled = bound.tape(y0, 2), bound.session(), torch.empty_like(y0), torch.empty_like(y0)
        tape.place(1).copy_(y0.reshape(-1))
        tape.evaluate(1, 0.3, value)
        torch.testing.assert_close(value, expected_value.detach(), rtol=1e-12, atol=1e-12)
        given = cotangent.clone()
        if placed:
            session.place(tape, 1).copy_(given.reshape(-1))
        session.pull(tape, 1, None if placed else given, pulled)
        assert torch.equal(given, cotangent)
        session.flush(tape)
        tape.release()
        found = [pulled, *session.parameter_gradients()]
        torch.testing.assert_close(found, list(expected), rtol=1e-12, atol=1e-12)
