"""``solve_ivp``: SciPy's vocabulary, batched, with output times per sample."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch

from skode.solvers import Solution, solve_ivp
from tests.solvers.problems import decay, pendulum


@pytest.fixture
def y0():
    return torch.tensor([[1.0, 0.0], [0.5, 0.5], [-1.0, 2.0]], dtype=torch.float64)


def test_a_solution_speaks_as_scipys_does(y0):
    times = np.linspace(0.0, 5.0, 7)
    ours = solve_ivp(pendulum, (0.0, 5.0), y0[0], t_eval=times, rtol=1e-10, atol=1e-12)
    scipys = scipy.integrate.solve_ivp(
        lambda t, y: [y[1], -math.sin(y[0])], (0.0, 5.0), y0[0].numpy(), t_eval=times, rtol=1e-10, atol=1e-12
    )
    assert isinstance(ours, Solution)
    np.testing.assert_array_equal(ours.t, scipys.t)
    # Time comes first here, last in SciPy: a state may have any shape.
    np.testing.assert_allclose(ours.y, scipys.y.T, rtol=0, atol=1e-8)
    assert (ours.status, ours.success, ours.message) == (scipys.status, scipys.success, scipys.message)
    assert ours.sol is None is scipys.sol


def test_without_t_eval_the_ends_of_all_steps_are_given(adaptive_method, y0):
    solution = solve_ivp(pendulum, (1.0, 4.0), y0, method=adaptive_method)
    assert solution.t.dtype == torch.float64
    assert (solution.t[0], solution.t[-1]) == (1.0, 4.0)
    assert len(solution.t) == solution.n_accepted + 1
    assert solution.y.shape == (len(solution.t), 3, 2)
    at_same_times = solve_ivp(pendulum, (1.0, 4.0), y0, method=adaptive_method, t_eval=solution.t)
    assert torch.equal(at_same_times.y, solution.y)


def test_output_times_may_leave_out_the_ends(method, y0, equal_steps):
    settings = equal_steps(method, 0.02)
    all_times = solve_ivp(pendulum, (0.0, 1.0), y0, t_eval=np.linspace(0, 1, 6), **settings).y
    some_times = solve_ivp(pendulum, (0.0, 1.0), y0, t_eval=[0.2, 0.6], **settings).y
    torch.testing.assert_close(some_times, all_times[[1, 3]], rtol=1e-14, atol=1e-15)


def test_no_output_times(y0):
    assert solve_ivp(pendulum, (0.0, 1.0), y0, t_eval=[]).y.shape == (0, 3, 2)
    assert solve_ivp(pendulum, (0.0, 1.0), y0, t_eval=torch.empty(3, 0)).y.shape == (3, 0, 2)


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
def test_output_times_per_sample_agree_with_shared_ones(method, adjoint, y0, span, equal_steps):
    shared = torch.linspace(*span, 9, dtype=torch.float64)
    settings = {**equal_steps(method, 0.05), "adjoint": adjoint}
    expected = solve_ivp(pendulum, span, y0, t_eval=shared, **settings).y
    # In any order, repeated, at the ends, and padded at either side
    own = [[4, 1, 1, 8], [0, None, 3, None], [None, None, None, 6]]
    t_eval = torch.tensor([[math.nan if i is None else shared[i].item() for i in row] for row in own])
    t_eval = t_eval.double()
    present = ~t_eval.isnan()
    t_eval[present] = torch.cat([shared[[i for i in row if i is not None]] for row in own])
    solution = solve_ivp(pendulum, span, y0, t_eval=t_eval, **settings)
    assert solution.y.shape == (3, 4, 2)
    assert torch.equal(solution.t.isnan(), ~present)
    assert torch.equal(solution.y.isnan().all(-1), ~present)
    for sample, row in enumerate(own):
        for j, i in enumerate(row):
            if i is not None:
                torch.testing.assert_close(solution.y[sample, j], expected[i, sample], rtol=1e-13, atol=1e-14)


def test_padding_gets_and_gives_no_gradient(adjoint, y0):
    y0.requires_grad_()
    t_eval = torch.tensor([[0.5, 1.0], [0.7, math.nan], [math.nan, math.nan]], dtype=torch.float64)
    y = solve_ivp(decay, (0.0, 1.0), y0, t_eval=t_eval, rtol=1e-8, atol=1e-8, adjoint=adjoint).y
    torch.nan_to_num(y).sum().backward()
    expected = torch.tensor([math.exp(-0.5) + math.exp(-1.0), math.exp(-0.7), 0.0], dtype=torch.float64)
    torch.testing.assert_close(y0.grad, expected[:, None].expand(3, 2), rtol=1e-6, atol=0)


def test_nothing_but_padding(adjoint, y0):
    y0.requires_grad_()
    y = solve_ivp(decay, (0.0, 1.0), y0, t_eval=torch.full((3, 4), math.nan), adjoint=adjoint).y
    assert y.shape == (3, 4, 2)
    assert y.isnan().all()


def test_an_empty_batch(method, equal_steps):
    empty = torch.empty(0, 2)
    settings = equal_steps(method, 0.1)
    assert solve_ivp(decay, (0.0, 1.0), empty, t_eval=[0.5], **settings).y.shape == (1, 0, 2)
    assert solve_ivp(decay, (0.0, 1.0), empty, t_eval=torch.empty(0, 4), **settings).y.shape == (0, 4, 2)
    assert solve_ivp(decay, torch.empty(0, 2), empty, t_eval=torch.empty(0, 4), **settings).y.shape == (0, 4, 2)
    assert solve_ivp(decay, torch.empty(0, 2), empty, t_eval=[0.5, 1.0], **settings).y.shape == (0, 2, 2)


def test_output_times_never_move_steps(adaptive_method, y0, counted):
    rng = np.random.default_rng(0)
    calls = []
    for t_eval in ([1.0], np.linspace(0, 1, 200), rng.uniform(0, 1, (3, 50)), None):
        func = counted(pendulum)
        solve_ivp(func, (0.0, 1.0), y0, method=adaptive_method, t_eval=t_eval)
        calls.append(func.times)
    assert calls[0] == calls[1] == calls[2] == calls[3]


def test_gradients_at_many_times_cost_no_more_evaluations_than_at_one(y0):
    evaluations = []
    for t_eval in ([1.0], np.linspace(0.01, 1.0, 100)):
        solution = solve_ivp(pendulum, (0.0, 1.0), y0.requires_grad_(), t_eval=t_eval)
        solution.y.sum().backward()
        evaluations.append(solution.statistics.nfev_backward)
    # At most the last stage of the last step, which only outputs inside it lean on, comes on top.
    assert evaluations[0] <= evaluations[1] <= evaluations[0] + 1


def test_the_defaults_are_scipys(y0):
    by_default = solve_ivp(pendulum, (0.0, 10.0), y0)
    spelt_out = solve_ivp(pendulum, (0.0, 10.0), y0, method="dopri5", rtol=1e-3, atol=1e-6, adjoint="discrete")
    assert torch.equal(by_default.y, spelt_out.y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "RK45"}, ValueError, r"method='RK45' is not known"),
        ({"adjoint": "exact"}, ValueError, r"adjoint='exact' is not known"),
        ({"method": "rk4"}, ValueError, r"method='rk4' takes steps of a fixed size: pass step_size"),
        ({"step_size": 0.1}, ValueError, r"step_size is for fixed-step methods; method='dopri5'"),
        ({"rtol": math.nan}, ValueError, r"rtol must be a finite number >= 0, got nan"),
        ({"atol": -1.0}, ValueError, r"atol must be a finite number >= 0, got -1.0"),
        ({"rtol": 0.0, "atol": 0.0}, ValueError, r"rtol and atol must not both be 0"),
        ({"max_steps": 0}, ValueError, r"max_steps must be an integer >= 1, got 0"),
        ({"first_step": math.inf}, ValueError, r"first_step must be a finite number > 0 or None, got inf"),
        ({"max_step": 0}, ValueError, r"max_step must be a finite number > 0 or None, got 0"),
        ({"memory_budget": 1.5}, ValueError, r"memory_budget must be an integer >= 0, got 1.5"),
        ({"t_span": (0.0,)}, ValueError, r"t_span must be a pair .* got shape \(1,\)"),
        ({"t_span": 1.0}, ValueError, r"t_span must be a pair .* got shape \(\)"),
        ({"t_span": [[0.0, 1.0]] * 2}, ValueError, r"t_span .* got shape \(2, 2\) for y0 of shape \(3, 2\)"),
        ({"t_span": (0.0, math.nan)}, ValueError, r"t_span contains NaN or infinity: \(0.0, nan\)"),
        ({"t_span": (0.0, math.inf)}, ValueError, r"t_span contains NaN or infinity: \(0.0, inf\)"),
        ({"t_span": ("a", "b")}, TypeError, r"t_span must hold real numbers, got \('a', 'b'\)"),
        ({"t_eval": [0.5, 1.5]}, ValueError, r"t_eval must lie inside t_span; 1.5 does not"),
        ({"t_eval": [-0.5, 0.5]}, ValueError, r"t_eval must lie inside t_span; -0.5 does not"),
        ({"t_eval": [0.5, 0.5]}, ValueError, r"t_eval must be strictly .* t_eval\[0\]=0.5 is followed by 0.5"),
        ({"t_eval": [0.2, 0.7, 0.5]}, ValueError, r"t_eval must be strictly .* t_eval\[1\]=0.7 is followed by 0.5"),
        ({"t_eval": [0.7, 0.5]}, ValueError, r"t_eval must be sorted in the direction of t_span"),
        ({"t_eval": [0.5, math.nan]}, ValueError, r"t_eval contains NaN or infinity"),
        ({"t_eval": 0.5}, ValueError, r"t_eval must be of shape .* got \(\)"),
        ({"t_eval": [[0.5]] * 2}, ValueError, r"t_eval must be of shape .* got \(2, 1\) for y0 of shape \(3, 2\)"),
        ({"t_eval": [[0.5], [2.0], [0.5]]}, ValueError, r"t_eval must lie inside t_span; 2.0 does not"),
        ({"t_eval": [[0.5], [math.inf], [0.5]]}, ValueError, r"t_eval contains infinity"),
        ({"t_eval": ["x"]}, TypeError, r"t_eval must hold real numbers, got \['x'\]"),
        ({"t_span": [[0.0, 1.0]] * 3}, ValueError, r"t_eval is needed where t_span is per sample"),
        (
            {"t_span": [[0.0, 1.0]] * 3, "t_eval": [0.5], "dense_output": True},
            ValueError,
            r"dense_output=True needs one t_span",
        ),
        (
            {"t_span": [[0.0, 1.0], [0.0, 0.4], [0.0, 1.0]], "t_eval": [0.5]},
            ValueError,
            r"t_eval must lie inside t_span; 0.5 does not",
        ),
        ({"y0": torch.ones(3, 2, dtype=torch.int32)}, TypeError, r"y0 must be float32 or float64, got torch.int32"),
        ({"y0": torch.tensor(math.nan)}, ValueError, r"y0 contains NaN or infinity"),
        ({"y0": (torch.ones(3), torch.ones(3))}, TypeError, r"y0 must be a torch tensor, got tuple"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(arguments, error, message):
    arguments = {"t_span": (0.0, 1.0), "y0": torch.ones(3, 2), **arguments}
    with pytest.raises(error, match=message):
        solve_ivp(decay, **arguments)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((0, 3), {"step_control": "per_sample"}),
        ((0, 3), {"events": lambda t, y: y[:, 0] - 0.5}),
        ((4, 0), {"step_control": "per_sample"}),
        ((4, 0), {"step_control": "per_sample", "norm": "max"}),
        ((4, 0), {"step_control": "per_sample", "t_eval": [0.5, 1.0]}),
        ((4, 0), {"t_eval": torch.full((4, 2), 0.5)}),
    ],
)
def test_states_without_elements_are_solved(shape, options):
    solution = solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.zeros(shape), **options)
    assert solution.y.numel() == 0
    assert solution.y.shape[-1] == shape[1]
