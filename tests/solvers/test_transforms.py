"""Forward-mode AD and torch.func: the right value with ``adjoint="backprop"``, a named error elsewhere, never zero."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from skode.dynamics import MLPField
from skode.solvers import METHODS, odeint, odeint_adjoint, odeint_dense, odeint_event, solve_ivp
from skode.solvers.stepping.coefficients import tableau_tensors

#: torch's own, when a dual tensor is made for the first time.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
BACKPROP = {"adjoint": "backprop", **TIGHT}
A = torch.tensor([[-0.3, 1.0], [-1.0, -0.2]], dtype=torch.float64)
FLOW = torch.matrix_exp(A)  # of dy/dt = A y over a unit of time
RATE = torch.tensor(0.5, dtype=torch.float64)
START = torch.tensor([1.0, 0.5], dtype=torch.float64)
SPAN = torch.tensor([0.0, 1.0], dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


def linear(t, y):
    return y @ A.T


def end(y0, t=SPAN, **how):
    return odeint(linear, y0, t, **{**BACKPROP, **how})[-1]


def decay(rate, **how):
    """``exp(-rate)``, its rate in the closure of the field."""
    return odeint(lambda t, y: -rate * y, ONE, SPAN, **{**BACKPROP, **how})[-1, 0]


def jvp(function, x, tangent=None):
    """The tangent of a function's value."""
    with forward_ad.dual_level():
        value = function(forward_ad.make_dual(x, torch.ones_like(x) if tangent is None else tangent))
        return forward_ad.unpack_dual(value).tangent


def close(found, expected, tolerance=1e-7):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=tolerance, atol=tolerance)


def of_few_steps(method):
    if METHODS[method].adaptive:
        return {"method": method, "rtol": 1e-3, "atol": 1e-3}
    return {"method": method, "options": {"step_size": 0.1}}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_tangents(method):
    # The computed solution is linear in its start, whatever its error.
    how = of_few_steps(method)
    tangent = jvp(lambda y: end(y, **how), START, START)
    close(tangent, FLOW @ START, 0.05)
    close(tangent, end(START, **how), 1e-9)


@pytest.mark.parametrize("method", sorted(name for name, method in METHODS.items() if method.implicit))
def test_an_implicit_step_has_the_tangents_of_its_parameters(method):
    how = of_few_steps(method)
    tangent = jvp(lambda rate: decay(rate, **how), RATE)
    close(tangent, -torch.exp(-RATE), 0.05)
    if not METHODS[method].adaptive:  # whose steps do not move
        small = 1e-4
        moved = [decay(RATE + small * sign, **how) for sign in (1, -1)]
        close(tangent, (moved[0] - moved[1]) / (2 * small), 1e-7)


def test_times_have_tangents():
    moved = linear(0.0, FLOW @ START)
    for door in (lambda t: end(START, t), lambda t: solve_ivp(linear, t, START, **BACKPROP).y[-1]):
        close(jvp(door, SPAN, torch.tensor([0.0, 1.0])), moved)
        close(jvp(door, SPAN, torch.tensor([1.0, 0.0])), -moved)
    close(jvp(lambda t: solve_ivp(linear, (0.0, 2.0), START, t_eval=[t], **BACKPROP).y[0], SPAN[1]), moved)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_samples_have_tangents(step_control):
    batch = torch.stack([START, 3 * START])
    how = {"step_control": step_control, "t_eval": [1.0], **BACKPROP}
    close(jvp(lambda y: solve_ivp(linear, (0.0, 1.0), y, **how).y[0], batch, batch), batch @ FLOW.T)


def test_events_have_tangents():
    def event(rate, level, start=0.0):
        return odeint_event(lambda t, y: -rate * y, ONE, start, event_fn=lambda t, y: y[0] - level, **BACKPROP)

    def event_time(rate, **how):
        found = solve_ivp(lambda t, y: -rate * y, (0.0, 3.0), ONE[None], events=lambda t, y: y[:, 0] - 0.5, **how)
        return found.t_events[0][0, 0]

    slope = -torch.log(torch.tensor(2.0)) / RATE**2
    close(jvp(lambda rate: event(rate, 0.5)[0], RATE), slope)
    close(jvp(lambda rate: event(rate, 0.5)[1][-1], RATE), [0.0])
    close(jvp(lambda level: event(RATE, level)[0], RATE), -1 / RATE**2)
    close(jvp(lambda start: event(RATE, 0.5, start)[0], RATE), 1.0)
    close(jvp(lambda rate: event_time(rate, **BACKPROP), RATE), slope)
    with torch.no_grad():  # which does not end forward-mode AD
        close(jvp(lambda rate: event_time(rate, **BACKPROP), RATE), slope)
        close(jvp(decay, RATE), -torch.exp(-RATE))


class Hidden:
    """A field that keeps its rate where it is not found."""

    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, t, y):
        return -self.rate * y


