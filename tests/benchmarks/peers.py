"""One problem, put to each library: a tanh perceptron integrated from 0 to 1, and the gradient of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy import integrate
from torch import Tensor, nn

from skode.dynamics import MLPField
from skode.solvers import solve_ivp

RTOL = ATOL = 1e-5
END = np.array([1.0])


@dataclass(frozen=True)
class Problem:
    """``dy/dt = net(y)`` from ``y(0) = y0``; the loss is the sum of squares of the states at ``times``.

    Parameters
    ----------
    net : nn.Sequential
        The vector field: linear, tanh, linear, tanh, linear.
    y0 : Tensor of shape (batch, state)
        Initial states.
    times : ndarray of shape (n_times,)
        Output times in (0, 1].
    """

    net: nn.Sequential
    y0: Tensor
    times: np.ndarray

    @property
    def parameters(self) -> list[Tensor]:
        """The weights and biases, layer by layer."""
        return list(self.net.parameters())

    @property
    def arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The layers' weights and biases as numpy arrays."""
        return [(layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy()) for layer in self.net[::2]]

    def reference(self) -> np.ndarray:
        """States at the output times in float64, by SciPy's DOP853 at tight tolerance."""
        return _scipy_states(self, np.float64, method="DOP853", rtol=1e-10, atol=1e-10)[0]


@dataclass(frozen=True)
class Contender:
    """A library's way to solve a problem.

    Parameters
    ----------
    name : str
        The library and what was called.
    states : callable
        Computes the states at the output times, of shape (n_times, batch, state), with no gradient recorded.
    gradient : callable or None
        Solves and computes the loss's gradients with respect to ``y0`` and each parameter, in layer order.
    nfev : int
        Evaluations of the field in ``states()``.
    nfev_gradient : int or None
        Evaluations of the field in ``gradient()``, where they can be counted.
    compile_seconds : dict
        What the first calls of ``states`` and ``gradient`` took, for a library that compiles.
    """

    name: str
    states: Callable[[], Any]
    gradient: Callable[[], Any] | None
    nfev: int
    nfev_gradient: int | None = None
    compile_seconds: dict[str, float] = field(default_factory=dict)


def make_problem(
    batch: int, state: int, hidden: int, times: np.ndarray = END, *, seed: int = 0, device: str = "cpu"
) -> Problem:
    """A random problem in float32: torch's initial weights, scaled by 2, and normal initial states.

    Parameters
    ----------
    batch, state, hidden : int
        Number of samples, and sizes of the state and of both hidden layers.
    times : ndarray of shape (n_times,)
        Output times in (0, 1].
    seed : int, default=0
        Seed of torch's generator.
    device : str, default="cpu"
        Where the problem lives; it is the same one everywhere.

    Returns
    -------
    Problem
    """
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(state, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, state)
    )
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.mul_(2.0)
    return Problem(net.to(device), torch.randn(batch, state).to(device), times)


def mlp_field(net: nn.Sequential) -> MLPField:
    """skode's own field with the weights of ``net``."""
    first = net[0]
    copy = MLPField(first.in_features, (first.out_features, first.out_features), time_dependent=False)
    copy.to(first.weight)
    with torch.no_grad():
        for own, theirs in zip(copy.parameters(), net.parameters(), strict=True):
            own.copy_(theirs)
    return copy


def skode_field(problem: Problem) -> list[Contender]:
    """skode with its own field."""
    mlp = mlp_field(problem.net)
    parameters = list(mlp.parameters())

    def solve(y0: Tensor) -> Any:
        return solve_ivp(mlp, (0.0, 1.0), y0, t_eval=problem.times, rtol=RTOL, atol=ATOL)

    with torch.no_grad():
        nfev = int(solve(problem.y0).nfev)
    return [_torch_contender("skode", problem, lambda y0: solve(y0).y, parameters, nfev)]


def skode_module(problem: Problem) -> list[Contender]:
    """skode with the plain torch module."""
    rate = _autonomous(problem)

    def solve(y0: Tensor) -> Any:
        return solve_ivp(rate, (0.0, 1.0), y0, t_eval=problem.times, rtol=RTOL, atol=ATOL)

    nfev = None
    if problem.y0.device.type != "cpu":  # a replayed CUDA graph calls no module that could be counted
        with torch.no_grad():
            nfev = int(solve(problem.y0).nfev)
    return [_torch_contender("skode, plain module", problem, lambda y0: solve(y0).y, nfev=nfev)]


