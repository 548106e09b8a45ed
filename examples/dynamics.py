"""Recovery of unknown dynamics
============================

How exactly, at what cost, and where it fails.

A vector field is learnt from noisy observations of a few trajectories, without any knowledge of its form: five
dynamics (a spiral with cubic terms, predators and their prey, Van der Pol's oscillator from smooth to stiff, Lorenz'
attractor, a pendulum), and linear ones whose rates are further and further apart. The error of the field is told on the
states that were seen and on those of other trajectories, that of forecasts over as long again as was seen; against the
number of observations, their noise and their gaps. So are the time and the memory that a fit takes.

Polynomial fields come out to a fraction of the noise. Relaxation oscillations (Van der Pol, mu = 10 and 100) do not:
60 times miss their jumps, and nothing between two observations tells the field there. Of linear dynamics the slow
direction is lost once its rate times the span is below the noise; forecasts do not need it.

Run ``python examples/dynamics.py [FOLDER] [--full]``: prints tables and writes a picture to FOLDER, ``pictures`` by
default. With ``--full`` the stiffest and the worst conditioned systems come too, and the second tables of the pendulum.
"""

# %%
# The build of this site only shows this script. Its picture:
#
# .. image:: /images/thumb_dynamics.png
#    :alt: The learnt field of a pendulum beside the true one

# sphinx_gallery_thumbnail_path = "images/thumb_dynamics.png"

from __future__ import annotations

import argparse
import gc
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.integrate import solve_ivp

from skode import NeuralODERegressor
from skode.inspection import VectorFieldDisplay
from skode.solvers import SolverError

Field = Callable[[np.ndarray], np.ndarray]


def spiral(y: np.ndarray) -> np.ndarray:
    """Cubic terms only."""
    return np.stack([-0.1 * y[0] ** 3 + 2.0 * y[1] ** 3, -2.0 * y[0] ** 3 - 0.1 * y[1] ** 3])


def lotka_volterra(y: np.ndarray) -> np.ndarray:
    """Prey and predators."""
    return np.stack([y[0] - 0.5 * y[0] * y[1], 0.4 * y[0] * y[1] - 1.2 * y[1]])


def van_der_pol(mu: float) -> Field:
    """An oscillator that is stiff where ``mu`` is large."""
    return lambda y: np.stack([y[1], mu * (1.0 - y[0] ** 2) * y[1] - y[0]])


def lorenz(y: np.ndarray) -> np.ndarray:
    """Chaotic convection."""
    return np.stack([10.0 * (y[1] - y[0]), y[0] * (28.0 - y[2]) - y[1], y[0] * y[1] - 8.0 / 3.0 * y[2]])


def pendulum(y: np.ndarray) -> np.ndarray:
    """With friction."""
    return np.stack([y[1], -np.sin(y[0]) - 0.1 * y[1]])


def linear(condition: float) -> Field:
    """Rates 1 and ``1 / condition``, along directions at 60 degrees."""
    directions = np.array([[1.0, 0.5], [0.0, np.sqrt(0.75)]])
    A = directions @ np.diag([-1.0, -1.0 / condition]) @ np.linalg.inv(directions)
    return lambda y: A @ y


