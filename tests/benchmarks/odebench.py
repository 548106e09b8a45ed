"""Constants of known equations from noisy data: ``python -m tests.benchmarks.odebench [--tuning]``.

The final set are the 42 systems of ODEBench (d'Ascoli et al., ODEFormer, ICLR 2024, repository sdascoli/odeformer, MIT)
in ``../shared/data/odebench``. Nothing may be chosen by looking at them: all choices of the estimator are made on the
systems of ``TUNING`` below, none of which is among the 42, with other seeds. The rule, the same for both sets:

- Both trajectories of a system, from its two initial states over its own span of time, as two series; 100 times of
  each, uniformly distributed over the span; all states observed. Normal noise of 5 % of each state's spread, the
  standard deviation of the noiseless state over both series.
- The equations are known. Constants are not: each start is the true one times 3 to the power of a number that is
  uniform in [-1, 1]. Positive constants have the lower bound 0, as rates have; negative ones have no bounds. Initial
  states are unknown and have no starts.
- ``ODERegressor`` with its defaults. Seeds are 1000 + the system's number in the final set, and 0 + number, 100 +
  number, ... in the tuning set.
- Error of a trajectory: of the solution with the estimated constants and initial states, on 200 equally spaced times of
  the span; the root mean square over times, series and states of the error, each state in units of its spread. A system
  counts as solved below 5 %. Beside it, the error of the solution with the estimated constants from the true initial
  states, which is large where solutions part quickly, however good the constants.
- A constant counts as identified unless it is one of ``unidentified_``, lies on a bound or has no standard error. It is
  within three standard errors, of its logarithm where it is positive.
- Time is that of the process for ``fit``, of one thread.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.integrate import solve_ivp

from skode import ODERegressor
from tests.benchmarks.report import ROOT, table

DATA = ROOT.parent / "shared" / "data" / "odebench" / "odebench.json"

#: By name: equations, constants, two initial states, end of the span.
TUNING: dict[str, tuple[str, list[float], list[list[float]], float]] = {
    "theta-logistic growth": ("c_0 * x_0 * (1 - (x_0 / c_1)^c_2)", [0.6, 20.0, 1.7], [[0.8], [35.0]], 12.0),
    "saturated elimination": ("- c_0 * x_0 / (c_1 + x_0)", [1.3, 2.4], [[12.0], [3.0]], 15.0),
    "von Bertalanffy growth": ("c_0 * x_0^0.75 - c_1 * x_0", [1.1, 0.55], [[0.05], [22.0]], 20.0),
    "rotor with torque": ("c_0 + c_1 * sin(x_0 + c_2)", [1.4, 0.9, 0.5], [[0.0], [2.0]], 12.0),
    "cusp": ("c_0 + c_1 * x_0 - c_2 * x_0^3", [0.15, 0.9, 0.35], [[-0.15], [3.0]], 8.0),
    "damped pendulum": ("x_1 | - c_0 * sin(x_0) - c_1 * x_1", [4.0, 0.25], [[2.6, 0.0], [0.4, 3.0]], 10.0),
    "Lotka-Volterra": (
        "c_0 * x_0 - c_1 * x_0 * x_1 | c_2 * x_0 * x_1 - c_3 * x_1",
        [1.1, 0.4, 0.1, 0.4],
        [[10.0, 5.0], [3.0, 1.0]],
        40.0,
    ),
    "FitzHugh-Nagumo": (
        "c_0 * (x_0 - x_0^3 / 3 + x_1) | - (x_0 - c_1 + c_2 * x_1) / c_0",
        [3.0, 0.2, 0.2],
        [[-1.0, 1.0], [1.5, -0.5]],
        20.0,
    ),
    "Rosenzweig-MacArthur": (
        "c_0 * x_0 * (1 - x_0 / c_1) - c_2 * x_0 * x_1 / (c_3 + x_0) | c_4 * x_0 * x_1 / (c_3 + x_0) - c_5 * x_1",
        [1.0, 8.0, 1.2, 2.0, 0.8, 0.4],
        [[1.0, 1.0], [6.0, 3.0]],
        50.0,
    ),
    "glycolysis (Selkov)": (
        "- x_0 + c_0 * x_1 + x_0^2 * x_1 | c_1 - c_0 * x_1 - x_0^2 * x_1",
        [0.08, 0.6],
        [[0.5, 2.5], [1.2, 0.4]],
        30.0,
    ),
    "toggle switch": (
        "c_0 / (1 + x_1^c_1) - x_0 | c_2 / (1 + x_0^c_3) - x_1",
        [4.0, 2.2, 3.0, 1.6],
        [[0.5, 1.5], [2.5, 0.2]],
        12.0,
    ),
    "two phase oscillators": (
        "c_0 + c_2 * sin(x_1 - x_0) | c_1 + c_2 * sin(x_0 - x_1)",
        [1.0, 1.6, 0.25],
        [[0.0, 1.0], [2.0, 0.0]],
        15.0,
    ),
    "chemostat": (
        "(c_0 * x_1 / (c_1 + x_1) - c_2) * x_0 | c_2 * (c_3 - x_1) - c_4 * x_0 * x_1 / (c_1 + x_1)",
        [1.1, 0.7, 0.35, 5.0, 2.3],
        [[0.1, 4.0], [2.0, 0.3]],
        20.0,
    ),
    "epidemic with incubation": (
        "- c_0 * x_0 * x_2 | c_0 * x_0 * x_2 - c_1 * x_1 | c_1 * x_1 - c_2 * x_2",
        [0.9, 0.35, 0.2],
        [[0.99, 0.0, 0.01], [0.6, 0.1, 0.2]],
        60.0,
    ),
    "gut, blood and tissue": (
        "- c_0 * x_0 | c_0 * x_0 - c_1 * x_1 - c_2 * x_1 + c_3 * x_2 | c_2 * x_1 - c_3 * x_2",
        [1.3, 0.2, 0.4, 0.3],
        [[10.0, 0.0, 0.0], [0.0, 6.0, 1.0]],
        20.0,
    ),
    "Goodwin oscillator": (
        "c_0 / (c_1 + x_2^10) - c_2 * x_0 | c_3 * x_0 - c_4 * x_1 | c_5 * x_1 - c_6 * x_2",
        [2.0, 1.0, 0.3, 0.5, 0.25, 0.4, 0.28],
        [[0.3, 0.6, 1.2], [1.5, 1.0, 0.5]],
        60.0,
    ),
    "rigid body": (
        "c_0 * x_1 * x_2 | - c_1 * x_0 * x_2 | c_2 * x_0 * x_1",
        [0.6, 1.3, 0.45],
        [[1.0, 0.2, 0.9], [0.3, 1.1, -0.4]],
        15.0,
    ),
    "Lorenz 84": (
        "- x_1^2 - x_2^2 - c_0 * x_0 + c_0 * c_1 | x_0 * x_1 - c_2 * x_0 * x_2 - x_1 + c_3 | "
        "c_2 * x_0 * x_1 + x_0 * x_2 - x_2",
        [0.25, 8.0, 4.0, 1.0],
        [[1.0, 1.0, 1.0], [2.0, -0.5, 0.3]],
        10.0,
    ),
    "cubic Chua": (
        "c_0 * (x_1 - c_2 * x_0^3 - c_3 * x_0) | x_0 - x_1 + x_2 | - c_1 * x_1",
        [10.0, 16.0, 0.0625, -0.1666],
        [[0.3, 0.0, 0.1], [-1.0, 0.2, 0.5]],
        12.0,
    ),
    "Hindmarsh-Rose": (
        "x_1 - c_0 * x_0^3 + c_1 * x_0^2 - x_2 + c_2 | c_3 - c_4 * x_0^2 - x_1 | c_5 * (4 * (x_0 + 1.6) - x_2)",
        [1.0, 3.0, 2.5, 1.0, 5.0, 0.02],
        [[-1.0, -4.0, 2.2], [0.5, 0.0, 2.6]],
        40.0,
    ),
    "food chain": (
        "x_0 * (1 - x_0) - c_0 * x_0 * x_1 / (1 + c_1 * x_0) | "
        "c_0 * x_0 * x_1 / (1 + c_1 * x_0) - c_2 * x_1 - c_3 * x_1 * x_2 / (1 + c_4 * x_1) | "
        "c_3 * x_1 * x_2 / (1 + c_4 * x_1) - c_5 * x_2",
        [4.0, 2.5, 0.4, 0.5, 1.5, 0.12],
        [[0.8, 0.2, 1.0], [0.4, 0.6, 0.3]],
        50.0,
    ),
    "coupled double wells": (
        "x_1 | x_0 - c_0 * x_0^3 - c_1 * x_1 + c_2 * (x_2 - x_0) | "
        "x_3 | x_2 - c_0 * x_2^3 - c_1 * x_3 + c_2 * (x_0 - x_2)",
        [0.7, 0.12, 0.3],
        [[1.0, 1.5, -1.0, 0.0], [0.3, 0.0, 1.5, 0.4]],
        15.0,
    ),
}


@dataclass(frozen=True)
class Problem:
    """Equations with their true constants.

    Attributes
    ----------
    name : str
        Its name.
    number : int
        Its number in the set.
    equations : str
        Right-hand sides, divided by ``|``, in states ``x_0, ...`` and constants ``c_0, ...``.
    constants : dict of str to float
        The true constants.
    starts : ndarray of shape (2, n_states)
        Initial states.
    span : float
        When the trajectories end; they start at 0.
    """

    name: str
    number: int
    equations: str
    constants: dict[str, float]
    starts: np.ndarray
    span: float

    @property
    def states(self) -> list[str]:
        """Names of the states."""
        return [f"x_{i}" for i in range(self.starts.shape[1])]

    def truth(self, times: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The noiseless trajectory from an initial state at 0, of shape (n_times, n_states)."""
        field = right_hand_side(self.equations)
        p = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.constants.items()}

        def derivative(t: float, y: np.ndarray) -> np.ndarray:
            return field(torch.tensor(t), torch.from_numpy(y), p).numpy()

        found = solve_ivp(
            derivative, (0.0, self.span), start, "LSODA", rtol=1e-10, atol=1e-12, t_eval=times, max_step=self.span / 20
        )
        return found.y.T


