"""Gradients of every method: the adjoints against each other, finite differences and float64."""

import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.solvers import METHODS, solve_ivp
from tests.solvers.problems import relative_error, steps_of

EXACT = ["discrete", "backprop"]
H = 2.0**-4  # a power of 2, so that no step is rounded


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def field_of(w):
    """A field that depends on ``w`` through its closure, on time, and on the state nonlinearly."""
    return lambda t, y: torch.sin(w[0] * y + t) - w[1] * y.flip(-1)


def gradients(loss, inputs):
    return torch.autograd.grad(loss, inputs)


@pytest.fixture(params=list(METHODS))
def name(request):
    return request.param


@pytest.fixture
def y0():
    return tensor(0.4, -0.7)


@pytest.fixture
def w():
    return tensor(1.3, 0.6)


@pytest.fixture(params=["along all steps", "at output times"])
def solved(request):
    """A function from an adjoint, a method and the inputs to a loss that all outputs enter."""
    inside = request.param == "at output times"

    def loss(adjoint, name, y0, w, span, t_eval):
        outputs = t_eval if inside else None
        y = solve_ivp(field_of(w), span, y0, t_eval=outputs, adjoint=adjoint, **steps_of(name, H)).y
        return (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum()

    loss.inside = inside
    return loss


def test_discrete_is_backprop(name, solved, y0, w):
    # t_eval: inside steps, at the end of one, and at that of the span.
    inputs = [y0, w, tensor(0.25, 1.0), tensor(0.3, 0.47, 0.5, 0.93, 1.0)]
    inputs = inputs if solved.inside else inputs[:3]
    rest = [] if solved.inside else [None]
    discrete, backprop = (gradients(solved(adjoint, name, *inputs, *rest), inputs) for adjoint in EXACT)
    for one, other in zip(discrete, backprop, strict=True):
        assert relative_error(one, other) < 1e-11


def test_discrete_is_backprop_backward_in_time(name, y0, w):
    def loss(adjoint, y0, w, span, t_eval):
        settings = {**steps_of(name, H), "adjoint": adjoint}
        return solve_ivp(field_of(w), span, y0, t_eval=t_eval, **settings).y.square().sum()

    inputs = [y0, w, tensor(1.0, 0.25), tensor(0.93, 0.47, 0.3)]
    discrete, backprop = (gradients(loss(adjoint, *inputs), inputs) for adjoint in EXACT)
    for one, other in zip(discrete, backprop, strict=True):
        assert relative_error(one, other) < 1e-11


@pytest.mark.parametrize("adjoint", EXACT)
def test_exact_adjoints_pass_gradcheck(name, adjoint, y0, w):
    def solve(y0, w):
        return solve_ivp(
            field_of(w), (0.25, 0.75), y0, t_eval=[0.3, 0.52, 0.75], adjoint=adjoint, **steps_of(name, H)
        ).y

    # fast: along one random direction of each input
    assert torch.autograd.gradcheck(solve, (y0, w), eps=1e-6, atol=1e-7, rtol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.adaptive])
@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_derivatives_by_times_are_the_field_at_them(name, adjoint, y0, w):
    field, span, t_eval = field_of(w), tensor(0.25, 0.98), tensor(0.3, 0.52, 0.931)
    y0 = y0.detach().requires_grad_()
    y = solve_ivp(field, span, y0, t_eval=t_eval, adjoint=adjoint, method=name, step_size=0.1).y
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    by_y0, by_span, by_times = torch.autograd.grad((weights * y).sum(), [y0, span, t_eval])
    expected = torch.stack([(k * field(t, state)).sum() for k, t, state in zip(weights, t_eval, y, strict=True)])
    torch.testing.assert_close(by_times, expected.detach(), rtol=1e-12, atol=1e-12)
    by_start = -(by_y0 * field(span[0], y0)).sum().item()
    torch.testing.assert_close(by_span, tensor(by_start, 0.0).detach(), rtol=1e-12, atol=1e-12)


def perceptron(dtype):
    return MLPField(3, (16, 16), generator=torch.Generator().manual_seed(0)).to(dtype)


