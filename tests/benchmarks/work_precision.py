"""Error against evaluations and against time: ``python -m tests.benchmarks.work_precision``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import integrate

from skode.solvers import METHODS, SolverError, solve_ivp
from tests.benchmarks.peers import make_problem, mlp_field, perceptron
from tests.benchmarks.report import machine, new_figure, save, table, write
from tests.benchmarks.threads import run_with_threads, started_with_threads
from tests.benchmarks.timing import interleaved

TOLERANCES = tuple(10.0**-k for k in range(2, 11))
MAX_STEPS = 20_000
NOTES = f"""\
float64, one thread, rtol = atol from 1e-2 to 1e-10. The error is that of the end state, in the maximum norm. The
reference is SciPy's DOP853 at 1e-13, for the stiff problem Radau at 1e-12. Times are medians, diffrax is jitted and
warm; its evaluations are counted from its steps, and not for implicit methods. SciPy does not count those of its
finite-difference Jacobians. A point that needs more than {MAX_STEPS:,} steps is left out."""

Solve = Callable[[float], tuple[Any, int | None]]  # tolerance -> end state, evaluations


class Point(NamedTuple):
    """The work and the error of a solver at a tolerance."""

    tolerance: float
    nfev: int | None
    error: float
    seconds: float


@dataclass(frozen=True)
class Problem:
    """``dy/dt = rate(xp)(t, y)`` on arrays of the library ``xp``, over ``(0, t1)``.

    Parameters
    ----------
    title : str
        Its name in the picture.
    rate : callable
        Gives the vector field for a library: its array functions, and its way to take a numpy array.
    y0 : ndarray
        Initial state.
    t1 : float
        Final time.
    stiff : bool
        Whether only implicit methods are put to it.
    field : callable or None
        skode's own field, where there is one.
    """

    title: str
    rate: Callable[[Any, Callable[[np.ndarray], Any]], Callable[[Any, Any], Any]]
    y0: np.ndarray
    t1: float
    stiff: bool = False
    field: Callable[..., Any] | None = None


def kepler(xp: Any, array: Callable[[np.ndarray], Any]) -> Callable[[Any, Any], Any]:
    """Two bodies: position and velocity in the plane (Hairer, Norsett, Wanner 1993)."""

    def rate(t: Any, y: Any) -> Any:
        position, velocity = y[..., :2], y[..., 2:]
        cubed = (position**2).sum(-1)[..., None] ** 1.5
        return xp.concatenate([velocity, -position / cubed], axis=-1)

    return rate


def van_der_pol(mu: float, xp: Any, array: Callable[[np.ndarray], Any]) -> Callable[[Any, Any], Any]:
    """``x'' = mu (1 - x^2) x' - x``, stiff where ``mu`` is large."""

    def rate(t: Any, y: Any) -> Any:
        x, v = y[..., 0], y[..., 1]
        return xp.stack([v, mu * (1 - x**2) * v - x], -1)

    return rate


def problems(mu: float = 1000.0) -> list[Problem]:
    """A Kepler orbit, the perceptron of the other benchmarks, and Van der Pol's oscillator.

    Parameters
    ----------
    mu : float, default=1000.0
        The oscillator's stiffness; the time span is ``2 mu``, more than one period.
    """
    perceptron_problem = make_problem(64, 4, 32)
    net = perceptron_problem.net.double()
    layers = [(w, b) for w, b in perceptron_problem.arrays]

    def mlp(xp: Any, array: Callable[[np.ndarray], Any]) -> Callable[[Any, Any], Any]:
        own = [(array(w), array(b)) for w, b in layers]
        return lambda t, y: perceptron(y, own, xp.tanh)

    eccentricity = 0.5
    orbit = np.array([1 - eccentricity, 0.0, 0.0, np.sqrt((1 + eccentricity) / (1 - eccentricity))])
    states = perceptron_problem.y0.double().numpy()
    return [
        Problem("Kepler orbit, eccentricity 0.5, one period", kepler, orbit, 2 * np.pi),
        Problem("perceptron (64, 4, 32)", mlp, states, 1.0, field=mlp_field(net)),
        Problem(f"Van der Pol, mu = {mu:g}", partial(van_der_pol, mu), np.array([2.0, 0.0]), 2 * mu, stiff=True),
    ]


