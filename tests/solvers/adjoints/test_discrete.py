"""The discrete adjoint: exact, from the accepted steps alone, without a graph of the solve."""

import gc
import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from skode.dynamics import MLPField
from skode.solvers import odeint, solve_ivp
from skode.solvers.fields.parameters import GRAPH_NBYTES, find_parameters
from tests.solvers.problems import in_steps, vector


def test_the_outputs_hang_on_one_node_and_it_on_the_inputs_alone(tanh_field, batch, method, equal_steps):
    for func in (tanh_field, lambda t, y: tanh_field(t, y)):
        y0 = batch.clone().requires_grad_()
        y = solve_ivp(func, (0.0, 1.0), y0, t_eval=[0.3, 0.6, 1.0], **equal_steps(method, 0.1)).y
        node = y.grad_fn
        while not hasattr(node, "run"):  # a view of the outputs
            ((node, _),) = node.next_functions
        behind = [node.variable for node, _ in node.next_functions if node is not None]
        assert {id(tensor) for tensor in behind} == {id(tensor) for tensor in (y0, *tanh_field.parameters())}


def test_autograd_saves_no_more_for_more_steps(tanh_field, batch, adaptive_method, saved_tensors):
    for func in (tanh_field, lambda t, y: tanh_field(t, y)):
        y0 = batch.clone().requires_grad_()
        few, many = (
            saved_tensors(
                lambda n=n, func=func, y0=y0: solve_ivp(
                    func, (0, 1), y0, method=adaptive_method, memory_budget=0, **in_steps(n)
                )
            )
            for n in (3, 30)
        )
        assert few == many


def test_of_each_step_only_its_state_is_kept_beyond_the_memory_budget(remembers_states, adaptive_method):
    y0 = torch.ones(3, requires_grad=True)
    settings = {"method": adaptive_method, "t_eval": [0.5, 1.0], "memory_budget": 0}
    solution = solve_ivp(remembers_states, (0, 1), y0, **settings, **in_steps(20))
    assert solution.nfev > 60
    assert remembers_states.n_alive <= 20 + 1


def test_nothing_is_kept_once_the_outputs_are_gone(remembers_states, tanh_field, batch):
    gc.disable()
    try:
        for func in (remembers_states, lambda t, y: tanh_field(t, remembers_states(t, y))):
            y = odeint(func, batch.clone().requires_grad_(), [0.0, 1.0])
            assert remembers_states.n_alive > 0
            y.sum().backward()
            del y
            assert remembers_states.n_alive == 0
    finally:
        gc.enable()


def test_the_backward_pass_costs_the_stages_of_the_accepted_steps(adaptive_method, counted):
    func = counted(lambda t, y: torch.sin(20 * t) * y**2)
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    n_own_stages = {"bosh3": 3, "tsit5": 6, "dopri5": 6}[adaptive_method]
    for memory_budget in (GRAPH_NBYTES, 2**28):
        solution = solve_ivp(func, (0.0, 3.0), y0, method=adaptive_method, memory_budget=memory_budget)
        n_forward = func.n_calls
        assert solution.n_rejected > 0
        assert solution.statistics.nfev_backward == 0
        solution.y[-1].sum().backward()
        assert solution.statistics.nfev_backward == n_own_stages * solution.n_accepted
        # The graph of the very first evaluation is there in any case.
        evaluated_again = 0 if memory_budget == 2**28 else solution.statistics.nfev_backward - 1
        assert func.n_calls == n_forward + evaluated_again


def test_graphs_are_kept_within_the_memory_budget_alone(tanh_field, batch, counted):
    func = counted(lambda t, y: tanh_field(t, y))
    _, evaluation = find_parameters(func, torch.zeros(()), batch)
    # What was saved: the states' tanh, or their copies, and what a graph takes itself.
    assert GRAPH_NBYTES < evaluation.nbytes < GRAPH_NBYTES + 10 * batch.nbytes
    for n_kept in (0, 5, 20):
        budget = int(6 * (n_kept + 0.5) * evaluation.nbytes)
        solution = solve_ivp(func, (0, 1), batch, t_eval=[1.0], memory_budget=budget, **in_steps(20))
        n_forward = func.n_calls
        solution.y.sum().backward()
        assert func.n_calls - n_forward == pytest.approx(6 * (20 - n_kept), abs=6)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_random_field_is_differentiated_as_it_was_where_its_graphs_are_kept(method):
    noisy = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)).double()
    weight, step = noisy[0].weight, 1e-6

    def loss(moved):
        torch.manual_seed(0)
        with torch.no_grad():
            weight[2, 1] += moved
        steps = {"step_size": 0.1} if method == "rk4" else in_steps(10)
        return solve_ivp(lambda t, y: noisy(y), (0, 1), torch.ones(4, 3).double(), method=method, **steps).y[-1].sum()

    found = torch.autograd.grad(loss(0.0), weight)[0][2, 1]
    above, below = loss(step), loss(-2 * step)
    torch.testing.assert_close(found, (above - below).detach() / (2 * step), rtol=1e-6, atol=1e-8)