#: The field, the end of what is seen, the box of initial states.
SYSTEMS: dict[str, tuple[Field, float, list[list[float]]]] = {
    "cubic spiral": (spiral, 6.0, [[-2.0, -2.0], [2.0, 2.0]]),
    "Lotka-Volterra": (lotka_volterra, 8.0, [[1.0, 0.5], [5.0, 4.0]]),
    "Van der Pol, mu = 1": (van_der_pol(1.0), 8.0, [[-2.0, -2.0], [2.0, 2.0]]),
    "Van der Pol, mu = 10": (van_der_pol(10.0), 20.0, [[-2.0, -2.0], [2.0, 2.0]]),
    "Van der Pol, mu = 100": (van_der_pol(100.0), 200.0, [[-2.0, -2.0], [2.0, 2.0]]),
    "Lorenz": (lorenz, 2.0, [[-10.0, -10.0, 15.0], [10.0, 10.0, 35.0]]),
    "pendulum": (pendulum, 8.0, [[-1.8, -0.5], [1.8, 0.5]]),
    **{
        f"linear, condition {condition:.0e}": (linear(condition), 6.0, [[-2.0, -2.0], [2.0, 2.0]])
        for condition in (1.0, 1e2, 1e4, 1e6)
    },
}
#: Those of ``--full`` alone.
SLOW = ("Van der Pol, mu = 100", "linear, condition 1e+06")
N_SERIES = 4
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def solved(f: Field, starts: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Trajectories at times, of shape (n_series, n_times, n_states)."""
    spans = (t[0], t[-1])
    return np.stack([solve_ivp(lambda _, y: f(y), spans, y0, "LSODA", t, rtol=1e-9, atol=1e-10).y.T for y0 in starts])


def forget_peak() -> None:
    """Let the peak of the process' memory begin anew."""
    gc.collect()
    if CLEAR.exists():
        CLEAR.write_text("5")


def peak() -> float:
    """The peak of the process' memory in MiB; NaN where Linux does not tell."""
    found = re.search(r"VmHWM:\s*(\d+)", STATUS.read_text()) if STATUS.exists() else None
    return int(found[1]) / 1024 if found else np.nan


def trial(
    name: str,
    n_times: int = 60,
    noise: float = 0.02,
    gaps: float = 0.0,
    field: str = "auto",
    picture: Path | None = None,
) -> dict[str, object]:
    """Learn a field from some trajectories; its errors, relative to the size of the true one."""
    f, end, box = SYSTEMS[name]
    rng = np.random.default_rng(0)
    starts = rng.uniform(*box, size=(2 * N_SERIES, len(box[0])))
    t = np.linspace(0.0, end, n_times)
    both = solved(f, starts, np.concatenate([t, end + t[1:]]))
    seen, spread = both[:N_SERIES, :n_times], both[:N_SERIES, :n_times].std(axis=(0, 1))
    X = pd.DataFrame({"series": np.repeat(np.arange(N_SERIES), n_times), "t": np.tile(t, N_SERIES)})
    y = seen.reshape(len(X), -1) + noise * spread * rng.normal(size=(len(X), len(spread)))
    kept = rng.uniform(size=len(X)) >= gaps
    forget_peak()
    start = time.process_time()
    row: dict[str, object] = {"rows": int(kept.sum())}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = NeuralODERegressor(field=field, series="series", time="t", random_state=0).fit(X[kept], y[kept])
    except (SolverError, ValueError) as error:
        return {**row, "field": type(error).__name__, "seconds": time.process_time() - start}
    row |= {"field": model.field_, "optimum": "yes" if model.converged_ else "no"}
    row |= {"seconds": time.process_time() - start, "MiB": peak()}
    for where, states in (("on", seen), ("off", both[N_SERIES:, :n_times])):
        states = states.reshape(-1, len(spread))
        exact = f(states.T).T
        size = np.sqrt((exact**2).mean(axis=0))
        error = np.sqrt((((model.vector_field(states) - exact) / size) ** 2).mean())
        row[f"{where} data"] = 100.0 * error
    ahead = pd.DataFrame({"series": np.repeat(np.arange(N_SERIES), n_times - 1), "t": np.tile(end + t[1:], N_SERIES)})
    truth = both[:N_SERIES, n_times:].reshape(len(ahead), -1)
    try:
        row["forecast"] = 100.0 * np.sqrt((((model.predict(ahead) - truth) / spread) ** 2).mean())
    except SolverError:
        row["forecast"] = np.inf
    if picture is not None:
        display = VectorFieldDisplay.from_estimator(model, X, y, true_field=lambda Y: f(Y.T).T)
        display.figure_.savefig(picture, dpi=100)
        plt.close(display.figure_)
    return row


def rounded(x: float) -> str:
    """A number with two digits at least."""
    return f"{x:.2g}" if x < 10 else f"{x:.0f}"


def show(title: str, rows: list[dict[str, object]]) -> None:
    """Print a table."""
    formats = {"seconds": "{:.1f}".format, "MiB": "{:.0f}".format}
    frame = pd.DataFrame(rows)
    written = frame.to_string(index=False, formatters=formats, float_format=rounded)
    print(f"\n{title}\n{written}", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Recovery of unknown dynamics.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("pictures"))
    parser.add_argument("--full", action="store_true", help="all systems, and all tables")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True, parents=True)
    print(
        "Errors in %: of the field, relative to its root mean square, on the data and on trajectories from elsewhere;\n"
        "of forecasts over as long again, relative to the spread of the states. CPU time of a fit in seconds, and the\n"
        "peak of the process' memory, libraries and all."
    )
    systems = [name for name in SYSTEMS if options.full or name not in SLOW]
    picture = options.folder / "dynamics.png"
    rows = [{"system": name, **trial(name, picture=picture if name == "pendulum" else None)} for name in systems]
    show("Four series of 60 times, noise of 2 % of the spread", rows)
    for name in ("Lotka-Volterra", "pendulum") if options.full else ("Lotka-Volterra",):
        cubic = partial(trial, name, field="polynomial")
        show(f"{name}, a polynomial: times", [{"times": n, **cubic(n_times=n)} for n in (15, 30, 120, 240)])
        show(f"{name}, a polynomial: noise", [{"noise, %": 100 * x, **cubic(noise=x)} for x in (0.0, 0.1, 0.3)])
        show(f"{name}, a polynomial: gaps", [{"dropped, %": 100 * x, **cubic(gaps=x)} for x in (0.5, 0.8)])


if __name__ == "__main__":
    main()
