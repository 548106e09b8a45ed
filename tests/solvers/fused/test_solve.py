import copy
import gc
import threading

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from skode.dynamics import MLPField
from skode.dynamics.fused_mlp import FusedMLP
from skode.solvers import MaxStepsError, NonFiniteDerivativeError, free_idle_memory, solve_ivp
from skode.solvers.buffer_pool import BufferPool

TIGHT = {"rtol": 1e-7, "atol": 1e-8}


def make_field(seed=0, dtype=torch.float64, **settings):
    generator = torch.Generator().manual_seed(seed)
    field = MLPField(3, **{"hidden_layer_sizes": (8, 6), **settings}, generator=generator).to(dtype)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return field


def make_state(n=5, dtype=torch.float64, seed=1):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def crosses_five(t, y):
    """An event."""
    return y[0, 0] - 5.0


def own_times(n=5, n_times=4, seed=2):
    """Time spans, forward and backward, and output times with padding, a start, an end and two in one step."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    spans = torch.cat([start, start + torch.tensor([1.0, 1.5, -1.0, 0.7, 2.0]).double()[:n, None]], dim=1)
    share = torch.rand(n, n_times, generator=generator, dtype=torch.float64).sort(dim=1).values
    t_eval = spans[:, :1] + share * (spans[:, 1:] - spans[:, :1])
    t_eval[1, 2:] = torch.nan
    t_eval[2, 0], t_eval[3, -1] = spans[2, 0], spans[3, 1]
    t_eval[4, 1] = t_eval[4, 2] - 1e-4
    return spans, t_eval


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3"])
@pytest.mark.parametrize("time_dependent", [True, False])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 6), (4, 5, 6)])
def test_it_answers_as_the_other_path_does(paths, method, time_dependent, hidden):
    field, y0 = make_field(hidden_layer_sizes=hidden, time_dependent=time_dependent), make_state()
    paths.compare(field, list(field.parameters()), y0, (0.3, 1.4), [0.3, 0.5, 0.51, 1.4], method=method, **TIGHT)


@pytest.mark.parametrize("activation", ["tanh", "logistic", "softplus", "silu"])
@pytest.mark.parametrize("time_dependent", [True, False])
def test_spans_of_each_sample(paths, activation, time_dependent):
    field, y0 = make_field(activation=activation, time_dependent=time_dependent), make_state()
    paths.compare(field, list(field.parameters()), y0, *own_times(), **TIGHT)


@pytest.mark.parametrize(
    "settings",
    [
        {"controller": "PI"},
        {"controller": "PID"},
        {"first_step": 0.5},
        {"max_step": 0.03},
        {"min_step": 0.2},
        {"step_t": [0.61, 0.2]},
        {"rtol": 1e-7, "atol": 0.0},
        {"rtol": 0.0, "atol": 1e-7},
    ],
    ids=str,
)
def test_settings_of_steps(paths, settings):
    field, y0 = make_field(), make_state()
    paths.compare(field, list(field.parameters()), y0, (1.0, 0.0), [0.7, 0.0], **{**TIGHT, **settings})


def test_output_times_of_each_sample_over_one_span(paths):
    field, y0 = make_field(), make_state()
    t_eval = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort(dim=1).values
    paths.compare(field, list(field.parameters()), y0, (0.0, 1.0), t_eval, **TIGHT)


def test_float32(paths):
    field, y0 = make_field(dtype=torch.float32), make_state(dtype=torch.float32)
    paths.compare(field, list(field.parameters()), y0, (0.0, 1.0), [0.5, 1.0], close=1e-4, rtol=1e-5, atol=1e-5)


def test_against_scipy_and_through_the_steps():
    field, y0 = make_field(activation="silu"), make_state()
    weights = [p.detach().numpy() for p in field.parameters()]

    def rate(t, flat):
        x = np.concatenate([flat.reshape(5, 3), np.full((5, 1), t)], axis=1)
        for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            x = x @ weight.T + bias
            x = x / (1.0 + np.exp(-x))
        return (x @ weights[-2].T + weights[-1]).ravel()

    truth = scipy_solve_ivp(rate, (0.0, 1.0), y0.detach().numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    solution = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(solution.y[-1].detach().numpy().ravel(), truth.y[:, -1], rtol=1e-8, atol=1e-8)
    through = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0], rtol=1e-9, atol=1e-9, adjoint="backprop")
    inputs = [y0, *field.parameters()]
    for one, other in zip(
        torch.autograd.grad(solution.y.square().sum(), inputs),
        torch.autograd.grad(through.y.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("memory_budget", [0, 2_000, 20_000])
def test_evaluations_beyond_the_budget_are_made_again(paths, memory_budget):
    field, y0 = make_field(), make_state()
    own = solve_ivp(field, (0.0, 1.0), y0, t_eval=[0.3, 1.0], memory_budget=memory_budget, **TIGHT)
    all_kept = solve_ivp(field, (0.0, 1.0), y0, t_eval=[0.3, 1.0], **TIGHT)
    inputs = [y0, *field.parameters()]
    for one, other in zip(
        torch.autograd.grad(own.y.square().sum(), inputs),
        torch.autograd.grad(all_kept.y.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory_budget", [None, 5_000])
def test_a_graph_that_is_kept_is_differentiated_again(memory_budget):
    field, y0 = make_field(), make_state()
    y = solve_ivp(field, *own_times()[:1], y0, t_eval=own_times()[1], memory_budget=memory_budget, **TIGHT).y
    loss = torch.nan_to_num(y).square().sum()
    inputs = [y0, *field.parameters()]
    first, again = (torch.autograd.grad(loss, inputs, retain_graph=keep) for keep in (True, False))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_solves_that_are_alive_together_have_memory_of_their_own():
    field, y0, other = make_field(), make_state(), make_state(seed=5)
    inputs = [y0, other, *field.parameters()]

    def loss(state):
        return solve_ivp(field, (0.0, 1.0), state, t_eval=[1.0], **TIGHT).y.square().sum()

    both = torch.autograd.grad(loss(y0) * loss(other), inputs)
    with torch.no_grad():
        a, b = float(loss(y0)), float(loss(other))
    alone = torch.autograd.grad(b * loss(y0), inputs, allow_unused=True)
    beside = torch.autograd.grad(a * loss(other), inputs, allow_unused=True)
    for one, first, second in zip(both, alone, beside, strict=True):
        expected = sum(part for part in (first, second) if part is not None)
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-12)


def test_outputs_and_gradients_stay_when_the_memory_is_used_again():
    field, y0 = make_field(), make_state()
    start = y0.detach().clone()
    y = solve_ivp(field, (0.0, 1.0), y0, t_eval=[0.0, 0.5, 1.0]).y
    gradients = torch.autograd.grad(y.sum(), [y0, *field.parameters()])
    before = [tensor.detach().clone() for tensor in (y, *gradients)]
    later = solve_ivp(field, (0.0, 1.0), 2.0 * y0, t_eval=[0.0, 0.5, 1.0]).y
    torch.autograd.grad(later.sum(), [y0, *field.parameters()])
    for tensor, copied in zip((y, *gradients), before, strict=True):
        assert torch.equal(tensor, copied)
    assert torch.equal(y0, start)


def test_memory_is_given_back_with_and_without_a_backward_pass():
    free_idle_memory()
    field, y0 = make_field(), make_state()
    for _ in range(3):
        solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0]).y.sum().backward()
        solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0])
        gc.collect()
        with torch.no_grad():
            solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0])
    ((_, kept, nbytes),) = BufferPool.held.values()
    assert BufferPool.total == nbytes == kept.nbytes() > 0
    free_idle_memory()
    assert BufferPool.total == 0


def test_a_sweep_that_is_broken_off_leaves_nothing_behind(monkeypatch):
    field, y0 = make_field(), make_state()

    def gradient():
        y = solve_ivp(field, (0.0, 1.0), y0, t_eval=[0.5, 1.0], **TIGHT).y
        return torch.autograd.grad(y.square().sum(), [y0, *field.parameters()])

    def interrupted(*arguments):
        raise KeyboardInterrupt

    expected = gradient()
    with monkeypatch.context() as patch:
        patch.setattr(FusedMLP, "gradients", interrupted)  # when the sums are there
        with pytest.raises(KeyboardInterrupt):
            gradient()
    for found, one in zip(gradient(), expected, strict=True):
        assert torch.equal(found, one)


def test_a_parameter_that_was_changed_since_is_noticed():
    field, y0 = make_field(), make_state()
    y = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0]).y
    with torch.no_grad():
        field.layers[1].bias += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_present_weights_are_used_however_they_were_changed():
    field, y0 = make_field(), make_state()
    with torch.no_grad():
        solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0])
        for parameter in field.parameters():
            parameter.data.mul_(0.5)  # which counts as no change
        found = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0]).y
        expected = solve_ivp(copy.deepcopy(field), (0.0, 1.0), y0, t_eval=[1.0]).y
    assert torch.equal(found, expected)


def test_a_gradient_is_not_differentiated_again():
    field, y0 = make_field(), make_state()
    y = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0]).y
    (gradient,) = torch.autograd.grad(y.square().sum(), y0, create_graph=True)
    with pytest.raises(RuntimeError, match="adjoint='backprop'"):
        gradient.sum().backward()


def test_failures_are_named(paths):
    field, y0 = make_field(), make_state()
    with pytest.raises(MaxStepsError, match="max_steps=3"):
        solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0], max_steps=3, **TIGHT)
    with torch.no_grad():
        field.layers[-1].weight[0, 0] = torch.inf
    with pytest.raises(NonFiniteDerivativeError, match=r"gave NaN or infinity in \d+ of 15 elements"):
        solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0])
    growing = MLPField(3, (), time_dependent=False).double()
    with torch.no_grad():
        growing.layers[0].weight.copy_(800.0 * torch.eye(3))
        with pytest.raises(NonFiniteDerivativeError, match="without bound"):
            solve_ivp(growing, (0.0, 2.0), y0.detach(), t_eval=[1.0], rtol=0.1, atol=0.1)
    assert all(paths.taken)
    # The memory of solves that failed serves others.
    field, y0 = make_field(), make_state()
    paths.compare(field, list(field.parameters()), y0, (0.0, 1.0), [1.0], **TIGHT)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "rk4", "step_size": 0.1},
        {"method": "kvaerno5"},
        {"step_control": "per_sample"},
        {"norm": "max"},
        {"jump_t": [0.5]},
        {"dense_output": True},
        {"on_failure": "nan"},
        {"events": crosses_five},
        {"adjoint": "backprop"},
        {"adjoint": "continuous"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_other_problems_go_the_other_way(paths, settings):
    solve_ivp(make_field(), (0.0, 1.0), make_state(), t_eval=[1.0], **settings)
    assert not any(paths.taken)


def test_other_fields_go_the_other_way(paths):
    field, y0 = make_field(), make_state()
    hooked = make_field()
    hooked.layers[0].register_forward_hook(lambda module, inputs, output: 2.0 * output)
    parametrized = torch.nn.utils.parametrizations.weight_norm(make_field().layers[0])
    other = make_field()
    other.layers[0] = parametrized
    for func in (hooked, other, lambda t, y: field(t, y)):
        solve_ivp(func, (0.0, 1.0), y0, t_eval=[1.0])
    solve_ivp(field, (0.5, 0.5), y0, t_eval=[0.5])  # nothing to solve
    assert not any(paths.taken)
    with pytest.raises(ValueError, match="MLPField takes states of shape"):
        solve_ivp(field, (0.0, 1.0), torch.ones(5, 2, dtype=torch.float64), t_eval=[1.0])


def test_threads_have_memory_of_their_own():
    field, states = make_field(), [make_state(seed=seed) for seed in range(4)]

    def gradient(y0):
        y = solve_ivp(field, (0.0, 1.0), y0, t_eval=[0.5, 1.0], **TIGHT).y
        return torch.autograd.grad(y.square().sum(), [y0, *field.parameters()])

    expected, found = [gradient(y0) for y0 in states], {}

    def work(i):
        for _ in range(10):
            found[i] = gradient(states[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(states))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, gradients in enumerate(expected):
        assert all(torch.equal(one, other) for one, other in zip(found[i], gradients, strict=True))


def test_times_that_require_grad(paths):
    field, y0 = make_field(), make_state()
    found = []
    for paths.allowed in (True, False):
        span = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
        t_eval = torch.tensor([0.4, 1.0], dtype=torch.float64, requires_grad=True)
        y = solve_ivp(field, span, y0, t_eval=t_eval, **TIGHT).y
        found.append(torch.autograd.grad(y.square().sum(), [span, t_eval, y0]))
    assert paths.taken == [True, False]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