def test_it_may_be_differentiated_again_and_again_where_the_graph_is_retained(tanh_field, batch):
    y = odeint(tanh_field, batch, [0.0, 1.0])
    first = torch.autograd.grad(y.sum(), tanh_field.weight, retain_graph=True)
    second = torch.autograd.grad(y.sum(), tanh_field.weight)
    assert torch.equal(*first, *second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), tanh_field.weight)


def test_many_losses_add_up(tanh_field, batch):
    y0 = batch.clone().requires_grad_()
    y = odeint(tanh_field, y0, torch.linspace(0, 1, 4), rtol=1e-3)
    parts = [torch.autograd.grad(y[i].sum(), y0, retain_graph=True)[0] for i in range(4)]
    (whole,) = torch.autograd.grad(y.sum(), y0)
    torch.testing.assert_close(sum(parts), whole, rtol=1e-13, atol=1e-14)


def test_solves_may_follow_one_another(exact_adjoint):
    # y(2) by way of y(1), through another function of it
    w = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-10, "atol": 1e-10, "adjoint": exact_adjoint}
    first = odeint(lambda t, y: w * y, torch.ones(1, dtype=torch.float64), [0.0, 1.0], **settings)[-1]
    second = odeint(lambda t, y: w * first * y, first**2, [0.0, 1.0], **settings)[-1]
    (found,) = torch.autograd.grad(second.sum(), w)
    grow = torch.exp(w)
    (expected,) = torch.autograd.grad(grow**2 * torch.exp(w * grow), w)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_parts_of_the_steps_are_recomputed_beyond_the_memory_budget(tanh_field, batch):
    # 240 bytes an evaluation, six or seven evaluations a step
    settings = {"t_eval": [1.0], **in_steps(20)}
    for memory_budget, n_kept in ((0, 0), (240 * 7 * 5, 5), (2**28, 20)):
        solution = solve_ivp(tanh_field, (0, 1), batch, memory_budget=memory_budget, **settings)
        tanh_field.reset_counts()
        solution.y.sum().backward()
        assert tanh_field.n_linearize == pytest.approx(6 * (20 - n_kept), abs=6)
        assert tanh_field.n_pullback == 6 * 20


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_random_field_is_refused_rather_than_differentiated_wrongly(method):
    noisy = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)).double()
    torch.manual_seed(0)
    settings = {"method": method, "rtol": 1, "atol": 1, "options": {"memory_budget": 0}}
    y = odeint(lambda t, y: noisy(y), torch.ones(4, 3).double(), torch.linspace(0, 1, 5), **settings)
    with pytest.raises(RuntimeError, match="gave other values when it was evaluated again"):
        y.sum().backward()


def test_state_changed_between_the_solve_and_its_gradient_is_refused():
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    scale = torch.ones(1, dtype=torch.float64)
    # Where graphs are made again, autograd does not watch what requires no grad.
    for memory_budget, error in ((0, "has changed since the solve"), (2**28, "modified by an inplace operation")):
        options = {"memory_budget": memory_budget}
        y = odeint(lambda t, y: -weight * scale * y, torch.ones(1).double(), torch.tensor([0.0, 1.0]), options=options)
        scale.mul_(3.0)
        with pytest.raises(RuntimeError, match=error):
            y.sum().backward()


def held_by(y):
    """Bytes of the tensors that wait for the backward pass of a solve."""
    node = y.grad_fn
    while not hasattr(node, "path"):  # something made of the outputs
        node = next(parent for parent, _ in node.next_functions if parent is not None)
    kept = [step.taken.tape for step in node.path.steps if step.taken.tape is not None]
    tensors = [tensor for tape in kept for tensor in (*tape.leaves, tape.y_next, *tape.stages)]
    nodes, seen = [tensor.grad_fn for tensor in tensors], {None}
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
            tensors += [tensor for tensor in saved if isinstance(tensor, torch.Tensor)]
            nodes += [parent for parent, _ in node.next_functions]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_arguments_and_values_of_kept_evaluations_count_towards_the_budget():
    # A field whose graph saves nothing.
    y0 = torch.ones(10_000, dtype=torch.float64, requires_grad=True)
    budget = 2**20
    settings = {"method": "rk4", "step_size": 0.01, "t_eval": [1.0], "memory_budget": budget}
    y = solve_ivp(lambda t, y: torch.roll(y, 1) - 2 * y + torch.roll(y, -1), (0, 1), y0, **settings).y
    assert 0 < held_by(y) <= budget