def perceptron_gradients(name, adjoint, dtype, *, wrapped=False, **settings):
    """Gradients with respect to the initial states and to all weights, as one flat tensor; and the solution."""
    field = perceptron(torch.float32).to(dtype)  # the same weights, whatever the dtype
    batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    func = (lambda t, y: field(t, y)) if wrapped else field
    solution = solve_ivp(func, (0.0, 1.0), batch, t_eval=[0.3, 0.75, 1.0], adjoint=adjoint, **settings)
    weights = torch.linspace(-1, 1, solution.y.numel(), dtype=dtype).view(solution.y.shape)
    found = torch.autograd.grad((solution.y * weights).sum(), [batch, *field.parameters()])
    return torch.cat([gradient.flatten() for gradient in found]), solution


@pytest.mark.parametrize("wrapped", [False, True], ids=["own pullback", "autograd"])
def test_gradients_of_a_perceptron_are_as_exact_as_the_dtype(name, wrapped):
    settings = steps_of(name, 2.0**-3)
    expected, _ = perceptron_gradients(name, "backprop", torch.float64, wrapped=True, **settings)
    double, _ = perceptron_gradients(name, "discrete", torch.float64, wrapped=wrapped, **settings)
    assert relative_error(double, expected) < 1e-12
    if METHODS[name].adaptive and METHODS[name].implicit:  # float32 can't be solved to 1e-13
        settings = {"method": name, "rtol": 1e-3, "atol": 1e-3, "first_step": 2.0**-3, "max_step": 2.0**-3}
    single, solution = perceptron_gradients(name, "discrete", torch.float32, wrapped=wrapped, **settings)
    assert single.dtype == torch.float32
    assert solution.n_accepted == 8
    assert relative_error(single, expected) < 1e-6


@pytest.mark.parametrize(
    ("name", "rtol"),
    [
        (name, rtol)
        for name, m in METHODS.items()
        for rtol in (1e-2, 1e-4, 1e-6, 1e-8)
        if m.adaptive and not m.implicit and (m.order > 2 or rtol > 1e-8)  # which would take thousands of steps
    ],
)
def test_discrete_is_backprop_at_any_tolerance(name, rtol):
    if name == "dopri8" and rtol < 1e-6:
        pytest.skip("the first step's error is below rounding, and so the next step's size is rounding's")
    settings = {"method": name, "rtol": rtol, "atol": rtol}
    discrete, solution = perceptron_gradients(name, "discrete", torch.float64, **settings)
    backprop, again = perceptron_gradients(name, "backprop", torch.float64, **settings)
    assert solution.n_accepted == again.n_accepted
    assert relative_error(discrete, backprop) < 1e-12


@pytest.mark.parametrize(
    ("name", "rtol"), [*(("kvaerno3", rtol) for rtol in (1e-4, 1e-6)), *(("kvaerno5", rtol) for rtol in (1e-4, 1e-8))]
)
def test_discrete_is_backprop_as_far_as_the_equations_are_solved(name, rtol):
    # Newton's method ends at a thousandth of the tolerance; backprop records two iterations more.
    settings = {"method": name, "rtol": rtol, "atol": rtol}
    discrete, _ = perceptron_gradients(name, "discrete", torch.float64, **settings)
    backprop, _ = perceptron_gradients(name, "backprop", torch.float64, **settings)
    assert relative_error(discrete, backprop) < 1e-2 * rtol


def test_continuous_agrees_to_the_tolerance(name, y0, w):
    method = METHODS[name]
    rtol = 1e-7
    settings = {"method": name, "rtol": rtol, "atol": rtol}
    if not method.adaptive:  # steps whose error is about the tolerance
        rtol = {1: 3e-3, 2: 1e-5, 3: 1e-7, 4: 1e-7, 5: 1e-9, 6: 1e-9}[method.order]
        settings = {"method": name, "step_size": {1: 1e-3, 2: 4e-3, 3: 4e-3, 4: 1e-2, 5: 1e-2, 6: 2e-2}[method.order]}

    def loss(adjoint, **settings):
        y = solve_ivp(field_of(w), (0.25, 0.6), y0, t_eval=[0.3, 0.45, 0.6], adjoint=adjoint, **settings).y
        return y.square().sum()

    expected = gradients(loss("discrete", method="dopri8", rtol=1e-12, atol=1e-12), [y0, w])
    found = gradients(loss("continuous", **settings), [y0, w])
    exact = gradients(loss("discrete", **settings), [y0, w])
    for one, other, same in zip(found, expected, exact, strict=True):
        # Some methods' own solutions, and so their exact gradients, are no closer.
        assert relative_error(one, other) < 10 * max(rtol, relative_error(same, other))
        assert relative_error(one, other) < 1000 * rtol