def torchdiffeq(problem: Problem) -> list[Contender]:
    """torchdiffeq's two doors."""
    from torchdiffeq import odeint, odeint_adjoint

    rate = _autonomous(problem)
    t = torch.from_numpy(np.append(0.0, problem.times)).to(problem.y0)

    def direct(y0: Tensor) -> Tensor:
        return odeint(rate, y0, t, rtol=RTOL, atol=ATOL, method="dopri5")[1:]

    def adjoint(y0: Tensor) -> Tensor:
        parameters = tuple(problem.parameters)
        return odeint_adjoint(rate, y0, t, rtol=RTOL, atol=ATOL, method="dopri5", adjoint_params=parameters)[1:]

    return [
        _torch_contender("torchdiffeq odeint", problem, direct),
        _torch_contender("torchdiffeq odeint_adjoint", problem, adjoint),
    ]


def torchode(problem: Problem) -> list[Contender]:
    """torchode, which chooses the steps of each sample."""
    import torchode as to

    batch = len(problem.y0)
    term = to.ODETerm(_autonomous(problem), with_stats=False)
    controller = to.IntegralController(atol=ATOL, rtol=RTOL, term=term)
    solver = to.AutoDiffAdjoint(to.Dopri5(term=term), controller, backprop_through_step_size_control=False)
    start, end = problem.y0.new_zeros(batch), problem.y0.new_ones(batch)
    t_eval = None if len(problem.times) == 1 else torch.from_numpy(problem.times).to(start).expand(batch, -1)

    def states(y0: Tensor) -> Tensor:
        return solver.solve(to.InitialValueProblem(y0, start, end, t_eval), term).ys.transpose(0, 1)

    return [_torch_contender("torchode", problem, states)]


def diffrax(problem: Problem) -> list[Contender]:
    """diffrax, jitted; its time to compile is told apart."""
    import diffrax as dfx
    import jax
    import jax.numpy as jnp

    y0 = jnp.asarray(problem.y0.cpu().numpy())
    layers = [(jnp.asarray(w), jnp.asarray(b)) for w, b in problem.arrays]
    saveat = dfx.SaveAt(t1=True) if len(problem.times) == 1 else dfx.SaveAt(ts=jnp.asarray(problem.times, y0.dtype))

    def solve(y0: Any, layers: Any) -> Any:
        return dfx.diffeqsolve(
            dfx.ODETerm(lambda t, y, layers: perceptron(y, layers, jnp.tanh)),
            dfx.Dopri5(),
            t0=0.0,
            t1=1.0,
            dt0=None,
            y0=y0,
            args=layers,
            saveat=saveat,
            stepsize_controller=dfx.PIDController(rtol=RTOL, atol=ATOL),
            adjoint=dfx.RecursiveCheckpointAdjoint(),
        )

    def states_and_steps(y0: Any, layers: Any) -> tuple[Any, Any]:
        solution = solve(y0, layers)
        return solution.ys, solution.stats["num_steps"]

    states = jax.jit(states_and_steps)
    loss_and_gradient = jax.jit(
        jax.value_and_grad(lambda y0, layers: (solve(y0, layers).ys ** 2).sum(), argnums=(0, 1))
    )

    def gradient() -> list[Any]:
        return jax.tree.leaves(jax.block_until_ready(loss_and_gradient(y0, layers)[1]))

    def forward() -> Any:
        return jax.block_until_ready(states(y0, layers))[0]

    compile_seconds = {"forward": _seconds(forward), "forward + backward": _seconds(gradient)}
    # 2 evaluations choose the first step, 1 starts the solve, and 6 make a step: the first stage is the last one's.
    nfev = 3 + 6 * int(states(y0, layers)[1])
    return [Contender("diffrax", forward, gradient, nfev, compile_seconds=compile_seconds)]


