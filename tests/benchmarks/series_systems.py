"""Forecasts of panels that follow equations, with defaults: ``python -m tests.benchmarks.series_systems [--tuning]``.

The panels of Physiome-ODE are read from ``../shared/data/physiome``, the equations of ODEBench from
``../shared/data/odebench``; what is missing there is left out.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from scipy.integrate import solve_ivp
from sklearn.exceptions import ConvergenceWarning

from skode import LatentODERegressor
from skode.datasets import make_damped_pendulum, make_lotka_volterra
from tests.benchmarks.report import ROOT, machine, table, write

NOTES = """\
Defaults (`LatentODERegressor(series=..., time=..., random_state=0)`), on one thread; seconds are of the process. All
sizes, the unit of time and the way of training were chosen on the tuning panels, on the tuning half of
`series_panels` and on spirals; the final ones, and this rule, were written down before any of them was run, and they
were run once.

**Physiome-ODE** (Kloetergens et al., ICLR 2025): fold 0 of three of its fifty panels, the first 70 % of the series for
training, the last 10 % for the test, all channels standardised; known is t <= 0.5, and the mean squared error is of the
channels that are scored, after that. The published errors are that paper's, of models whose settings were searched for
each panel, on five folds. The 20 % for validation are not used here.

**Unseen systems**: of ODEBench's systems (d'Ascoli et al., ICLR 2024) all of three states or more that are called
neither chaotic nor an attractor, unless a periodic one. **Tuning systems**: five others. Panels are made by the recipe
of Physiome-ODE: 600 series with constants and initial states times log-normal factors (spread .15 and .3), 100 times
over the span, standardised, normal noise of .05, four of five values missing; split and queried as above. The error of
the true solutions is .0025.

**Generators**: the whole first span of `make_damped_pendulum()` and `make_lotka_volterra(noise=0.05)` is known, and a
second one is predicted; errors and estimated noise in units of the true noise (for Lotka-Volterra of the logarithms,
which are fitted)."""

PHYSIOME = ROOT.parent / "shared" / "data" / "physiome"
ODEBENCH = ROOT.parent / "shared" / "data" / "odebench" / "odebench.json"
PAGE = ROOT / "docs" / "benchmarks" / "series_systems.md"

#: File, and published errors of forecasts.
PUBLISHED = {
    "LI01": ("li_1996_simple", "LinODENet .084, CRU .175, GraFITi .202, Neural Flows .979, GRU-ODE-Bayes 1.067"),
    "KAR01": ("karagiannis_popel_2006", "LinODENet .034, GraFITi .041"),
    "REV01": ("revilla_garcia-ramos_2003", "LinODENet .597, GraFITi .674"),
}


@dataclass(frozen=True)
class Panel:
    """Values of series at common times.

    Attributes
    ----------
    times : ndarray of shape (n_times,)
        From 0 to 1.
    values : ndarray of shape (n_series, n_times, n_channels)
        NaN where nothing was observed.
    scored : ndarray of int
        The channels whose error counts.
    """

    times: np.ndarray
    values: np.ndarray
    scored: np.ndarray

    def frames(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Rows at which anything was observed, and their values."""
        n_series, n_times, n_channels = self.values.shape
        X = pd.DataFrame({"series": np.repeat(np.arange(n_series), n_times), "time": np.tile(self.times, n_series)})
        y = self.values.reshape(-1, n_channels)
        seen = np.isfinite(y).any(axis=1)
        return X[seen].reset_index(drop=True), y[seen]


Field = Callable[[float, np.ndarray, np.ndarray], Sequence[float]]


def fitzhugh_nagumo(t: float, y: np.ndarray, c: np.ndarray) -> Sequence[float]:
    v, w = y
    return [c[0] * (v - v**3 / 3 - w + c[1]), (v + c[2] - c[3] * w) / c[0]]


def repressilator(t: float, y: np.ndarray, c: np.ndarray) -> Sequence[float]:
    m, p = y[:3], y[3:]
    return np.r_[-m + c[0] / (1 + np.roll(p, 1) ** 2) + c[1], -c[2] * (p - m)]