def test_backprop_gives_second_derivatives(name, y0, w):
    def loss(y0, w):
        settings = {**steps_of(name, 2 * H), "adjoint": "backprop"}
        solution = solve_ivp(field_of(w), (0.25, 1.0), y0, t_eval=[0.6, 1.0], **settings)
        return (solution.y**3).sum()

    inputs = [y0, w]
    along = [torch.tensor([0.6, -0.3], dtype=torch.float64), torch.tensor([-0.2, 0.9], dtype=torch.float64)]
    first = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    slope = sum((gradient * direction).sum() for gradient, direction in zip(first, along, strict=True))
    second = torch.autograd.grad(slope, inputs)

    def gradient_at(shift):
        moved = [(x.detach() + shift * direction).requires_grad_() for x, direction in zip(inputs, along, strict=True)]
        return torch.autograd.grad(loss(*moved), moved)

    eps = 1e-3
    near, far = (zip(gradient_at(m * eps), gradient_at(-m * eps), strict=True) for m in (1, 2))
    for found, (a, b), (c, d) in zip(second, near, far, strict=True):
        expected = (8 * (a - b) - (c - d)) / (12 * eps)
        assert relative_error(found, expected) < 1e-8


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_the_other_adjoints_refuse_second_derivatives(name, adjoint, y0, w):
    y = solve_ivp(field_of(w), (0.0, 0.25), y0, adjoint=adjoint, t_eval=[0.25], **steps_of(name, H)).y
    first = torch.autograd.grad(y.square().sum(), [y0, w], create_graph=True)
    with pytest.raises(RuntimeError, match="backprop"):
        torch.autograd.grad(sum(gradient.square().sum() for gradient in first), [y0, w])


def test_gradients_do_not_depend_on_what_memory_keeps(name):
    # None, some, or all of the steps' activations: 5 samples of some 40 activations in 8 bytes are 1600 a stage.
    found = [
        perceptron_gradients(name, "discrete", torch.float64, memory_budget=budget, **steps_of(name, 2 * H))
        for budget in (0, 5_000, 30_000, 2**28)
    ]
    assert found[0][1].statistics.nfev_backward >= found[-1][1].statistics.nfev_backward
    for gradient, solution in found[1:]:
        # Rounding differs: the weights' gradients are summed over more or fewer stages at a time, and products may
        # depend on how their operands lie in memory.
        torch.testing.assert_close(gradient, found[0][0], rtol=0, atol=1e-13 * float(gradient.abs().max()))
        torch.testing.assert_close(solution.y, found[0][1].y, rtol=1e-14, atol=1e-14)


def test_gradients_of_a_module_are_those_of_its_pullback(name):
    module = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    field = MLPField(2, (8,), time_dependent=False).double()
    for layer, like in zip(field.layers, [module[0], module[2]], strict=True):
        layer.load_state_dict(like.state_dict())
    batch = torch.randn(4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def found(func, parameters):
        y = solve_ivp(func, (0.0, 1.0), batch, t_eval=[0.3, 1.0], **steps_of(name, H)).y
        return torch.autograd.grad(y.square().sum(), list(parameters))

    pairs = zip(found(field, field.parameters()), found(lambda t, y: module(y), module.parameters()), strict=True)
    for one, other in pairs:
        assert relative_error(one, other) < 1e-12


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_states_without_elements_have_empty_outputs_and_gradients(name, shape, adjoint):
    steps = {} if METHODS[name].adaptive else {"step_size": 0.5}
    rate = torch.tensor(0.5, requires_grad=True)
    for step_control in ("shared", "per_sample")[: len(shape)]:
        y0 = torch.ones(shape, requires_grad=True)
        how = {"method": name, "adjoint": adjoint, "step_control": step_control, **steps}
        y = solve_ivp(lambda t, y: -rate * y, (0.0, 1.0), y0, t_eval=[0.0, 0.5, 1.0], **how).y
        assert y.shape == (3, *shape)
        gradients = torch.autograd.grad(y.sum(), (y0, rate), allow_unused=True)
        assert gradients[0].shape == shape
        assert gradients[1] in (None, 0.0)