def reference(problem: Problem) -> np.ndarray:
    """The end state by SciPy at its tightest."""
    settings = ("Radau", 1e-12) if problem.stiff else ("DOP853", 1e-13)
    return _scipy_solve(problem, *settings)[0]


def skode_solvers(problem: Problem) -> Iterator[tuple[str, Solve]]:
    """Every adaptive method of skode that suits the problem."""
    field = problem.field or problem.rate(torch, torch.from_numpy)
    y0 = torch.from_numpy(problem.y0)

    def solve(method: str, tolerance: float) -> tuple[Any, int]:
        with torch.no_grad():
            solution = solve_ivp(
                field,
                (0.0, problem.t1),
                y0,
                t_eval=[problem.t1],
                method=method,
                rtol=tolerance,
                atol=tolerance,
                max_steps=MAX_STEPS,
            )
        return solution.y[-1], int(solution.nfev)

    for name, method in METHODS.items():
        if method.adaptive and method.implicit == problem.stiff:
            yield f"skode {name}", partial(solve, name)


def torchdiffeq_solvers(problem: Problem) -> Iterator[tuple[str, Solve]]:
    """torchdiffeq's dopri5 and dopri8."""
    import torchdiffeq

    rate, y0 = problem.rate(torch, torch.from_numpy), torch.from_numpy(problem.y0)
    times = torch.tensor([0.0, problem.t1], dtype=torch.float64)

    def solve(method: str, tolerance: float) -> tuple[Any, int]:
        n_calls = 0

        def counted(t: Any, y: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            return rate(t, y)

        with torch.no_grad():
            y = torchdiffeq.odeint(counted, y0, times, rtol=tolerance, atol=tolerance, method=method)
        return y[-1], n_calls

    for method in () if problem.stiff else ("dopri5", "dopri8"):
        yield f"torchdiffeq {method}", partial(solve, method)


def diffrax_solvers(problem: Problem) -> Iterator[tuple[str, Solve]]:
    """diffrax's tsit5 and dopri8, or kvaerno5."""
    import diffrax as dfx
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    term, y0 = dfx.ODETerm(lambda t, y, args: problem.rate(jnp, jnp.asarray)(t, y)), jnp.asarray(problem.y0)

    def compiled(method: Any) -> Solve:
        @jax.jit
        def solve(tolerance: Any) -> Any:
            controller = dfx.PIDController(rtol=tolerance, atol=tolerance)
            solution = dfx.diffeqsolve(
                term,
                method,
                0.0,
                problem.t1,
                None,
                y0,
                stepsize_controller=controller,
                max_steps=MAX_STEPS,
                throw=False,
            )
            failed = solution.result != dfx.RESULTS.successful
            return jnp.where(failed, jnp.nan, solution.ys[-1]), solution.stats["num_steps"]

        def call(tolerance: float) -> tuple[Any, int | None]:
            y, n_steps = jax.block_until_ready(solve(tolerance))
            # The last stage of a step is the first of the next; 3 evaluations choose the first step and start.
            return y, None if problem.stiff else 3 + int(n_steps) * (method.tableau.num_stages - 1)

        return call

    methods = {"kvaerno5": dfx.Kvaerno5()} if problem.stiff else {"tsit5": dfx.Tsit5(), "dopri8": dfx.Dopri8()}
    for name, method in methods.items():
        yield f"diffrax {name}", compiled(method)


def scipy_solvers(problem: Problem) -> Iterator[tuple[str, Solve]]:
    """SciPy's explicit methods, or its implicit ones."""
    for method in ("Radau", "BDF", "LSODA") if problem.stiff else ("RK45", "DOP853"):
        yield f"SciPy {method}", partial(_scipy_solve, problem, method)


LIBRARIES = (skode_solvers, torchdiffeq_solvers, diffrax_solvers, scipy_solvers)


def curves(
    problem: Problem, tolerances: Sequence[float], pace: dict[str, Any]
) -> tuple[dict[str, list[Point]], list[str]]:
    """Work and error of every solver at every tolerance.

    Parameters
    ----------
    problem : Problem
        What to solve.
    tolerances : sequence of float
        ``rtol`` and ``atol``.
    pace : dict
        ``rounds`` and ``seconds`` of :func:`tests.benchmarks.timing.interleaved`, for each tolerance.

    Returns
    -------
    points : dict of str to list of Point
        Points of each solver.
    missing : list of str
        A sentence for each library left out.
    """
    exact, solvers, missing = reference(problem), {}, []
    for library in LIBRARIES:
        try:
            solvers |= dict(library(problem))
        except ImportError as error:
            missing.append(f"{library.__name__} are left out: {error}.")
    points: dict[str, list[Point]] = {name: [] for name in solvers}
    for tolerance in tolerances:
        solved = {name: _outcome(solve, tolerance, exact) for name, solve in solvers.items()}
        calls = {name: partial(solvers[name], tolerance) for name, outcome in solved.items() if outcome}
        for name, seconds in interleaved(calls, **pace).items():
            nfev, error = solved[name]
            points[name].append(Point(tolerance, nfev, error, float(np.median(seconds))))
    return points, missing


def _outcome(solve: Solve, tolerance: float, exact: np.ndarray) -> tuple[int | None, float] | None:
    """Evaluations and error, or None where the solver gave up."""
    try:
        y, nfev = solve(tolerance)
    except SolverError:
        return None
    error = float(np.abs(np.asarray(y).reshape(exact.shape) - exact).max())
    return (nfev, error) if np.isfinite(error) else None


def _scipy_solve(problem: Problem, method: str, tolerance: float) -> tuple[np.ndarray, int]:
    rate, shape = problem.rate(np, np.asarray), problem.y0.shape
    solution = integrate.solve_ivp(
        lambda t, y: rate(t, y.reshape(shape)).ravel(),
        (0.0, problem.t1),
        problem.y0.ravel(),
        method=method,
        rtol=tolerance,
        atol=tolerance,
    )
    return solution.y[:, -1].reshape(shape), solution.nfev


def _picture(drawn: list[tuple[Problem, dict[str, list[Point]]]], path: Path) -> None:
    figure, axes = new_figure(len(drawn), 2)
    for row, (problem, points) in zip(axes, drawn, strict=True):
        for ax, work, label in zip(row, ("nfev", "seconds"), ("evaluations", "seconds"), strict=True):
            for name, measured in points.items():
                style = "-o" if name.startswith("skode") else "--s"
                amounts = [getattr(point, work) or np.nan for point in measured]
                ax.loglog([point.error for point in measured], amounts, style, label=name, markersize=3)
            ax.set(xlabel="error", ylabel=label, title=problem.title)
            ax.invert_xaxis()
        row[1].legend(fontsize="x-small")
    save(figure, path)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.work_precision", description=__doc__)
    parser.add_argument("--out", type=Path, help="a folder for work_precision.md and work_precision.png")
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES)
    parser.add_argument("--seconds", type=float, default=5.0, help="time to spend on each problem and tolerance")
    parser.add_argument("--quick", action="store_true", help="three rounds, and mu = 100")
    return parser