def selkov_chain(t: float, y: np.ndarray, c: np.ndarray) -> Sequence[float]:
    x, z, u, v = y
    return [-x + c[0] * z + x * x * z, c[1] - c[0] * z - x * x * z, c[2] * (x - u), c[3] * (u - v)]


def hodgkin_huxley(t: float, y: np.ndarray, c: np.ndarray) -> Sequence[float]:
    v, m, h, n = y
    current = c[0] - c[1] * m**3 * h * (v - 50) - c[2] * n**4 * (v + 77) - c[3] * (v + 54.4)
    to_m = 0.1 * (v + 40) / (1 - np.exp(-(v + 40) / 10)) * (1 - m) - 4 * np.exp(-(v + 65) / 18) * m
    to_h = 0.07 * np.exp(-(v + 65) / 20) * (1 - h) - h / (1 + np.exp(-(v + 35) / 10))
    to_n = 0.01 * (v + 55) / (1 - np.exp(-(v + 55) / 10)) * (1 - n) - 0.125 * np.exp(-(v + 65) / 80) * n
    return [current, to_m, to_h, to_n]


def cascade(t: float, y: np.ndarray, c: np.ndarray) -> Sequence[float]:
    a, b, d, e, f = y
    return [
        -c[0] * a,
        c[0] * a - c[1] * b * (1 + e),
        c[1] * b - c[2] * d,
        c[2] * d * d / (1 + d * d) - c[3] * e,
        c[3] * e - c[0] * f * b,
    ]


#: By name: equations, initial states, constants, span.
TUNING: dict[str, tuple[Field, list[float], list[float], float]] = {
    "FitzHugh-Nagumo": (fitzhugh_nagumo, [1.0, 0.5], [3.0, 0.4, 0.7, 0.8], 20.0),
    "repressilator": (repressilator, [1.0, 2.0, 0.5, 1.0, 2.0, 3.0], [20.0, 0.3, 1.0], 25.0),
    "Sel'kov and chain": (selkov_chain, [1.0, 1.0, 0.8, 0.7], [0.08, 0.6, 0.5, 0.3], 40.0),
    "Hodgkin-Huxley": (hodgkin_huxley, [-60.0, 0.1, 0.5, 0.4], [10.0, 120.0, 36.0, 0.3], 40.0),
    "cascade": (cascade, [2.0, 1.0, 0.5, 0.5, 1.0], [0.5, 0.8, 0.4, 0.3], 12.0),
}


def final_systems() -> dict[str, tuple[Field, list[float], list[float], float]]:
    """The unseen systems of the notes."""
    if not ODEBENCH.exists():
        return {}
    found = {}
    for system in json.loads(ODEBENCH.read_text()):
        text = system["eq_description"]
        if system["dim"] < 3 or "chaotic" in text or ("attractor" in text and "periodic" not in text):
            continue
        times = system["solutions"][0][0]["t"]
        found[text.split(" (")[0]] = (
            _field(system["eq"]),
            list(system["init"][0]),
            list(system["consts"][0]),
            float(times[-1]),
        )
    return found


def _field(text: str) -> Field:
    parts = [compile(part.strip().replace("^", "**"), part, "eval") for part in text.split("|")]
    functions = {"__builtins__": {}, "exp": np.exp, "sin": np.sin, "cos": np.cos, "log": np.log}

    def field(t: float, y: np.ndarray, c: np.ndarray) -> Sequence[float]:
        known = {f"x_{i}": v for i, v in enumerate(y)} | {f"c_{i}": v for i, v in enumerate(c)}
        return [eval(part, functions, known) for part in parts]

    return field


def simulated(field: Field, start: list[float], constants: list[float], span: float, n_series: int = 600) -> Panel:
    """A panel by the recipe of the notes; solutions that fail or become infinite are drawn again."""
    rng, times, paths = np.random.default_rng(0), np.linspace(0.0, 1.0, 100), []
    while len(paths) < n_series:
        c = np.array(constants) * np.exp(0.15 * rng.normal(size=len(constants)))
        y0 = np.array(start) * np.exp(0.3 * rng.normal(size=len(start)))
        solution = solve_ivp(
            lambda t, y, c=c: field(t, y, c), (0.0, span), y0, "LSODA", t_eval=span * times, rtol=1e-7, atol=1e-9
        )
        if solution.success and np.isfinite(solution.y).all():
            paths.append(solution.y.T)
    values = np.array(paths)
    values = (values - values.mean((0, 1))) / values.std((0, 1))
    values += 0.05 * rng.normal(size=values.shape)
    values[rng.random(values.shape) < 0.8] = np.nan
    return Panel(times, values, np.arange(values.shape[2]))


