"""Unknown vector fields from noisy series: ``python -m tests.benchmarks.field_recovery [--tuning] [--peer]``.

The final set are the 42 systems of ODEBench (d'Ascoli et al., "ODEFormer: symbolic regression of dynamical systems
with transformers", ICLR 2024; repository sdascoli/odeformer, MIT licence) in ``../shared/data/odebench``. The protocol
is the paper's:

- The first trajectory of a system is observed at 150 times of its span from 0 to 10 (of the 512 of the file the nearest
  to equally spaced ones). Each value is multiplied by ``1 + sigma * normal``, and a share ``rho`` of the times dropped.
- Reconstruction: the fitted equations are solved from the true initial state over all 150 times, and compared with the
  noiseless trajectory. Generalisation: the same from the second initial state, with its trajectory.
- A system counts where the variance-weighted R2 is above 0.9.

``NeuralODERegressor`` with its defaults and ``random_state=0`` in all cases; one seed of the noise, the system's
position. All choices (kinds of fields, degree, when terms are dropped, weights of defects) were made on the systems of
``TUNING``, with other seeds, before a run on the final set. That was run twice: ``docs/benchmarks/fields.md`` says what
changed between. A fit that fails counts as not recovered.

``--peer`` runs pysindy beside it: polynomials of degree 3, smoothed finite differences where there is noise, STLSQ with
its default threshold.

``--pendulum`` runs a damped pendulum instead: 30 series of 40 times within 6 units, normal noise of .05, the error of
the field at the true states, and that of forecasts for as long again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.integrate import solve_ivp

from skode import NeuralODERegressor
from tests.benchmarks.report import ROOT, table

DATA = ROOT.parent / "shared" / "data" / "odebench" / "odebench.json"
N_TIMES = 150
#: (rho, sigma) of reconstructions, and of generalisation.
SETTINGS = ((0.0, 0.0), (0.0, 0.05), (0.5, 0.0), (0.5, 0.05))
GENERALISATION = (0.0, 0.03)

S, C, E = np.sin, np.cos, np.exp
#: Right-hand sides, two initial states, end of the span.
TUNING: dict[str, tuple[Any, list[list[float]], float]] = {
    "logistic": (lambda t, y: [0.8 * y[0] * (1 - y[0] / 5)], [[0.3], [8.0]], 10),
    "Allee": (lambda t, y: [0.3 * y[0] * (1 - y[0] / 8) * (y[0] / 2 - 1)], [[2.4], [1.7]], 10),
    "saturated decay": (lambda t, y: [-1.2 * y[0] / (0.5 + y[0])], [[4.0], [6.0]], 10),
    "cubic": (lambda t, y: [y[0] - y[0] ** 3 + 0.2], [[0.05], [-0.6]], 10),
    "outflow": (lambda t, y: [0.6 - 0.5 * np.sqrt(abs(y[0]))], [[5.0], [0.2]], 10),
    "Hill": (lambda t, y: [2 * y[0] ** 2 / (1 + y[0] ** 2) - 0.6 * y[0] + 0.05], [[0.6], [4.0]], 10),
    "cosine": (lambda t, y: [0.9 * C(y[0]) + 0.1 * y[0]], [[-1.2], [2.5]], 10),
    "bump": (lambda t, y: [E(-(y[0] ** 2)) - 0.2 * y[0]], [[-2.0], [3.0]], 10),
    "Van der Pol": (lambda t, y: [y[1], (1 - y[0] ** 2) * y[1] - y[0]], [[1.0, 0.0], [-2.0, 2.0]], 10),
    "predators": (
        lambda t, y: [y[0] - 0.5 * y[0] * y[1], 0.4 * y[0] * y[1] - 1.2 * y[1]],
        [[3.0, 1.0], [1.5, 3.0]],
        10,
    ),
    "pendulum": (lambda t, y: [y[1], -S(y[0]) - 0.1 * y[1]], [[2.0, 0.0], [-1.0, 1.5]], 10),
    "cubic spiral": (
        lambda t, y: [-0.1 * y[0] ** 3 + 2 * y[1] ** 3, -2 * y[0] ** 3 - 0.1 * y[1] ** 3],
        [[2.0, 0.0], [1.0, -1.5]],
        10,
    ),
    "FitzHugh-Nagumo": (
        lambda t, y: [3 * (y[0] - y[0] ** 3 / 3 + y[1]), -(y[0] - 0.2 + 0.2 * y[1]) / 3],
        [[-1.0, 1.0], [1.5, -0.5]],
        10,
    ),
    "substrate": (
        lambda t, y: [1.5 * y[1] / (0.5 + y[1]) - y[0], 0.6 - 0.7 * y[0] * y[1]],
        [[0.1, 1.0], [1.5, 0.4]],
        10,
    ),
    "saturated predators": (
        lambda t, y: [
            y[0] * (1 - y[0] / 3) - y[0] * y[1] / (0.5 + y[0]),
            y[1] * (-0.4 + 0.9 * y[0] / (0.5 + y[0])),
        ],
        [[2.0, 0.5], [0.6, 1.5]],
        10,
    ),
    "toggle": (
        lambda t, y: [2 / (1 + y[1] ** 3) - y[0], 1.8 / (1 + y[0] ** 3) - y[1]],
        [[0.5, 0.6], [1.5, 1.7]],
        10,
    ),
    "Morse": (lambda t, y: [y[1], -2 * (E(-y[0]) - E(-2 * y[0])) - 0.1 * y[1]], [[1.2, 0.0], [-0.4, 0.5]], 10),
    "linear": (lambda t, y: [-0.3 * y[0] + 2 * y[1], -2 * y[0] - 0.3 * y[1]], [[2.0, 0.0], [-1.0, 3.0]], 10),
    "convection": (
        lambda t, y: [8 * (y[1] - y[0]), y[0] * (20 - y[2]) - y[1], y[0] * y[1] - 2 * y[2]],
        [[1.0, 1.0, 20.0], [-5.0, 2.0, 10.0]],
        10,
    ),
    "epidemic": (
        lambda t, y: [-1.5 * y[0] * y[2], 1.5 * y[0] * y[2] - 0.8 * y[1], 0.8 * y[1] - 0.4 * y[2]],
        [[0.9, 0.08, 0.02], [0.7, 0.1, 0.2]],
        10,
    ),
    "Goodwin": (
        lambda t, y: [2 / (1 + y[2] ** 4) - 0.5 * y[0], y[0] - 0.5 * y[1], y[1] - 0.5 * y[2]],
        [[0.2, 0.2, 0.2], [1.0, 0.5, 2.0]],
        15,
    ),
    "top": (
        lambda t, y: [0.5 * y[1] * y[2], -y[0] * y[2], 0.4 * y[0] * y[1] - 0.05 * y[2]],
        [[1.0, 0.5, 1.0], [0.2, 1.5, -1.0]],
        10,
    ),
    "food chain": (
        lambda t, y: [
            y[0] * (1 - y[0]) - 2 * y[0] * y[1] / (1 + 2 * y[0]),
            2 * y[0] * y[1] / (1 + 2 * y[0]) - 0.3 * y[1] - 0.5 * y[1] * y[2],
            0.5 * y[1] * y[2] - 0.1 * y[2],
        ],
        [[0.8, 0.3, 0.4], [0.4, 0.6, 0.2]],
        20,
    ),
    "two pendulums": (
        lambda t, y: [y[1], -S(y[0]) - 0.3 * (y[0] - y[2]), y[3], -S(y[2]) - 0.3 * (y[2] - y[0])],
        [[1.5, 0.0, -0.3, 0.0], [0.2, 1.0, 0.8, -0.5]],
        10,
    ),
}


def tuning_trajectories() -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """Times and both noiseless trajectories of each system of the tuning set."""
    found = {}
    for name, (f, starts, end) in TUNING.items():
        t = np.linspace(0.0, end, N_TIMES)
        found[name] = (t, [solve_ivp(f, (0.0, end), y0, t_eval=t, rtol=1e-9, atol=1e-11).y.T for y0 in starts])
    return found


def final_trajectories() -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """The same of ODEBench."""
    found = {}
    for one in json.loads(DATA.read_text()):
        solutions = one["solutions"][0]
        t = np.array(solutions[0]["t"])
        kept = np.linspace(0, len(t) - 1, N_TIMES).round().astype(int)
        found[str(one["id"])] = (t[kept], [np.array(solution["y"]).T[kept] for solution in solutions])
    return found


def observed(t: np.ndarray, y: np.ndarray, rho: float, sigma: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Times that are left, and noisy values at them."""
    rng = np.random.default_rng(seed)
    noisy = y * (1.0 + sigma * rng.normal(size=y.shape))
    kept = np.sort(rng.permutation(len(t))[: round(len(t) * (1.0 - rho))])
    return t[kept], noisy[kept]


