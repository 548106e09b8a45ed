"""The tensors that a vector field depends on are found wherever Python keeps them."""

import dataclasses
import functools
import math

import pytest
import torch
from torch import nn

from skode.solvers import odeint
from skode.solvers.fields.parameters import find_parameters, held_tensors, leaves_behind
from tests.solvers.problems import vector

GLOBAL_TENSOR = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
GLOBAL_LIST = [torch.tensor(0.3, dtype=torch.float64, requires_grad=True)]
GLOBAL_LINEAR = nn.Linear(1, 1, bias=False, dtype=torch.float64)


def reachable_tensors(func):
    """The tensors behind a function that require grad."""
    return [tensor for tensor in held_tensors(func) if tensor.requires_grad]


def new_tensor():
    return torch.tensor(0.3, dtype=torch.float64, requires_grad=True)


def use_global(t, y):
    return GLOBAL_TENSOR * y


class Plain:
    """An object of the user's, with a tensor as a plain attribute."""

    def __init__(self, tensor, switch=None):
        self.tensor = tensor
        self.switch = switch

    def __call__(self, t, y):
        return self.tensor * y

    def rates(self, t, y):
        return self.tensor * y


class PlainModule(nn.Module):
    """A module that holds what it is given as a plain attribute, registered nowhere."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, t, y):
        held = self.held
        while not isinstance(held, torch.Tensor):
            held = next(iter(held.values() if isinstance(held, dict) else held))
        return held * y


class ModuleOfModules(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, t, y):
        return self.inner(t, y)


def in_closure():
    w = new_tensor()
    return lambda t, y: w * y, w


def in_a_closure_of_a_closure():
    w = new_tensor()

    def scale(y):
        return w * y

    return lambda t, y: scale(y), w


def in_global():
    return use_global, GLOBAL_TENSOR


def in_global_list():
    return lambda t, y: GLOBAL_LIST[0] * y, GLOBAL_LIST[0]


def in_global_module():
    return lambda t, y: GLOBAL_LINEAR(y[:, None])[:, 0], GLOBAL_LINEAR.weight


def in_global_used_by_an_inner_function():
    return lambda t, y: sum([GLOBAL_TENSOR * part for part in (y,)]), GLOBAL_TENSOR


def in_global_function():
    return lambda t, y: use_global(t, y), GLOBAL_TENSOR


def in_default():
    w = new_tensor()

    def rates(t, y, w=w):
        return w * y

    return rates, w


def in_keyword_default():
    w = new_tensor()

    def rates(t, y, *, w=w):
        return w * y

    return rates, w


def in_partial_argument():
    w = new_tensor()
    return functools.partial(lambda w, t, y: w * y, w), w


def in_partial_keyword():
    w = new_tensor()
    return functools.partial(lambda t, y, w: w * y, w=w), w


def in_bound_method():
    w = new_tensor()
    return Plain(w).rates, w


def in_callable_object():
    w = new_tensor()
    return Plain(w), w


def in_decorated_function():
    w = new_tensor()

    def twice(func):
        @functools.wraps(func)
        def wrapped(t, y):
            return 2 * func(t, y)

        return wrapped

    return twice(lambda t, y: w * y), w


def in_module_parameter():
    module = PlainModule(None)
    module.held = w = nn.Parameter(new_tensor().detach())
    return module, w


def in_module_attribute():
    w = new_tensor()
    return PlainModule(w), w


def in_containers_of_a_module():
    w = new_tensor()
    return PlainModule({"rates": [(w,)]}), w


def in_attribute_of_an_inner_module():
    w = new_tensor()
    return ModuleOfModules(PlainModule(w)), w


def in_buffer():
    w = new_tensor()
    module = PlainModule(None)
    del module.held
    module.register_buffer("held", w)
    return module, w


def behind_a_non_leaf():
    w = new_tensor()
    derived = w * 1.0
    return lambda t, y: derived * y, w


PLACES = [
    in_closure,
    in_a_closure_of_a_closure,
    in_global,
    in_global_list,
    in_global_module,
    in_global_used_by_an_inner_function,
    in_global_function,
    in_default,
    in_keyword_default,
    in_partial_argument,
    in_partial_keyword,
    in_bound_method,
    in_callable_object,
    in_decorated_function,
    in_module_parameter,
    in_module_attribute,
    in_containers_of_a_module,
    in_attribute_of_an_inner_module,
    in_buffer,
    behind_a_non_leaf,
]


@pytest.fixture(params=PLACES, ids=lambda place: place.__name__)
def func_and_tensor(request):
    return request.param()


def switched_on_at(t_on, func):
    """The same field, multiplied by a switch, so that before ``t_on`` nothing in it is used."""
    return lambda t, y: func(t, y) if t > t_on else torch.zeros_like(y)


def gradient(func, tensor, adjoint):
    y0 = torch.ones(1, dtype=torch.float64)
    y = odeint(func, y0, torch.tensor([0.0, 1.0]), rtol=1e-7, atol=1e-7, adjoint=adjoint)
    (found,) = torch.autograd.grad(y[-1].sum(), tensor, retain_graph=True)
    return found.sum()


def test_no_gradient_is_dropped_wherever_the_tensor_is_kept(func_and_tensor, graphless_adjoint):
    func, tensor = func_and_tensor
    expected = gradient(func, tensor, "backprop")
    assert expected.abs() > 0.1
    torch.testing.assert_close(gradient(func, tensor, graphless_adjoint), expected, rtol=1e-5, atol=0)


def test_no_gradient_is_dropped_where_the_tensor_is_only_used_later(func_and_tensor):
    func, tensor = func_and_tensor
    later = switched_on_at(0.5, func)
    expected = gradient(later, tensor, "backprop")
    assert expected.abs() > 0.1
    torch.testing.assert_close(gradient(later, tensor, "discrete"), expected, rtol=1e-9, atol=0)


@dataclasses.dataclass(slots=True)
class Slotted:
    tensor: torch.Tensor


class WithClassAttribute(nn.Module):
    tensor = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def forward(self, t, y):
        return self.tensor * y


class UsesGlobal(nn.Module):
    def forward(self, t, y):
        return GLOBAL_TENSOR * y


def hidden_in_slots():
    slotted = Slotted(new_tensor())
    return lambda t, y: slotted.tensor * y, slotted.tensor


def hidden_in_a_class():
    return WithClassAttribute(), WithClassAttribute.tensor


def test_a_global_that_a_modules_forward_uses_is_found():
    assert [id(tensor) for tensor in reachable_tensors(UsesGlobal())] == [id(GLOBAL_TENSOR)]


@pytest.fixture(params=[hidden_in_slots, hidden_in_a_class], ids=lambda place: place.__name__)
def hidden(request):
    return request.param()


def test_a_hidden_tensor_is_found_in_the_graph_of_the_first_evaluation(hidden, graphless_adjoint):
    func, tensor = hidden
    assert not reachable_tensors(func)
    expected = gradient(func, tensor, "backprop")
    torch.testing.assert_close(gradient(func, tensor, graphless_adjoint), expected, rtol=1e-5, atol=0)


def test_a_hidden_tensor_that_is_only_used_later_is_refused(hidden, graphless_adjoint):
    func, _ = hidden
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    y = odeint(switched_on_at(0.5, func), y0, torch.tensor([0.0, 1.0]), adjoint=graphless_adjoint)
    with pytest.raises(RuntimeError, match=r"depends on a tensor of shape \(\) .* gradient would be lost"):
        y[-1].sum().backward()


def test_the_gradient_reaches_a_non_leaf_and_the_leaf_behind_it(adjoint):
    w = new_tensor()
    derived = 2 * w
    derived.retain_grad()
    y0 = torch.ones(1, dtype=torch.float64)
    y = odeint(lambda t, y: derived * y, y0, torch.tensor([0.0, 1.0]), rtol=1e-10, atol=1e-10, adjoint=adjoint)
    y[-1].sum().backward()
    expected = torch.exp(derived.detach())
    torch.testing.assert_close(derived.grad, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(w.grad, 2 * expected, rtol=1e-8, atol=0)


def test_a_leaf_and_what_was_computed_from_it_are_not_counted_twice(adjoint):
    w = new_tensor()
    derived = 2 * w
    again = derived * w
    y0 = torch.ones(1, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0])
    y = odeint(lambda t, y: (w + derived + again) * y, y0, t, rtol=1e-10, atol=1e-10, adjoint=adjoint)
    y[-1].sum().backward()
    rate = 3 * w.detach() + 2 * w.detach() ** 2
    torch.testing.assert_close(w.grad, (3 + 4 * w.detach()) * torch.exp(rate), rtol=1e-8, atol=0)


def test_two_pieces_of_one_tensor_both_get_their_gradient(adjoint):
    w = torch.tensor([0.3, 0.5], dtype=torch.float64, requires_grad=True)
    first, second = w.split(1)
    y0 = torch.ones(1, dtype=torch.float64)
    t = torch.tensor([0.0, 1.0])
    y = odeint(lambda t, y: first * y + second * t, y0, t, rtol=1e-10, atol=1e-10, adjoint=adjoint)
    y[-1].sum().backward()
    # y(1) = e^a + b (e^a - 1 - a) / a^2
    a, b = w.detach().requires_grad_()
    expected = torch.autograd.grad(torch.exp(a) + b * (torch.exp(a) - 1 - a) / a**2, [a, b])
    torch.testing.assert_close(w.grad, torch.stack(expected), rtol=1e-7, atol=0)


def test_the_initial_state_may_also_stand_in_the_closure(adjoint):
    y0 = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    y = odeint(lambda t, y: y0 * y, y0, torch.tensor([0.0, 1.0]), rtol=1e-10, atol=1e-10, adjoint=adjoint)
    y[-1].sum().backward()
    value = y0.detach()
    torch.testing.assert_close(y0.grad, (1 + value) * torch.exp(value), rtol=1e-8, atol=0)


def test_a_field_that_is_itself_a_parameter(adjoint):
    w = torch.tensor([0.3, 0.5], dtype=torch.float64, requires_grad=True)
    y = odeint(lambda t, y: w, torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, 2.0]), adjoint=adjoint)
    y[-1].sum().backward()
    torch.testing.assert_close(w.grad, torch.full((2,), 2.0, dtype=torch.float64))


def test_a_tensor_that_is_never_used_gets_no_gradient():
    used, unused = new_tensor(), new_tensor()
    held = [used, unused]
    y = odeint(lambda t, y: held[0] * y, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1.0]))
    y[-1].sum().backward()
    assert used.grad is not None
    assert unused.grad is None


def test_tensors_without_grad_are_left_out():
    constant, w = torch.ones(2), new_tensor()
    assert reachable_tensors(lambda t, y: constant * w * y) == [w]


def test_each_tensor_is_found_once_and_in_the_order_in_which_it_stands():
    tensors = [new_tensor() for _ in range(5)]
    held = [*tensors, *reversed(tensors)]
    found = reachable_tensors(lambda t, y: sum(held) * y)
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in tensors]


def test_the_parameters_of_a_module_come_in_its_own_order():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    found = reachable_tensors(lambda t, y: net(y))
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in net.parameters()]


def test_objects_that_hold_each_other_are_searched_once():
    a, b = Plain(new_tensor()), Plain(new_tensor())
    a.switch, b.switch = b, a
    assert reachable_tensors(a) == [a.tensor, b.tensor]


def test_a_name_that_is_not_bound_yet_is_no_obstacle():
    def rates(t, y):
        return y if t < 1e9 else unbound

    assert reachable_tensors(rates) == []
    unbound = new_tensor()


def test_leaves_behind_stop_at_what_is_known():
    hidden, w = new_tensor(), new_tensor()
    known = w**2
    output = known * hidden
    assert leaves_behind([output], [known]) == [hidden]
    assert leaves_behind([output], [known, hidden]) == []
    assert {id(leaf) for leaf in leaves_behind([output], [])} == {id(w), id(hidden)}


def test_find_parameters_evaluates_once_and_hands_back_the_value():
    w = new_tensor()
    calls = []

    def rates(t, y):
        calls.append(t)
        return w * y

    y = torch.full((2,), 2.0, dtype=torch.float64)
    parameters, evaluation = find_parameters(rates, torch.tensor(0.0), y)
    assert parameters == (w,)
    assert len(calls) == 1
    torch.testing.assert_close(evaluation.value.detach(), 0.3 * y)


@pytest.mark.parametrize("kind", ["a leaf", "computed"])
def test_hooks_are_called_once_with_backprop(kind):
    given = []
    leaf = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rate = leaf if kind == "a leaf" else 1.0 * leaf
    rate.register_hook(lambda gradient: (given.append(gradient.item()), 2.0 * gradient)[1])
    one = torch.ones(1, dtype=torch.float64)
    end = odeint(lambda t, y: -rate * y, one, [0.0, 1.0], adjoint="backprop")
    (gradient,) = torch.autograd.grad(end[-1].sum(), leaf)
    assert given == [pytest.approx(-math.exp(-0.5))]
    assert gradient.item() == pytest.approx(-2.0 * math.exp(-0.5))


def test_hooks_after_accumulation_are_called_once(adjoint):
    calls = []
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rate.register_post_accumulate_grad_hook(lambda p: calls.append(p.grad.item()))
    one = torch.ones(1, dtype=torch.float64)
    odeint(lambda t, y: -rate * y, one, [0.0, 1.0], adjoint=adjoint)[-1].sum().backward()
    assert calls == [pytest.approx(-math.exp(-0.5), rel=1e-6)]


class Rates(torch.nn.Module):
    """A module that solves, with rates of its own."""

    def __init__(self, adjoint, **options):
        super().__init__()
        self.rates = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        self.how = {"adjoint": adjoint, "options": options}

    def forward(self, y):
        return odeint(lambda t, y: -self.rates * y, y, [0.0, 1.0], **self.how)[-1].sum()


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("value", [1.0, 0.5])
def test_functional_call_around_a_solve(adjoint, trains, value):
    # The rates are put back before the backward pass, so that an adjoint that evaluates the field again can't.
    rates = torch.tensor([1.0, 2.0 * value], dtype=torch.float64, requires_grad=True)
    one = torch.ones(2, dtype=torch.float64)
    expected = -torch.exp(-rates.detach())
    for options in ({}, {"memory_budget": 0}):
        model = Rates(adjoint, **options).requires_grad_(trains)
        loss = torch.func.functional_call(model, {"rates": rates}, (one,))
        if adjoint == "backprop" or (adjoint == "discrete" and not options):
            torch.testing.assert_close(torch.autograd.grad(loss, rates)[0], expected, rtol=1e-6, atol=0)
        else:
            with pytest.raises(RuntimeError, match=r"no longer holds a tensor of shape \(2,\).*inside func"):
                torch.autograd.grad(loss, rates)


def test_sparse_gradients(adjoint):
    rows = torch.tensor([0, 2, 2])
    weight = torch.linspace(0.1, 0.8, 8, dtype=torch.float64).view(4, 2)
    table = torch.nn.Embedding.from_pretrained(weight.clone(), freeze=False, sparse=True)
    one = torch.ones(3, 2, dtype=torch.float64)
    for options in ({}, {"memory_budget": 0}):
        table.weight.grad = None
        odeint(lambda t, y: -table(rows) * y, one, [0.0, 1.0], adjoint=adjoint, options=options)[-1].sum().backward()
        counts = torch.tensor([[1.0], [0.0], [2.0], [0.0]], dtype=torch.float64)
        torch.testing.assert_close(table.weight.grad.to_dense(), -counts * torch.exp(-weight), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["rk4", "midpoint", "dopri5"])
def test_a_tensor_that_only_inner_stages_use_is_found(method):
    global dose
    dose = vector(2.0, requires_grad=True)[0]

    class Dosed(nn.Module):
        def forward(self, t, y):
            return -y + dose if 0.2 < float(t) < 0.8 else -y

    gradients = [
        torch.autograd.grad(odeint(Dosed(), vector(1.0), [0.0, 1.0], method=method, adjoint=adjoint)[-1].sum(), dose)[0]
        for adjoint in ("discrete", "backprop")
    ]
    assert gradients[0] > 0.3
    torch.testing.assert_close(*gradients)


def test_a_tensor_that_only_inner_stages_use_and_that_is_hidden_is_refused():
    hidden = {"dose": vector(2.0, requires_grad=True)}
    made = [lambda: hidden["dose"]]
    registry = type("Registry", (), {"__slots__": ("get",)})()
    registry.get = made[0]

    def func(t, y):
        return -y + registry.get() if 0.2 < float(t) < 0.8 else -y

    y = odeint(func, vector(1.0, requires_grad=True), [0.0, 1.0], method="rk4")
    with pytest.raises(RuntimeError, match="its gradient would be lost"):
        y[-1].sum().backward()
