"""The continuous adjoint: an equation solved backward, in memory that does not grow with the steps."""

import pytest
import torch

from skode.solvers import odeint, solve_ivp
from tests.solvers.problems import in_steps


def test_the_outputs_hang_on_one_node_and_it_on_the_inputs_alone(tanh_field, batch):
    y0 = batch.clone().requires_grad_()
    y = odeint(tanh_field, y0, [0.0, 0.5, 1.0], adjoint="continuous")
    behind = [node.variable for node, _ in y.grad_fn.next_functions if node is not None]
    assert {id(tensor) for tensor in behind} == {id(tensor) for tensor in (y0, *tanh_field.parameters())}


def test_autograd_saves_no_more_for_more_steps(tanh_field, batch, adaptive_method, saved_tensors):
    y0 = batch.clone().requires_grad_()
    settings = {"method": adaptive_method, "adjoint": "continuous", "t_eval": [1.0]}
    few, many = (
        saved_tensors(lambda n=n: solve_ivp(tanh_field, (0, 1), y0, **settings, **in_steps(n))) for n in (3, 30)
    )
    assert few == many


def test_no_state_inside_the_span_is_kept(remembers_states, adaptive_method):
    y0 = torch.ones(3, requires_grad=True)
    settings = {"method": adaptive_method, "adjoint": "continuous", "t_eval": [0.5, 1.0]}
    solution = solve_ivp(remembers_states, (0, 1), y0, **settings, **in_steps(50))
    assert solution.nfev > 150
    assert remembers_states.n_alive <= 2


def test_the_gradient_follows_the_tolerance(tanh_field, batch, adaptive_method):
    def gradient(rtol, adjoint):
        y = odeint(tanh_field, batch, [0.0, 2.0], rtol=rtol, atol=rtol, method=adaptive_method, adjoint=adjoint)
        return torch.autograd.grad((y[-1] ** 2).sum(), tanh_field.weight)[0]

    reference = gradient(1e-10, "backprop")
    errors = [(gradient(rtol, "continuous") - reference).abs().max() / reference.abs().max() for rtol in (1e-3, 1e-6)]
    assert 1e-7 < errors[0] < 1e-2
    assert 1e-10 < errors[1] < 1e-5


def test_a_seminorm_saves_evaluations_and_keeps_the_gradient(batch):
    # The parameters' gradients are integrals over the batch, far larger than the state: they dominate a full norm.
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3)).double()
    large_batch = batch.repeat(20, 1)
    found = {}
    for seminorm in (False, True):
        settings = {"rtol": 1e-6, "atol": 1e-6, "adjoint": "continuous", "seminorm": seminorm}
        solution = solve_ivp(lambda t, y: network(y), (0.0, 3.0), large_batch, t_eval=[3.0], **settings)
        gradients = torch.autograd.grad((solution.y**2).sum(), list(network.parameters()))
        found[seminorm] = solution.statistics.nfev_backward, torch.cat([g.flatten() for g in gradients])
    assert found[True][0] < found[False][0]
    reference = odeint(lambda t, y: network(y), large_batch, [0.0, 3.0], rtol=1e-10, atol=1e-10)
    expected = torch.autograd.grad((reference[-1] ** 2).sum(), list(network.parameters()))
    expected = torch.cat([g.flatten() for g in expected])
    for _, gradient in found.values():
        assert torch.linalg.vector_norm(gradient - expected) < 1e-5 * torch.linalg.vector_norm(expected)


def test_after_the_last_output_that_counts_nothing_is_solved(counted):
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)

    def backward_times(output):
        func = counted(lambda t, y: -y)
        y = odeint(func, y0, [0.0, 1.0, 5.0], adjoint="continuous")
        n_forward = func.n_calls
        y[output].sum().backward()
        return func.times[n_forward:]

    assert backward_times(0) == []
    assert max(backward_times(1)) == 1.0
    assert max(backward_times(2)) == 5.0


def test_many_outputs_restart_from_known_states():
    # Backward, this field is unstable: drift of the state would grow by exp(30).
    y0 = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def gradient(adjoint):
        t = torch.linspace(0, 3, 61, dtype=torch.float64)
        y = odeint(lambda t, y: -10 * w * (y - torch.cos(t)), y0, t, rtol=1e-7, atol=1e-9, adjoint=adjoint)
        return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(y.sum(), [y0, w])])

    torch.testing.assert_close(gradient("continuous"), gradient("discrete"), rtol=1e-4, atol=0)


def test_output_times_of_single_samples(batch, tanh_field):
    t_eval = torch.tensor([[0.2, 1.0]] * 3 + [[0.7, 0.1]] * 2, dtype=torch.float64)
    found = []
    for adjoint in ("continuous", "discrete"):
        y0 = batch.clone().requires_grad_()
        y = solve_ivp(tanh_field, (0.0, 1.0), y0, t_eval=t_eval, rtol=1e-9, atol=1e-9, adjoint=adjoint).y
        found.append(torch.autograd.grad((y**2).sum(), [y0, *tanh_field.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_outputs_at_every_step(batch, tanh_field):
    found = []
    for adjoint in ("continuous", "discrete"):
        y0 = batch.clone().requires_grad_()
        y = solve_ivp(tanh_field, (0.0, 1.0), y0, rtol=1e-7, atol=1e-7, adjoint=adjoint).y
        found.append(torch.autograd.grad((y**2).sum(), [y0, *tanh_field.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seminorm", [False, True])
def test_it_counts_its_evaluations(tanh_field, batch, seminorm):
    solution = solve_ivp(tanh_field, (0.0, 1.0), batch, adjoint="continuous", t_eval=[1.0], seminorm=seminorm)
    assert solution.statistics.nfev_backward == 0
    tanh_field.reset_counts()
    solution.y.sum().backward()
    assert solution.statistics.nfev_backward == tanh_field.n_linearize == tanh_field.n_pullback > 6