def weighted_r2(true: np.ndarray, found: np.ndarray) -> float:
    """R2 over all states together; minus infinity where the solution has ended before."""
    if not np.isfinite(found).all():
        return -np.inf
    return float(1.0 - ((true - found) ** 2).sum() / ((true - true.mean(axis=0)) ** 2).sum())


def skode_simulator(t: np.ndarray, y: np.ndarray, sigma: float) -> Any:
    """Fit ours; a function from initial states and times to states."""
    X, targets = pd.DataFrame({"t": t}), pd.DataFrame(y, columns=[f"x{i}" for i in range(y.shape[1])])
    model = NeuralODERegressor(time="t", random_state=0).fit(X, targets)
    return model.simulate


def pysindy_simulator(t: np.ndarray, y: np.ndarray, sigma: float) -> Any:
    """Fit pysindy; the same."""
    import pysindy

    even = np.allclose(np.diff(t), t[1] - t[0], rtol=0.2)
    differences = pysindy.SmoothedFiniteDifference() if sigma and even else pysindy.FiniteDifference()
    model = pysindy.SINDy(
        differentiation_method=differences,
        feature_library=pysindy.PolynomialLibrary(degree=3),
        optimizer=pysindy.STLSQ(),
    )
    model.fit(y, t=t)

    def simulate(y0: np.ndarray, times: np.ndarray) -> np.ndarray:
        found = solve_ivp(
            lambda _, state: model.predict(state[None])[0], (times[0], times[-1]), y0, "LSODA", t_eval=times
        )
        return found.y.T if found.success else np.full((len(times), len(y0)), np.nan)

    return simulate