def test_what_a_field_holds_is_not_counted_with_every_evaluation(counted):
    constant, w = torch.eye(500, dtype=torch.float64), torch.ones(500, dtype=torch.float64, requires_grad=True)
    func = counted(lambda t, y: torch.sin(y) @ constant * w)
    y0 = torch.ones(1, 500, dtype=torch.float64)
    y = solve_ivp(func, (0, 1), y0, memory_budget=2**20, **in_steps(5)).y  # constant: 2 MB
    n_forward = func.n_calls
    y[-1].sum().backward()
    assert func.n_calls == n_forward


def test_samples_on_their_own_way_count_as_much_as_the_batch():
    net = torch.nn.Linear(4, 4).double()
    y0 = torch.ones(100, 4, dtype=torch.float64)
    y0[0] = 1e3
    settings = {"step_control": "per_sample", "rtol": 1e-7, "t_eval": [1.0]}

    def weights_made_inside(t, y):
        return -y * torch.sin(net.weight).repeat(50, 50).mean() - y**2 / 10

    y = solve_ivp(weights_made_inside, (0, 1), y0, memory_budget=2**22, **settings).y
    assert 0 < held_by(y) <= 2**22


def test_under_checkpointing_a_solve_is_made_twice(counted):
    w = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y0 = torch.ones(5, 3, requires_grad=True)
    func = counted(lambda t, y: torch.tanh(y @ w) * torch.cos(5 * t))

    def solve(y0):
        return odeint(func, y0, torch.tensor([0.0, 4.0]), rtol=1e-5, atol=1e-5)[-1]

    expected = torch.autograd.grad(solve(y0).sum(), w)[0]
    n_plain = func.n_calls
    found = torch.autograd.grad(checkpoint(solve, y0, use_reentrant=False).sum(), w)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert func.n_calls <= 4 * n_plain


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "adaptive_heun", "kvaerno5"])
def test_an_attempt_that_overflows_leaves_no_nan_in_the_gradient(method):
    found = []
    rtol = 1e-5 if method == "adaptive_heun" else 1e-6  # of order 2: it takes many steps
    for adjoint in ("discrete", "backprop"):
        y0, k = vector([30.0], [1.0], [2.0], requires_grad=True), vector(1.0, requires_grad=True)
        y = solve_ivp(
            lambda t, y, k=k: -k * y**3, (0, 1), y0, t_eval=[0.5, 1.0], step_control="per_sample", first_step=0.05,
            adjoint=adjoint, rtol=rtol, method=method,
        ).y  # fmt: skip
        found.append(torch.autograd.grad(y[-1].sum(), [y0, k]))
        exact = y0 / torch.sqrt(1 + 2 * k * y0**2)
        for ours, truth in zip(found[-1], torch.autograd.grad(exact.sum(), [y0, k]), strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


def test_an_attempt_of_which_only_the_last_stage_overflows_leaves_no_nan_in_the_gradient():
    found = []
    for adjoint in ("discrete", "backprop"):
        y0 = vector([30.0], [1.0], requires_grad=True)
        times = vector([0.0, 0.5], [0.25, 0.5], requires_grad=True)
        y = solve_ivp(
            lambda t, y: -(y**3), (0, 0.5), y0, t_eval=times, step_control="per_sample", first_step=0.05,
            adjoint=adjoint, rtol=1e-6, atol=1e-8,
        ).y  # fmt: skip
        found.append(torch.autograd.grad(y.sum(), [times, y0]))
        exact = y0 / torch.sqrt(1 + 2 * times * y0**2)
        for ours, truth in zip(found[-1], torch.autograd.grad(exact.sum(), [times, y0]), strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["own pullback", "plain"])
def test_threads_may_share_a_graph(kind):
    field = MLPField(3, (8,)).double()
    func = field if kind == "own pullback" else lambda t, y: torch.tanh(y @ field.layers[0].weight[:, :3].t())[:, :3]
    y0 = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    y = odeint(func, y0, [0.0, 1.0])[-1].sum()
    expected = torch.autograd.grad(y, y0, retain_graph=True)[0]
    found, errors = [], []

    def work():
        try:
            found.append(torch.autograd.grad(y, y0, retain_graph=True)[0])
        except Exception as error:
            errors.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    for gradient in found:
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
