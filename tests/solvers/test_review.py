"""Cases that reviewers of the core found answered wrongly, each of them once."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.solvers import odeint, odeint_adjoint, odeint_event, solve_ivp

ADJOINTS = ["discrete", "continuous", "backprop"]


def tensor(*values, **options):
    return torch.tensor(values, dtype=torch.float64, **options)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "kvaerno5"])
@pytest.mark.parametrize("times", [[[0.0, 0.5], [0.25, 0.5]], [[0.0, 0.5], [0.0, 0.5]]])
def test_outputs_at_the_start_of_samples_whose_first_steps_are_taken_in_different_rounds(adjoint, method, times):
    y0, t = tensor([30.0], [1.0], requires_grad=True), tensor(*times, requires_grad=True)
    y = solve_ivp(
        lambda t, y: -(y**3), (0, 1), y0, t_eval=t, step_control="per_sample", first_step=0.05, rtol=1e-6, atol=1e-8,
        adjoint=adjoint, method=method,
    ).y  # fmt: skip
    # y(t) = y0 / sqrt(1 + 2 y0^2 t)
    exact = y0 / torch.sqrt(1 + 2 * y0**2 * t)
    torch.testing.assert_close(y[..., 0], exact, rtol=1e-4, atol=0)
    for ours, truth in zip(
        torch.autograd.grad(y.sum(), [t, y0]), torch.autograd.grad(exact.sum(), [t, y0]), strict=True
    ):
        torch.testing.assert_close(ours, truth, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_solve_in_inference_mode_leaves_later_ones_alone(adjoint, method):
    field, plain = MLPField(3, (4,)), nn.Linear(3, 3)
    for func in (field, lambda t, y: plain(y)):
        settings = {"method": method, "options": {"step_size": 0.25} if method == "rk4" else None}
        with torch.inference_mode():
            inside = odeint(func, torch.ones(7, 3), [0.0, 1.0], **settings)
        y0 = torch.ones(7, 3, requires_grad=True)
        y = odeint(func, y0, [0.0, 1.0], adjoint=adjoint, **settings)
        y.sum().backward()
        torch.testing.assert_close(y.detach(), inside.clone())


@pytest.mark.parametrize("method", ["rk4", "midpoint", "dopri5"])
def test_a_tensor_that_only_inner_stages_use_is_found(method):
    global dose
    dose = tensor(2.0, requires_grad=True)[0]

    class Dosed(nn.Module):
        def forward(self, t, y):
            return -y + dose if 0.2 < float(t) < 0.8 else -y

    gradients = [
        torch.autograd.grad(odeint(Dosed(), tensor(1.0), [0.0, 1.0], method=method, adjoint=adjoint)[-1].sum(), dose)[0]
        for adjoint in ("discrete", "backprop")
    ]
    assert gradients[0] > 0.3
    torch.testing.assert_close(*gradients)


def test_a_tensor_that_only_inner_stages_use_and_that_is_hidden_is_refused():
    hidden = {"dose": tensor(2.0, requires_grad=True)}
    made = [lambda: hidden["dose"]]
    registry = type("Registry", (), {"__slots__": ("get",)})()
    registry.get = made[0]

    def func(t, y):
        return -y + registry.get() if 0.2 < float(t) < 0.8 else -y

    y = odeint(func, tensor(1.0, requires_grad=True), [0.0, 1.0], method="rk4")
    with pytest.raises(RuntimeError, match="its gradient would be lost"):
        y[-1].sum().backward()


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "adaptive_heun", "kvaerno5"])
def test_an_attempt_that_overflows_leaves_no_nan_in_the_gradient(method):
    found = []
    rtol = 1e-5 if method == "adaptive_heun" else 1e-6  # of order 2: it takes many steps
    for adjoint in ("discrete", "backprop"):
        y0, k = tensor([30.0], [1.0], [2.0], requires_grad=True), tensor(1.0, requires_grad=True)
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
        y0 = tensor([30.0], [1.0], requires_grad=True)
        times = tensor([0.0, 0.5], [0.25, 0.5], requires_grad=True)
        y = solve_ivp(
            lambda t, y: -(y**3), (0, 0.5), y0, t_eval=times, step_control="per_sample", first_step=0.05,
            adjoint=adjoint, rtol=1e-6, atol=1e-8,
        ).y  # fmt: skip
        found.append(torch.autograd.grad(y.sum(), [times, y0]))
        exact = y0 / torch.sqrt(1 + 2 * times * y0**2)
        for ours, truth in zip(found[-1], torch.autograd.grad(exact.sum(), [times, y0]), strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("span", [(0, 1), (0, 0)])
@pytest.mark.parametrize("grad", [False, True])
def test_dense_output_does_not_change_with_the_callers_state(span, grad):
    y0 = torch.ones(2)
    start = y0.requires_grad_() if grad else y0
    solution = solve_ivp(lambda t, y: -y, span, start, dense_output=True)
    before = solution.sol(0.0).clone()
    with torch.no_grad():
        y0.fill_(100.0)
    assert torch.equal(solution.sol(0.0), before)


def test_a_solve_of_scipys_at_one_time_gives_a_copy():
    y0 = torch.ones(2)
    y = odeint(lambda t, y: -y, y0, [0.0], method="scipy_solver")
    y0.fill_(9.0)
    assert y.tolist() == [[1.0, 1.0]]


def test_memory_kept_for_later_solves_keeps_no_model_alive():
    field = MLPField(2, (30,))
    with torch.no_grad():
        odeint(field, torch.ones(5, 2), [0.0, 1.0])
    gone = weakref.ref(field.layers[0].weight)
    del field
    gc.collect()
    assert gone() is None


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


def test_an_event_that_starts_at_zero_is_found_where_it_comes_back():
    def thrown(t, y):
        return torch.stack([y[1], torch.full_like(y[1], -9.8)])

    for speed in (5.0, -5.0):
        gravity = -9.8 if speed > 0 else 9.8
        t, _ = odeint_event(
            lambda t, y, g=gravity: torch.stack([y[1], torch.full_like(y[1], g)]),
            tensor(0.0, speed), 0.0, event_fn=lambda t, y: y[0],
        )  # fmt: skip
        assert float(t) == pytest.approx(10 / 9.8, rel=1e-6)
    t, _ = odeint_event(thrown, tensor(0.0, 5.0), 0.0, event_fn=lambda t, y: torch.stack([y[0], y[0] - 1e3]))
    assert float(t) == pytest.approx(10 / 9.8, rel=1e-6)


def test_small_states_keep_their_precision_where_tanh_is_not_folded():
    errors = {}
    for fold in (True, False):
        field = MLPField(4, (32, 32), fold_tanh=fold, time_dependent=False, generator=torch.Generator().manual_seed(0))
        y0 = 1e-4 * torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
        settings = {"rtol": 1e-6, "atol": 1e-12}
        with torch.no_grad():
            found = odeint(field, y0, [0.0, 1.0], **settings)[-1].double()
            truth = odeint(field.double(), y0.double(), [0.0, 1.0], **settings)[-1]
        errors[fold] = float((found - truth).norm() / truth.norm())
    assert errors[False] < 1e-6 < errors[True]


def test_a_perceptron_says_what_states_it_takes():
    field = MLPField(3, (4,))
    for wrong in (torch.ones(3), torch.ones(5, 2), torch.ones(5, 3, dtype=torch.float64), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"MLPField takes states of shape \(n, 3\) and torch.float32"):
            odeint(field, wrong, [0.0, 1.0])


def test_a_norm_may_return_a_number_but_not_several():
    settings = {"t_span": (0.0, 1.0), "y0": torch.ones(4, 2)}
    assert solve_ivp(lambda t, y: -y, norm=lambda x: float(x.abs().max()), **settings).success
    with pytest.raises(ValueError, match=r"norm must return one number, got shape \(4,\)"):
        solve_ivp(lambda t, y: -y, norm=lambda x: x.abs().amax(1), **settings)


@pytest.mark.parametrize("name", [None, "fixed_adams"])
def test_torchdiffeqs_other_names_for_methods(name):
    t, y0 = torch.linspace(0.0, 1.0, 11), tensor(1.0)
    y = odeint(lambda t, y: -y, y0, t, method=name)
    assert float(y[-1, 0]) == pytest.approx(0.36787944, abs=1e-5)


def test_odeint_adjoint_is_the_continuous_one_with_torchdiffeqs_arguments():
    net = nn.Linear(2, 2).double()
    y0, times = torch.ones(3, 2, dtype=torch.float64), torch.linspace(0.0, 1.0, 3)

    def gradient(solver, **settings):
        y = solver(lambda t, y: torch.tanh(net(y)), y0, times, **settings)
        return torch.autograd.grad(y.square().sum(), list(net.parameters()))

    found = gradient(odeint_adjoint, adjoint_params=tuple(net.parameters()))
    assert all(map(torch.equal, found, gradient(odeint, adjoint="continuous")))
    semi = gradient(odeint_adjoint, adjoint_options={"norm": "seminorm"})
    assert all(map(torch.equal, semi, gradient(odeint, adjoint="continuous", options={"seminorm": True})))


def test_solutions_can_be_copied_and_pickled():
    solution = solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2), dense_output=True)
    for again in (copy.deepcopy(solution), pickle.loads(pickle.dumps(solution))):
        assert torch.equal(again.sol(0.3), solution.sol(0.3))