def right_hand_side(equations: str) -> Any:
    """``rhs(t, y, p)`` of torch's operations from text."""
    functions = {name: getattr(torch, name) for name in ("sin", "cos", "exp", "log", "abs", "tanh", "sqrt")}
    functions["cot"] = lambda x: 1.0 / torch.tan(x)
    parts = [compile(part.strip().replace("^", "**"), part, "eval") for part in equations.split("|")]

    def rhs(t: Any, y: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        known = {**functions, **{f"x_{i}": x for i, x in enumerate(y.unbind(-1))}, **p}
        values = [eval(part, {"__builtins__": {}}, known) for part in parts]
        return torch.stack([value + torch.zeros_like(y[..., 0]) for value in values], dim=-1)

    return rhs


def tuning_set() -> list[Problem]:
    """The systems on which all choices are made."""
    return [
        Problem(name, i, text, {f"c_{k}": c for k, c in enumerate(constants)}, np.array(starts), span)
        for i, (name, (text, constants, starts, span)) in enumerate(TUNING.items())
    ]


def final_set() -> list[Problem]:
    """The systems of ODEBench; one has no constants, and unknown initial states only."""
    problems = []
    for system in json.loads(DATA.read_text()):
        constants = {f"c_{k}": float(c) for k, c in enumerate(system["consts"][0])}
        span = float(system["solutions"][0][0]["t"][-1])
        name = f"{system['id']} {system['eq_description'].split(' (')[0]}"
        starts = np.array(system["init"], dtype=np.float64)
        problems.append(Problem(name, system["id"], system["eq"], constants, starts, span))
    return problems


@dataclass(frozen=True)
class Data:
    """Noisy observations, starts of the constants and the states' spread."""

    X: pd.DataFrame
    y: pd.DataFrame
    params: dict[str, Any]
    spread: np.ndarray


def observations(problem: Problem, seed: int, n_times: int = 100, noise: float = 0.05) -> Data:
    """Data and starts as the rule says."""
    rng = np.random.default_rng(seed)
    times = [np.sort(rng.uniform(0.0, problem.span, n_times)) for _ in problem.starts]
    clean = [problem.truth(t, start) for t, start in zip(times, problem.starts, strict=True)]
    spread = np.concatenate(clean).std(axis=0)
    noisy = np.concatenate(clean) + noise * spread * rng.normal(size=(len(clean) * n_times, len(spread)))
    factors = 3.0 ** rng.uniform(-1.0, 1.0, len(problem.constants))
    params = {
        name: (factor * c, 0.0, None) if c > 0.0 else factor * c
        for factor, (name, c) in zip(factors, problem.constants.items(), strict=True)
    }
    X = pd.DataFrame({"trajectory": np.repeat([0, 1], n_times), "t": np.concatenate(times)})
    return Data(X, pd.DataFrame(noisy, columns=problem.states), params, spread)


def fitted(problem: Problem, data: Data, **settings: Any) -> tuple[ODERegressor, float]:
    """The fitted estimator, and the time of the process that it took."""
    model = ODERegressor(
        right_hand_side(problem.equations),
        data.params,
        states=problem.states,
        series="trajectory",
        time="t",
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = process_time()
        model.fit(data.X, data.y)
        return model, process_time() - started


def errors_of(problem: Problem, data: Data, model: ODERegressor) -> tuple[float, float]:
    """Errors of the fitted trajectories, and of those with the estimated constants from the true initial states."""
    times = np.linspace(0.0, problem.span, 200)
    squares: list[list[np.ndarray]] = [[], []]
    for i, start in enumerate(problem.starts):
        true = problem.truth(times, start)
        fit = model.predict_states(pd.DataFrame({"trajectory": i, "t": times})).to_numpy()
        for found, kept in zip((fit, model.simulate(start, times)), squares, strict=True):
            kept.append(((found - true) / data.spread) ** 2)
    errors = [float(np.sqrt(np.mean(parts))) for parts in squares]
    return tuple(error if np.isfinite(error) else np.inf for error in errors)  # type: ignore[return-value]


def deviations(problem: Problem, model: ODERegressor) -> dict[str, float]:
    """By how many standard errors estimates of identified constants miss the truth."""
    summary = model.summary()
    lost = " ".join(model.unidentified_).split(" ")
    found = {}
    for name, true in problem.constants.items():
        estimate, error = (summary.loc[(name, ""), column] for column in ("estimate", "std_error"))
        if name in lost or not np.isfinite(error) or error == 0.0:
            continue
        missed = np.log(estimate / true) / (error / estimate) if true > 0.0 else (estimate - true) / error
        found[name] = float(missed)
    return found


@dataclass(frozen=True)
class Result:
    """Outcome of a fit."""

    name: str
    seed: int
    error: float
    from_truth: float
    missed: dict[str, float]
    n_constants: int
    seconds: float
    n_iter: int
    converged: bool
    noise: float


def run(problem: Problem, seed: int, **settings: Any) -> Result:
    """A fit and how good it is."""
    data = observations(problem, seed)
    n_constants = len(problem.constants)
    try:
        model, seconds = fitted(problem, data, **settings)
    except Exception as error:  # a system that can't be solved counts as failed
        print(f"{problem.name}: {type(error).__name__}: {error}")
        return Result(problem.name, seed, np.inf, np.inf, {}, n_constants, np.nan, 0, False, np.inf)
    noise = float(np.sqrt(np.mean((model.noise_scale_ / (0.05 * data.spread)) ** 2)))
    errors, missed = errors_of(problem, data, model), deviations(problem, model)
    return Result(
        problem.name, seed, *errors, missed, n_constants, seconds, int(model.n_iter_), bool(model.converged_), noise
    )


def section(results: list[Result]) -> str:
    """Markdown: a summary, and a row for each fit."""
    errors = np.array([result.error for result in results])
    missed = np.abs([m for result in results for m in result.missed.values()])
    seconds = np.array([result.seconds for result in results])
    n_constants = sum(result.n_constants for result in results)
    lines = [
        f"Trajectories within 5 %: {(errors < 0.05).sum()} of {len(errors)} ({(errors < 0.05).mean():.1%}).",
        f"Constants identified: {len(missed)} of {n_constants}; within three standard errors: {(missed <= 3.0).sum()} "
        f"({(missed <= 3.0).mean():.1%}).",
        f"Time of a fit: median {np.nanmedian(seconds):.2f} s, largest {np.nanmax(seconds):.1f} s.",
    ]
    rows = [
        [
            result.name,
            result.seed,
            *(f"{error:.2%}" if np.isfinite(error) else "-" for error in (result.error, result.from_truth)),
            f"{max(map(abs, result.missed.values())):.1f}" if result.missed else "-",
            f"{len(result.missed)}/{result.n_constants}",
            f"{result.noise:.2f}",
            result.n_iter,
            f"{result.seconds:.2f}",
        ]
        for result in results
    ]
    header = [
        "system",
        "seed",
        "error",
        "from true starts",
        "largest miss / s.e.",
        "identified",
        "noise / true",
        "steps",
        "s",
    ]
    return "\n".join(lines) + "\n\n" + table(header, rows)


def main() -> None:
    """Run a set and print its section."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.odebench", description=__doc__)
    parser.add_argument("--tuning", action="store_true", help="the tuning set, not the final one")
    parser.add_argument("--rounds", type=int, default=1, help="of the tuning set, with other seeds each")
    parser.add_argument("--only", default="", help="a regular expression for the names of systems")
    parser.add_argument("--settings", default="{}", help="parameters of ODERegressor, as JSON")
    parser.add_argument("--out", type=Path, help="a file for the section")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads(options.settings)
    results = []
    if options.tuning:
        for k in range(options.rounds):
            chosen = [problem for problem in tuning_set() if re.search(options.only, problem.name)]
            results += [run(problem, 100 * k + problem.number, **settings) for problem in chosen]
    else:
        results = [run(problem, 1000 + problem.number, **settings) for problem in final_set()]
    text = section(results)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
