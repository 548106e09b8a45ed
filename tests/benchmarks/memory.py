"""Memory kept for the backward pass against the number of steps: ``python -m tests.benchmarks.memory``."""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from skode.solvers import free_idle_memory, solve_ivp
from tests.benchmarks.peers import make_problem, mlp_field
from tests.benchmarks.report import machine, new_figure, save, table, write

SHAPE = (256, 32, 128)
TOLERANCES = tuple(10.0**-k for k in range(2, 10))
SOLVERS = (
    "skode discrete",
    "skode discrete, no budget",
    "skode continuous",
    "skode backprop",
    "torchdiffeq odeint",
    "torchdiffeq odeint_adjoint",
)
NOTES = f"""\
Every point is a process of its own. batch, state, hidden = {SHAPE}, float64, dopri5, rtol = atol. 'tensors' are bytes
of torch's CPU allocator above those before the solve, from its profiler: at the peak of a solve with its gradient, and
kept between the solve and the gradient. 'resident' is the growth of the process's peak resident set. 'no budget' means
`memory_budget=0`: stages are recomputed. NFE counts evaluations in the solve; skode's and torchdiffeq's count alike."""


def measure(solver: str, tolerance: float) -> dict[str, float]:
    """Solve once and differentiate, in this process, which must be fresh.

    Parameters
    ----------
    solver : str
        One of ``SOLVERS``.
    tolerance : float
        ``rtol`` and ``atol``.

    Returns
    -------
    dict
        ``nfev``, and in MiB ``resident``, ``kept`` and ``peak``.
    """
    torch.set_num_threads(1)
    small, _, _ = _case(solver, (2, 2, 4), 1e-2)
    small().sum().backward()  # libraries and thread pools are ready
    states, _, count = _case(solver, SHAPE, tolerance)
    before = peak_resident(reset=True)
    states().square().sum().backward()
    resident = peak_resident() - before

    free_idle_memory()  # what the solve before has left would not be counted
    states, y0, count = _case(solver, SHAPE, tolerance)
    with _allocations() as solved:
        outputs = states()
    nfev = count()
    loss = outputs.square().sum()
    with _allocations() as differentiated:
        loss.backward()
    assert y0.grad is not None
    kept = sum(solved.sizes)
    peak = max(*accumulate(solved.sizes), *accumulate(differentiated.sizes, initial=kept))
    mebibytes = {"resident": resident, "kept": kept, "peak": peak}
    return {"nfev": nfev} | {name: size / 2**20 for name, size in mebibytes.items()}


def measure_apart(solver: str, tolerance: float) -> dict[str, float] | None:
    """:func:`measure` in a process of its own; None where it fails, as without torchdiffeq."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--measure", solver, str(tolerance)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{solver} at {tolerance:.0e} is left out: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


class _allocations:  # noqa: N801
    """The sizes of what torch's CPU allocator gave and, negative, took back, in order of time."""

    def __enter__(self) -> _allocations:
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        self.profiler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.profiler.__exit__(*error)
        events = [event for event in self.profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        self.sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def _case(
    solver: str, shape: tuple[int, int, int], tolerance: float
) -> tuple[Callable[[], Tensor], Tensor, Callable[[], int]]:
    """What solves, the initial state, and what tells the evaluations of the last solve."""
    problem = make_problem(*shape)
    net, y0 = problem.net.double(), problem.y0.double().requires_grad_()
    library, _, adjoint = solver.partition(" ")
    n_calls = [0]
    if library == "torchdiffeq":
        import torchdiffeq

        net.register_forward_pre_hook(lambda module, inputs: n_calls.__setitem__(0, n_calls[0] + 1))
        settings = {"adjoint_params": tuple(net.parameters())} if adjoint == "odeint_adjoint" else {}
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)

        def peer() -> Tensor:
            odeint = getattr(torchdiffeq, adjoint)
            return odeint(lambda t, y: net(y), y0, times, rtol=tolerance, atol=tolerance, **settings)[-1]

        return peer, y0, lambda: n_calls[0]

    field = mlp_field(net)
    name, _, no_budget = adjoint.partition(", ")
    settings = {"memory_budget": 0} if no_budget else {}

    def states() -> Tensor:
        solution = solve_ivp(
            field, (0.0, 1.0), y0, t_eval=[1.0], rtol=tolerance, atol=tolerance, adjoint=name, **settings
        )
        n_calls[0] = int(solution.nfev)
        return solution.y[-1]

    return states, y0, lambda: n_calls[0]


def peak_resident(*, reset: bool = False) -> int:
    """The peak resident set in bytes; Linux can start it anew from the present one."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])


def _picture(points: dict[str, list[dict[str, float]]], path: Path) -> None:
    figure, axes = new_figure(1, 2)
    for ax, (quantity, label) in zip(
        axes, {"peak": "tensors at the peak", "kept": "tensors kept"}.items(), strict=True
    ):
        for solver, measured in points.items():
            style = "-o" if solver.startswith("skode") else "--s"
            x = [point["nfev"] for point in measured]
            ax.loglog(x, [max(point[quantity], 1e-3) for point in measured], style, label=solver, markersize=4)
        ax.set(xlabel="evaluations in the solve", ylabel=f"{label}, MiB")
    axes[0].legend()
    save(figure, path)


def main() -> None:
    """Measure all, print the table, and write page and picture where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("--out", type=Path, help="a folder for memory.md and memory.png")
    parser.add_argument("--tolerances", type=float, nargs="+", default=TOLERANCES)
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=SOLVERS)
    parser.add_argument("--measure", nargs=2, metavar=("SOLVER", "TOLERANCE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], float(options.measure[1]))))
        return
    command = " ".join(["python -m tests.benchmarks.memory", *sys.argv[1:]])
    points: dict[str, list[dict[str, float]]] = {}
    rows = []
    for solver in options.solvers:
        for tolerance in options.tolerances:
            point = measure_apart(solver, tolerance)
            if point is None:
                break
            points.setdefault(solver, []).append(point)
            sizes = [f"{point[name]:.2f}" for name in ("kept", "peak", "resident")]
            rows.append([solver, f"{tolerance:.0e}", point["nfev"], *sizes])
    header = ["", "tolerance", "NFE", "tensors kept, MiB", "tensors at the peak, MiB", "resident, MiB"]
    body = f"{NOTES}\n\n{table(header, rows)}"
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out / "memory.md", "Memory", f"{body}\n\n![Memory against evaluations](memory.png)", command)
        _picture(points, options.out / "memory.png")


if __name__ == "__main__":
    main()