def recovered(make: Any, case: tuple[np.ndarray, list[np.ndarray]], setting: tuple[float, float], seed: int) -> tuple:
    """R2 of reconstruction and of generalisation, and the seconds of the fit."""
    t, (first, second) = case
    times, noisy = observed(t, first, *setting, seed)
    start = process_time()
    try:
        simulate = make(times, noisy, setting[1])
        seconds = process_time() - start
        return weighted_r2(first, simulate(first[0], t)), weighted_r2(second, simulate(second[0], t)), seconds
    except Exception as error:
        print(f"    {type(error).__name__}: {str(error)[:100]}", flush=True)
        return -np.inf, -np.inf, process_time() - start


def main(*, tuning: bool, peer: bool, settings: list[tuple[float, float]]) -> None:
    """Print a row for each setting, and what failed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cases = tuning_trajectories() if tuning else final_trajectories()
    makers = {"skode": skode_simulator} | ({"pysindy": pysindy_simulator} if peer else {})
    rows = []
    for setting in settings:
        for name, make in makers.items():
            found = [recovered(make, case, setting, seed) for seed, case in enumerate(cases.values())]
            first, second, seconds = np.array(found).T
            rows.append(
                {
                    "rho": setting[0],
                    "sigma": setting[1],
                    "by": name,
                    "reconstructed, %": 100.0 * np.mean(first > 0.9),
                    "generalised, %": 100.0 * np.mean(second > 0.9),
                    "seconds, median": np.median(seconds),
                    "most": seconds.max(),
                }
            )
            missed = [f"{key} {value:.2f}" for key, value in zip(cases, first, strict=True) if value <= 0.9]
            print(f"{setting} {name}: not reconstructed {missed}", flush=True)
            print(rows[-1], flush=True)
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows]
    print(table(list(rows[0]), cells))


def pendulum() -> None:
    """Print the errors of the field and of forecasts, by kind of field."""
    torch.set_num_threads(1)
    f, rng, end = TUNING["pendulum"][0], np.random.default_rng(0), 6.0
    t, grid = np.linspace(0.0, end, 40), np.linspace(0.0, 2.0 * end, 81)
    starts = np.stack([rng.uniform(-2.0, 2.0, 30), rng.uniform(-1.5, 1.5, 30)], axis=1)

    def solved(times: np.ndarray) -> np.ndarray:
        spans = (0.0, times[-1])
        return np.concatenate([solve_ivp(f, spans, y0, t_eval=times, rtol=1e-9, atol=1e-11).y.T for y0 in starts])

    truth, later = solved(t), solved(grid)
    X = pd.DataFrame({"series": np.repeat(np.arange(30), 40), "t": np.tile(t, 30)})
    X_later = pd.DataFrame({"series": np.repeat(np.arange(30), 81), "t": np.tile(grid, 30)})
    y = pd.DataFrame(truth + 0.05 * rng.normal(size=truth.shape), columns=["x", "v"])
    exact, late = np.array([f(0.0, state) for state in truth]), np.tile(grid > end, 30)
    rows = []
    for kind in ("polynomial", "mlp", "auto"):
        start = process_time()
        model = NeuralODERegressor(kind, series="series", time="t", random_state=0).fit(X, y)
        seconds = process_time() - start
        error = np.sqrt(((model.vector_field(truth) - exact) ** 2).mean() / (exact**2).mean())
        ahead = np.sqrt(((model.predict(X_later) - later)[late] ** 2).mean() / later[late].var())
        rows.append([kind, model.field_, f"{100 * error:.1f} %", f"{100 * ahead:.1f} %", f"{seconds:.1f}"])
    print(table(["field=", "chosen", "error of the field", "of forecasts", "s"], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tuning", action="store_true")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of settings, the last of which is generalisation")
    parser.add_argument("--pendulum", action="store_true")
    given = parser.parse_args()
    every = [*SETTINGS, GENERALISATION]
    if given.pendulum:
        pendulum()
    else:
        main(tuning=given.tuning, peer=given.peer, settings=[every[i] for i in given.only or range(len(every))])