def _section(problem: Problem, points: dict[str, list[Point]], missing: list[str]) -> str:
    rows = [
        [name, f"{point.tolerance:.0e}", point.nfev, f"{point.error:.1e}", f"{1e3 * point.seconds:.2f}"]
        for name, measured in points.items()
        for point in measured
    ]
    if problem.stiff and not any(name.startswith("skode") for name in points):
        missing = [*missing, "skode has no adaptive implicit method here."]
    return "\n\n".join([f"## {problem.title}", table(["", "tolerance", "NFE", "error", "ms"], rows), *missing])


def main() -> None:
    """Print the tables, and write page and picture where ``--out`` says."""
    options = _arguments().parse_args()
    if started_with_threads() is None:
        for line in run_with_threads(1, "tests.benchmarks.work_precision", sys.argv[1:]):
            print(line, end="", flush=True)
        return
    torch.set_num_threads(1)
    command = " ".join(["python -m tests.benchmarks.work_precision", *sys.argv[1:]])
    pace = {"rounds": 3 if options.quick else None, "seconds": options.seconds}
    print(machine(command), NOTES, sep="\n\n", flush=True)
    sections, drawn = [NOTES], []
    for problem in problems(100.0 if options.quick else 1000.0):
        points, missing = curves(problem, options.tolerances, pace)
        drawn.append((problem, points))
        sections.append(_section(problem, points, missing))
        print(f"\n{sections[-1]}", flush=True)
    if options.out:
        picture = "![Work against precision](work_precision.png)"
        write(options.out / "work_precision.md", "Work and precision", "\n\n".join([picture, *sections]), command)
        _picture(drawn, options.out / "work_precision.png")


if __name__ == "__main__":
    main()