def physiome(file: str) -> Panel:
    with np.load(PHYSIOME / f"{file}.npz") as data:
        return Panel(data["t"], data["values"].astype(float), data["asked"])


def forecast_error(panel: Panel) -> tuple[float, float, LatentODERegressor]:
    """Mean squared error after the first half of the span, of test series known until then; seconds; the model."""
    X, y = panel.frames()
    n_series = len(panel.values)
    train, test = X["series"] < int(0.7 * n_series), X["series"] >= int(0.9 * n_series)
    known, query = test & (X["time"] <= 0.5), test & (X["time"] > 0.5)
    began = process_time()
    model = LatentODERegressor(series="series", time="time", random_state=0).fit(X[train], y[train])
    seconds = process_time() - began
    error = model.condition(X[known], y[known]).predict(X[query]) - y[query]
    return float(np.nanmean(error[:, panel.scored] ** 2)), seconds, model


def second_span(which: str) -> list[str]:
    """Estimated noise and error of forecasts over a second span, in units of the true noise."""
    if which == "damped pendulum":
        X, y, truth = make_damped_pendulum(random_state=0, return_truth=True)
        span = 5.0
    else:
        X, y, truth = make_lotka_volterra(noise=0.05, random_state=0, return_truth=True)
        y, span = np.log(y), 20.0
    began = process_time()
    model = LatentODERegressor(series="series", time="time", random_state=0).fit(X, y)
    seconds = process_time() - began
    later = X.assign(time=X["time"] + span)
    true = truth.path(later["series"], later["time"])
    error = model.predict(later) - (np.log(true) if which != "damped pendulum" else true)
    noise = ", ".join(f"{x:.2f}" for x in model.noise_std_ / 0.05)
    errors = ", ".join(f"{x:.1f}" for x in np.sqrt((np.asarray(error) ** 2).mean(axis=0)) / 0.05)
    return [which, noise, errors, f"{seconds:.0f}", str(model.sizes_.max_iter)]


def section(tuning: bool) -> str:
    """The Markdown of the page."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    panels: dict[str, tuple[Panel, str]] = {}
    if not tuning and PHYSIOME.exists():
        panels |= {name: (physiome(file), published) for name, (file, published) in PUBLISHED.items()}
    panels |= {name: (simulated(*it), "") for name, it in (TUNING if tuning else final_systems()).items()}
    for name, (panel, published) in panels.items():
        error, seconds, model = forecast_error(panel)
        sizes = model.sizes_
        rows.append(
            [
                name,
                f"{error:.4f}",
                published,
                f"{seconds:.0f}",
                f"{model.n_iter_} of {sizes.max_iter}",
                f"{sizes.latent_size}, {sizes.hidden_layer_sizes[0]}, {sizes.encoder_size}",
            ]
        )
        print(*rows[-1], sep=" | ", flush=True)
    header = ["panel", "mean squared error", "published", "seconds", "epochs", "latent, hidden, encoder"]
    parts = [NOTES, table(header, rows)]
    if not tuning:
        own = [second_span("damped pendulum"), second_span("Lotka-Volterra")]
        for row in own:
            print(*row, sep=" | ", flush=True)
        parts.append(table(["generator", "noise / true", "RMSE / true noise", "seconds", "epochs"], own))
    return "\n\n".join(parts)


def main() -> None:
    """Print the page, and write it where it is the final one."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.series_systems", description=__doc__)
    parser.add_argument("--tuning", action="store_true", help="the systems that defaults may be chosen on")
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    body = section(options.tuning)
    command = "python -m tests.benchmarks.series_systems" + (" --tuning" if options.tuning else "")
    print(machine(command), body, sep="\n\n")
    if page := options.out or (None if options.tuning else PAGE):
        write(page, "Panels that follow equations", body, command)


if __name__ == "__main__":
    main()
