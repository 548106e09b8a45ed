"""Time to solve and to differentiate, beside the peers: ``python -m tests.benchmarks.speed``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers import solve_ivp
from tests.benchmarks.peers import (
    ATOL,
    END,
    RTOL,
    Contender,
    Problem,
    bare,
    contenders,
    make_problem,
    mlp_field,
)
from tests.benchmarks.report import machine, table, write
from tests.benchmarks.threads import run_with_threads, started_with_threads
from tests.benchmarks.timing import interleaved, milliseconds, ratio

SHAPES = ((64, 4, 32), (128, 2, 64), (256, 32, 128), (256, 64, 128), (512, 64, 256))
MANY_TIMES = np.linspace(0.01, 1.0, 100)
RATIOS = ("torchdiffeq odeint", "torchdiffeq odeint_adjoint", "torchode", "diffrax", "skode, plain module")

NOTES = """\
Medians over interleaved rounds: each round gives every contender one turn. Ratios are taken within rounds. 'bare' is
as many plain evaluations of the torch module as skode's solve makes. dopri5, rtol = atol = 1e-5, float32. NFE counts
evaluations of the field; in brackets those of a solve with its gradient, where they can be counted (skode's own field
is not evaluated again: its pullback reuses what the solve kept). torchode chooses the steps of each sample. diffrax
is jitted and warm. SciPy has one thread always, so that its idle ones disturb nobody. Errors are relative, in the
maximum norm, to SciPy's DOP853 at 1e-10 in float64; a gradient's difference is to skode's."""


def time_shapes(pace: dict[str, Any], shapes: Sequence[tuple[int, int, int]] = SHAPES) -> Iterator[str]:
    """The main tables, shape by shape.

    Parameters
    ----------
    pace : dict
        ``rounds`` and ``seconds`` of :func:`tests.benchmarks.timing.interleaved`.
    shapes : sequence of (batch, state, hidden)
        The rows.

    Yields
    ------
    str
        A table of one shape; at last one of ratios.
    """
    ratios = []
    for shape in shapes:
        problem = make_problem(*shape)
        found, missing = contenders(problem)
        forward, backward = _durations(problem, found, pace)
        yield "\n".join([f"### batch, state, hidden = {shape}", "", _shape_table(problem, found, forward, backward)])
        yield from missing
        ratios.append([*shape, *_ratios(forward, backward)])
    header = ["batch", "state", "hidden", "skode forward / bare"]
    header += [f"{name} / skode" for name in RATIOS] + ["diffrax / skode, forward"]
    yield "### Ratios (forward + backward unless said otherwise)\n\n" + table(header, ratios)


def time_many_outputs(pace: dict[str, Any], shape: tuple[int, int, int] = (256, 32, 128)) -> Iterator[str]:
    """Forward + backward with 100 output times against one, each library against itself."""
    one, missing = contenders(make_problem(*shape))
    many, _ = contenders(make_problem(*shape, MANY_TIMES))
    calls = {(contender.name, 1): contender.gradient for contender in one if contender.gradient}
    calls |= {(contender.name, 100): contender.gradient for contender in many if contender.gradient}
    taken = interleaved(calls, **pace)
    rows = [
        [name, milliseconds(taken[name, 1]), milliseconds(taken[name, 100]), ratio(taken[name, 100], taken[name, 1])]
        for name, times in calls
        if times == 1
    ]
    title = f"### 100 output times against one, forward + backward, batch, state, hidden = {shape}\n\n"
    yield title + table(["", "1 time, ms", "100 times, ms", "ratio"], rows)
    yield from missing


def time_irregular(pace: dict[str, Any], *, with_adjoint: bool) -> Iterator[str]:
    """Fifty series, each observed at forty times of its own, forward + backward."""
    problem = make_problem(50, 4, 32)
    own = np.sort(np.random.default_rng(0).uniform(0.0, 1.0, (50, 40)), axis=1)
    calls = irregular_calls(problem, own, with_adjoint=with_adjoint)
    taken = interleaved(calls, **pace)
    skode = taken["skode, own times"]
    rows = [[name, milliseconds(durations), ratio(durations, skode)] for name, durations in taken.items()]
    title = "### 50 series with 40 own times each, forward + backward, batch, state, hidden = (50, 4, 32)\n\n"
    yield title + table(["", "ms", "/ skode, own times"], rows)