def test_tensors_that_are_not_found_have_tangents(graphless_adjoint):
    def solve(rate, **how):
        return odeint(Hidden(rate), ONE, SPAN, **how)[-1, 0]

    close(jvp(lambda rate: solve(rate, **BACKPROP), RATE), -torch.exp(-RATE))
    with pytest.raises(TypeError, match=r"forward-mode AD.*pass adjoint='backprop'"):
        jvp(lambda rate: solve(rate, adjoint=graphless_adjoint), RATE)


@pytest.mark.parametrize("strategy", ["forward-mode", "reverse-mode"])
def test_vectorized_jacobians(strategy):
    close(torch.autograd.functional.jacobian(end, START, vectorize=True, strategy=strategy), FLOW)


FORWARD = {
    "y0": lambda how: jvp(lambda y: odeint(linear, y, SPAN, **how), START),
    "a parameter": lambda how: jvp(lambda rate: decay(rate, **how), RATE),
    "no_grad": lambda how: torch.no_grad()(lambda: jvp(lambda rate: decay(rate, **how), RATE))(),
    "t": lambda how: jvp(lambda t: odeint(linear, START, t, **how), SPAN),
    "t_span": lambda how: jvp(lambda t: solve_ivp(linear, t, START, **how).y, SPAN),
    "one time": lambda how: jvp(lambda t: solve_ivp(linear, (0.0, t), START, **how).y, SPAN[1]),
    "a tuple": lambda how: jvp(lambda y: odeint(lambda t, y: (linear(t, y[0]),), (y,), SPAN, **how)[0], START),
    "an event": lambda how: jvp(lambda y: odeint_event(linear, y, 0.0, event_fn=lambda t, y: y[0], **how)[0], START),
    "jacobian": lambda how: torch.autograd.functional.jacobian(
        lambda y: end(y, **how), START, vectorize=True, strategy="forward-mode"
    ),
}
FUNC = {
    "vmap": lambda how: torch.func.vmap(lambda y: end(y, **how))(A),
    "grad": lambda how: torch.func.grad(lambda rate: decay(rate, **how))(RATE),
    "jacrev": lambda how: torch.func.jacrev(lambda y: end(y, **how))(START),
    "jvp": lambda how: torch.func.jvp(lambda y: end(y, **how), (START,), (START,)),
    "of times": lambda how: torch.func.jacrev(lambda t: end(START, t, **how))(SPAN),
}


@pytest.mark.parametrize("attempt", FORWARD.values(), ids=FORWARD)
def test_forward_mode_is_refused_where_it_is_not_known(attempt, graphless_adjoint):
    with pytest.raises(TypeError, match=rf"forward-mode AD.*adjoint='{graphless_adjoint}'.*adjoint='backprop'"):
        attempt({"adjoint": graphless_adjoint})


@pytest.mark.parametrize("attempt", FUNC.values(), ids=FUNC)
def test_torch_func_is_refused_where_it_is_not_known(attempt, graphless_adjoint):
    with pytest.raises(TypeError, match=rf"torch\.func.*adjoint='{graphless_adjoint}'.*adjoint='backprop'"):
        attempt({"adjoint": graphless_adjoint})


def test_other_doors_refuse_both():
    for door in (odeint_adjoint, lambda *problem: odeint(*problem, method="scipy_solver")):
        with pytest.raises(TypeError, match=r"forward-mode AD.*adjoint='backprop'"):
            jvp(lambda y, door=door: door(linear, y, SPAN), START)
        with pytest.raises(TypeError, match=r"torch\.func.*adjoint='backprop'"):
            torch.func.jacrev(lambda y, door=door: door(linear, y, SPAN))(START)


def test_a_dual_level_without_tangents_changes_nothing(adjoint):
    with forward_ad.dual_level():
        close(odeint(linear, START, SPAN, adjoint=adjoint, **TIGHT)[-1], FLOW @ START)


def test_derivatives_by_torch_func():
    close(torch.func.jacrev(end)(START), FLOW)
    close(torch.func.jacfwd(end)(START), FLOW)
    close(torch.func.hessian(lambda y: end(y).pow(2).sum())(START), 2 * FLOW.T @ FLOW)
    close(torch.func.grad(decay)(RATE), -torch.exp(-RATE))
    close(torch.func.jacrev(lambda t: end(START, t))(SPAN)[:, 1], linear(0.0, FLOW @ START))
    close(torch.func.jacfwd(lambda t: end(START, t))(SPAN)[:, 0], -linear(0.0, FLOW @ START))


def test_output_times_go_with_torch_func():
    def outputs(y0, t_eval=SPAN, **how):
        return solve_ivp(linear, (0.0, 2.0), y0, t_eval=t_eval, **{**BACKPROP, **how}).y

    close(torch.func.jacrev(outputs)(START)[1], FLOW)
    close(torch.func.jacfwd(outputs)(START)[1], FLOW)
    close(torch.func.jacrev(lambda t: outputs(START, t)[1])(SPAN)[:, 1], linear(0.0, FLOW @ START))
    by_sample = torch.tensor([[0.0, 1.0], [1.0, torch.nan]], dtype=torch.float64)
    found = torch.func.jacfwd(lambda y0: outputs(y0.expand(2, 2), by_sample))(START)
    close(found[:2, :1], torch.stack([torch.eye(2, dtype=torch.float64), FLOW])[:, None])

    def stopped(t, y):
        return t - 1.5

    stopped.terminal = True
    close(torch.func.jacfwd(lambda y0: outputs(y0, [1.0, 2.0], events=stopped))(START), FLOW[None])