def scipy(problem: Problem) -> list[Contender]:
    """SciPy's RK45 on the batch as one flat system; the state is float64 there, the field is float32."""

    def states() -> np.ndarray:
        return _scipy_states(problem, np.float32, method="RK45", rtol=RTOL, atol=ATOL)[0]

    nfev = _scipy_states(problem, np.float32, method="RK45", rtol=RTOL, atol=ATOL)[1]
    return [Contender("SciPy RK45", states, None, nfev)]


LIBRARIES: dict[str, Callable[[Problem], list[Contender]]] = {
    "skode": skode_field,
    "skode, plain module": skode_module,
    "torchdiffeq": torchdiffeq,
    "torchode": torchode,
    "diffrax": diffrax,
    "scipy": scipy,
}


def contenders(problem: Problem, libraries: Sequence[str] = tuple(LIBRARIES)) -> tuple[list[Contender], list[str]]:
    """Put a problem to each library that is installed.

    Parameters
    ----------
    problem : Problem
        The problem.
    libraries : sequence of str
        Keys of ``LIBRARIES``.

    Returns
    -------
    contenders : list of Contender
        Ready to be called.
    missing : list of str
        A sentence for each library that could not be imported.
    """
    found, missing = [], []
    for library in libraries:
        try:
            found += LIBRARIES[library](problem)
        except ImportError as error:
            missing.append(f"{library} is left out: {error}.")
    return found, missing


def bare(problem: Problem, nfev: int) -> Callable[[], Any]:
    """As many plain evaluations of the torch module, with no gradient recorded."""

    def evaluate() -> Tensor:
        with torch.no_grad():
            for _ in range(nfev):
                y = problem.net(problem.y0)
        return y

    return evaluate


def perceptron(y: Any, layers: Sequence[tuple[Any, Any]], tanh: Callable[[Any], Any]) -> Any:
    """The perceptron's value on arrays of any library.

    Parameters
    ----------
    y : array of shape (batch, state)
        States.
    layers : sequence of pairs of arrays
        Weights of shape (n_out, n_in) and biases.
    tanh : callable
        The library's own.

    Returns
    -------
    array of shape (batch, state)
    """
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        y = tanh(y @ w.T + b)
    return y @ weight.T + bias


def _torch_contender(
    name: str,
    problem: Problem,
    states: Callable[[Tensor], Tensor],
    parameters: list[Tensor] | None = None,
    nfev: int | None = None,
) -> Contender:
    """A solver of torch tensors; evaluations of the module are counted where ``nfev`` isn't given."""
    parameters = problem.parameters if parameters is None else parameters

    def forward() -> Tensor:
        with torch.no_grad():
            return states(problem.y0)

    def gradient() -> tuple[Tensor, ...]:
        y0 = problem.y0.clone().requires_grad_()
        return torch.autograd.grad(states(y0).square().sum(), [y0, *parameters])

    if nfev is not None:
        return Contender(name, forward, gradient, nfev)
    with _counting(problem.net) as calls:
        forward()
        nfev = len(calls)
        gradient()
    return Contender(name, forward, gradient, nfev, len(calls) - nfev)


def _autonomous(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """The module as ``func(t, y)``; a module itself, so that ``odeint_adjoint`` takes it."""

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = problem.net

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y)

    return Field()


@contextmanager
def _counting(net: nn.Module) -> Iterator[list[None]]:
    """A list that grows by one with each call of the module."""
    calls: list[None] = []
    handle = net.register_forward_pre_hook(lambda module, inputs: calls.append(None))
    try:
        yield calls
    finally:
        handle.remove()


def _scipy_states(problem: Problem, dtype: type, **settings: Any) -> tuple[np.ndarray, int]:
    shape = problem.y0.shape
    layers = [(w.astype(dtype), b.astype(dtype)) for w, b in problem.arrays]

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        return perceptron(y.reshape(shape).astype(dtype), layers, np.tanh).ravel()

    y0 = problem.y0.cpu().numpy().astype(np.float64).ravel()
    solution = integrate.solve_ivp(rate, (0.0, 1.0), y0, t_eval=problem.times, **settings)
    return solution.y.T.reshape(len(problem.times), *shape), solution.nfev


def _seconds(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start