def irregular_calls(problem: Problem, own: np.ndarray, *, with_adjoint: bool) -> dict[str, Callable[[], Any]]:
    """Solve and differentiate at each series' own times, of shape (n_series, n_times); torchdiffeq at their union."""
    mlp = mlp_field(problem.net)
    device = problem.y0.device
    t_eval = torch.from_numpy(own)
    union, position = np.unique(np.append(0.0, own), return_inverse=True)
    union_t, series = torch.from_numpy(union).to(problem.y0), torch.arange(len(own), device=device)[:, None]
    position_t = torch.from_numpy(position[1:].reshape(own.shape)).to(device)

    def gradient(states: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> Callable[[], Any]:
        def call() -> Any:
            y0 = problem.y0.clone().requires_grad_()
            return torch.autograd.grad(states(y0).square().sum(), [y0, *parameters])

        return call

    def skode(y0: Tensor, times: Any = t_eval) -> Tensor:
        return solve_ivp(mlp, (0.0, 1.0), y0, t_eval=times, rtol=RTOL, atol=ATOL).y

    parameters = list(mlp.parameters())
    calls = {
        "skode, own times": gradient(skode, parameters),
        "skode, ends only": gradient(lambda y0: skode(y0, END), parameters),
    }
    try:
        from torchdiffeq import odeint, odeint_adjoint
    except ImportError:
        return calls

    def peer(solver: Callable[..., Tensor], **settings: Any) -> Callable[[Tensor], Tensor]:
        def states(y0: Tensor) -> Tensor:
            y = solver(lambda t, y: problem.net(y), y0, union_t, rtol=RTOL, atol=ATOL, **settings)
            return y[position_t, series]

        return states

    calls["torchdiffeq odeint, union of times"] = gradient(peer(odeint), problem.parameters)
    if with_adjoint:
        adjoint = peer(odeint_adjoint, adjoint_params=tuple(problem.parameters))
        calls["torchdiffeq odeint_adjoint, union of times"] = gradient(adjoint, problem.parameters)
    return calls


def _durations(problem: Problem, found: list[Contender], pace: dict[str, Any]) -> tuple[dict, dict]:
    """Durations of every contender: forward, and forward + backward."""
    forward = {"bare": bare(problem, found[0].nfev)} | {contender.name: contender.states for contender in found}
    backward = {contender.name: contender.gradient for contender in found if contender.gradient}
    return interleaved(forward, **pace), interleaved(backward, **pace)


def _shape_table(problem: Problem, found: list[Contender], forward: dict, backward: dict) -> str:
    exact = problem.reference()
    gradient = _flat(found[0].gradient())
    rows = [["bare", found[0].nfev, milliseconds(forward["bare"])] + [None] * 4]
    for contender in found:
        nfev, differentiated = contender.nfev, contender.gradient is not None
        states = np.asarray(contender.states())
        rows.append(
            [
                contender.name,
                nfev if contender.nfev_gradient is None else f"{nfev} ({contender.nfev_gradient})",
                milliseconds(forward[contender.name]),
                milliseconds(backward[contender.name]) if differentiated else None,
                f"{np.abs(states - exact).max() / np.abs(exact).max():.0e}",
                f"{_difference(_flat(contender.gradient()), gradient):.0e}" if differentiated else None,
                " + ".join(f"{seconds:.1f}" for seconds in contender.compile_seconds.values()) or None,
            ]
        )
    header = ["", "NFE", "forward, ms", "forward + backward, ms", "error", "gradient differs by", "compiled in, s"]
    return table(header, rows)


def _ratios(forward: dict, backward: dict) -> list[str | None]:
    against = [ratio(backward[name], backward["skode"]) if name in backward else None for name in RATIOS]
    compiled = ratio(forward["diffrax"], forward["skode"]) if "diffrax" in forward else None
    return [ratio(forward["skode"], forward["bare"]), *against, compiled]


def _flat(gradient: Any) -> np.ndarray:
    return np.concatenate([np.asarray(part).ravel() for part in gradient])


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts, a process each")
    parser.add_argument("--rounds", type=int, help="rounds of every table; chosen by --seconds if not given")
    parser.add_argument("--seconds", type=float, default=20.0, help="time to spend on each group of contenders")
    parser.add_argument("--quick", action="store_true", help="few rounds, and no adjoint on the union of times")
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(SHAPES)), help="which shapes, from 0")
    parser.add_argument("--only", nargs="+", choices=("shapes", "outputs", "irregular"), help="which tables")
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    return parser


def _run_here(options: argparse.Namespace, n_threads: int) -> None:
    """Print all tables, with the threads of this process."""
    torch.set_num_threads(n_threads)
    pace = {"rounds": options.rounds, "seconds": 2.0 if options.quick else options.seconds}
    tables: dict[str, Callable[[], Iterator[str]]] = {
        "shapes": lambda: time_shapes(pace, [SHAPES[row] for row in options.rows]),
        "outputs": lambda: time_many_outputs(pace),
        "irregular": lambda: time_irregular(pace, with_adjoint=not options.quick),
    }
    for name in options.only or tables:
        for part in tables[name]():
            print(part, end="\n\n", flush=True)


def main() -> None:
    """Print the tables, each thread count's from a process of its own, and write them where ``--out`` says."""
    options = _arguments().parse_args()
    if n_threads := started_with_threads():
        _run_here(options, n_threads)
        return
    command = " ".join(["python -m tests.benchmarks.speed", *sys.argv[1:]])
    print(machine(command), NOTES, sep="\n\n", end="\n\n", flush=True)
    page = [NOTES, "\n\n"]
    for n_threads in options.threads:
        heading = f"## {n_threads} thread{'s' * (n_threads > 1)}\n\n"
        for line in chain([heading], run_with_threads(n_threads, "tests.benchmarks.speed", sys.argv[1:])):
            page.append(line)
            print(line, end="", flush=True)
    if options.out:
        write(options.out, "Speed", "".join(page), command)


if __name__ == "__main__":
    main()