@pytest.mark.parametrize("state_moves", [False, True])
def test_dense_output_has_the_derivative_of_its_time_alone(state_moves):
    solution = odeint_dense(linear, START.clone().requires_grad_(state_moves), 0.0, 2.0, **TIGHT)
    slope = linear(1.0, FLOW @ START)
    one = torch.tensor(1.0, dtype=torch.float64)
    close(torch.autograd.functional.jacobian(solution, one), slope, 1e-5)
    close(jvp(solution, one).detach(), slope, 1e-5)
    close(torch.func.jacrev(solution)(one).detach(), slope, 1e-5)
    close(torch.func.jacfwd(solution)(one).detach(), slope, 1e-5)
    with pytest.raises(TypeError, match="t must be the same for all"):
        torch.func.vmap(solution)(SPAN)


def test_transforms_inside_each_other_follow_others():
    tableau_tensors.cache_clear()  # the coefficients of methods are made inside the first
    close(torch.func.hessian(lambda y: end(y).pow(2).sum())(START), 2 * FLOW.T @ FLOW)
    close(torch.func.jacrev(end)(START), FLOW)
    close(end(START), FLOW @ START)


def test_events_by_torch_func():
    def event_time(rate):
        return odeint_event(lambda t, y: -rate * y, ONE, 0.0, event_fn=lambda t, y: y[0] - 0.5, **BACKPROP)[0]

    doubling = torch.log(torch.tensor(2.0))
    close(torch.func.grad(event_time)(RATE), -doubling / RATE**2)
    close(torch.func.hessian(event_time)(RATE), 2 * doubling / RATE**3, 1e-6)
    with pytest.raises(TypeError, match=r"torch\.func\.vmap.*one number per sample"):
        torch.func.vmap(event_time)(START)


def test_vmap_over_states_and_parameters():
    rates = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    close(torch.func.vmap(end)(torch.eye(2, dtype=torch.float64)), FLOW.T)
    close(torch.func.vmap(decay)(rates), torch.exp(-rates))
    close(torch.func.vmap(torch.func.grad(decay))(rates), -torch.exp(-rates))
    close(
        torch.func.vmap(lambda rate: decay(rate, method="rk4", options={"step_size": 0.02}))(rates[:2]),
        torch.exp(-rates[:2]),
    )


def test_every_state_that_is_mapped_over_is_held_to_the_tolerance():
    rates = torch.cat([torch.full((99,), 1e-3), torch.tensor([50.0])]).double()
    how = {"adjoint": "backprop", "rtol": 1e-5, "atol": 1e-5}
    alone = decay(rates[-1], **how)
    close(torch.func.vmap(lambda rate: decay(rate, **how))(rates)[-1], alone, 1e-9)


@pytest.mark.parametrize(
    ("how", "named"),
    [({"method": "kvaerno5"}, "method='kvaerno5'"), ({"step_control": "per_sample"}, "step_control='per_sample'")],
)
def test_what_torch_func_does_not_go_with_is_named(how, named):
    batch = START[None]
    with pytest.raises(TypeError, match=rf"torch\.func.*{named}.*backward\(\)"):
        torch.func.grad(lambda y: solve_ivp(linear, (0.0, 1.0), y, adjoint="backprop", **how).y.sum())(batch)
    with pytest.raises(TypeError, match=r"t must be the same for all that torch\.func\.vmap maps over"):
        torch.func.vmap(lambda t: end(START, t))(torch.stack([SPAN, 2 * SPAN]))


def test_states_that_are_mapped_over_may_fail():
    with pytest.raises(ValueError, match="y0 contains NaN"):
        torch.func.vmap(end)(torch.tensor([[1.0, 0.0], [torch.nan, 0.0]]))
    with pytest.raises(RuntimeError, match=r"func\(t, y\) gave NaN or infinity in 3 of 4 elements"):
        torch.func.vmap(lambda y: odeint(lambda t, y: torch.log(y), y, SPAN, adjoint="backprop"))(A)


@pytest.mark.parametrize("net", [MLPField(2, (4,)), nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))])
def test_functional_call_in_the_field(net, adjoint):
    net = net.double()
    name, weight = next(iter(net.named_parameters()))

    def solve(weight, **how):
        def func(t, y):
            return torch.func.functional_call(net, {name: weight}, (t, y) if isinstance(net, MLPField) else (y,))

        return odeint(func, START[None], SPAN, **{**TIGHT, **how})[-1]

    weight = weight.detach()
    expected = torch.func.jacfwd(lambda weight: solve(weight, adjoint="backprop"))(weight)
    close(torch.autograd.functional.jacobian(lambda weight: solve(weight, adjoint=adjoint), weight), expected)
    small = 1e-5
    moved = [solve(weight + small * sign, adjoint=adjoint) for sign in (1, -1)]
    close((moved[0] - moved[1]) / (2 * small), expected.flatten(2).sum(-1), 1e-6)
