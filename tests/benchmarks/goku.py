"""GOKU's cardiovascular experiment: ``python -m tests.benchmarks.goku [--goku FOLDER]``.

O. Linial, N. Ravid, D. Eytan, U. Shalit, "Generative ODE Modeling with Known Unknowns", CHIL 2021. 1000 series of 400
steps, noise 0.05; nine tenths are trained on, the others are seen for 200 steps and forecast for the next 200. Of each
series an external flow (0 or -2) and a change of resistance (0 or 0.5) are unknown beside its initial state.

Data are made by the recipe here, or read from the folder ``data/cvs`` that GOKU's own ``create_data.py`` wrote; weights
of GOKU's, saved as ``{"epoch", "cpu", "model"}``, are judged by the same measures. The settings were chosen on data of
another seed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skode import KnownDynamics, LatentODERegressor
from skode.solvers import solve_ivp

STATES = ["pa", "pv", "s", "sv"]
FASTEST, SLOWEST, MOST_RESISTANCE, LEAST_RESISTANCE = 3.0, 2.0 / 3.0, 2.134, 0.5335
SEEN, STEPS, SKIPPED, NOISE = 200, 400, 50, 0.05
#: As GOKU's network has them: bounds of the unknowns, and of states at the start.
PARAMS = {"flow": (-1.0, -2.0, 0.0), "resistance": (0.25, 0.0, 0.5)}
INITIAL = {"pa": (0.5, 0.0, 1.0), "pv": (0.5, 0.0, 1.0), "s": (0.5, 0.0, 1.0), "sv": (0.95, 0.85, 1.05)}
SETTINGS = {"max_iter": 5, "batch_size": 150, "random_state": 0}


def rate_of(s: Tensor) -> Tensor:
    """Heart rate of the state of the baroreflex."""
    return s * (FASTEST - SLOWEST) + SLOWEST


def circulation(t: Tensor, y: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Arterial and venous pressure (in 100 and 10 mmHg), baroreflex, stroke volume (in 100 ml)."""
    pa, pv, s, sv = 100.0 * y[..., 0], 10.0 * y[..., 1], y[..., 2], 100.0 * y[..., 3]
    resistance = s * (MOST_RESISTANCE - LEAST_RESISTANCE) + LEAST_RESISTANCE - p["resistance"]
    filling = sv * rate_of(s) - (pa - pv) / resistance
    reflex = (torch.sigmoid(-0.1838 * (pa - 70.0)) - s) / 20.0
    volume = 1e-4 * p["flow"] + torch.zeros_like(s)
    return torch.stack([filling / 400.0, (p["flow"] - filling) / 1110.0, reflex, volume], dim=-1)


def measured(t: Tensor, y: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Both pressures and the heart rate."""
    return torch.stack([y[..., 0], y[..., 1], rate_of(y[..., 2])], dim=-1)


@dataclass(frozen=True)
class Data:
    """Noisy series to train on, noisy series to test on and what is true of these."""

    training: np.ndarray
    test: np.ndarray
    clean: np.ndarray
    flow: np.ndarray
    resistance: np.ndarray

    @classmethod
    def made(cls, n_series: int, seed: int) -> Data:
        """Data by the recipe."""
        rng = np.random.RandomState(seed)
        low, high = np.array([0.75, 0.3, 0.15, 0.9]), np.array([0.85, 0.7, 0.25, 1.0])
        start = torch.from_numpy(rng.uniform(low, high, (n_series, 4)))
        flow, resistance = (np.where(rng.uniform(size=n_series) > 0.5, 0.0, x) for x in (-2.0, 0.5))
        p = {"flow": torch.from_numpy(flow), "resistance": torch.from_numpy(resistance)}
        times = torch.arange(SKIPPED, SKIPPED + STEPS, dtype=torch.float64)
        end = (0.0, float(times[-1]))
        states = solve_ivp(lambda t, y: circulation(t, y, p), end, start, t_eval=times, rtol=1e-8, atol=1e-8).y
        clean = measured(times, states.transpose(0, 1) if len(states) == STEPS else states, p).numpy()
        noisy = clean + NOISE * rng.standard_normal(clean.shape)
        n = round(0.9 * n_series)
        return cls(noisy[:n], noisy[n:], clean[n:], flow[n:], resistance[n:])

    @classmethod
    def read(cls, folder: Path) -> Data:
        """Data that GOKU's code made."""

        def load(name: str) -> dict:
            return torch.load(folder / f"{name}.pkl", weights_only=False)

        noisy, truth = load("processed_data"), load("test_params_data")
        return cls(noisy["train"], noisy["test"], load("gt_test_data"), truth["i_ext"], truth["r_tpr_mod"])


def frame(first: int, values: np.ndarray, start: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Series as a long frame."""
    n, n_steps, _ = values.shape
    steps = np.arange(start, start + n_steps, dtype=np.float64)
    X = pd.DataFrame({"series": np.repeat(np.arange(first, first + n), n_steps), "time": np.tile(steps, n)})
    return X, values.reshape(n * n_steps, -1)


def judged(name: str, data: Data, found: tuple[np.ndarray, np.ndarray, np.ndarray], seconds: float) -> str:
    """A line of the table, of flows, resistances and forecasts."""
    flow, resistance, forecast = found
    told = ((flow < -1.0) == (data.flow < -1.0)) & ((resistance > 0.25) == (data.resistance > 0.25))
    error = np.abs(forecast - data.clean[:, SEEN:])
    by_output = " ".join(f"{x:.4f}" for x in error.mean((0, 1)))
    return f"{name:34s} {told.mean():10.1%} {error.mean():10.5f}   {by_output} {seconds:10.0f}"


def ours(data: Data, observe: object, settings: dict) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], float]:
    """Unknowns and forecasts of the test series by a latent ODE with known dynamics, and what it took, in CPU time."""
    n = len(data.training)
    dynamics = KnownDynamics(circulation, PARAMS, states=STATES, initial=INITIAL, observe=observe)
    start = process_time()
    model = LatentODERegressor("series", "time", dynamics=dynamics, **settings)
    model.fit(*frame(0, data.training[:, :SEEN]))
    print(f"fit: {process_time() - start:.0f} s; noise {model.noise_std_.round(4)}", flush=True)
    conditioned = model.condition(*frame(n, data.test[:, :SEEN]))
    forecast = conditioned.predict(frame(n, data.clean[:, SEEN:], SEEN)[0]).reshape(len(data.test), -1, 3)
    values = conditioned.latent_states().loc[n:]
    return (values["flow"].to_numpy(), values["resistance"].to_numpy(), forecast), process_time() - start


@torch.no_grad()
def theirs(data: Data, folder: Path, saved: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by GOKU's own code with weights that were saved."""
    sys.path.insert(0, str(folder))
    models = __import__("models")
    network = models.create_goku_cvs(ode_method="rk4")
    network.load_state_dict(saved["model"])
    seen = torch.from_numpy(data.test[:, :SEEN]).float()
    predicted, _, params, *_ = network.eval()(seen, t=torch.arange(float(STEPS)), variational=False)
    return params["i_ext"].numpy(), params["r_tpr_mod"].numpy(), predicted[:, SEEN:].numpy()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goku", type=Path, help="a clone of orilinial/GOKU with data/cvs")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="files of GOKU's weights")
    parser.add_argument("--n-series", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--learnt", action="store_true", help="learn the read-out of the heart rate, as GOKU does")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = Data.made(options.n_series, options.seed) if options.goku is None else Data.read(options.goku / "data/cvs")
    print(f"{'':34s} {'both told':>10s} {'error':>10s}   Pa     Pv     rate   {'CPU s':>10s}")
    for path in options.weights:
        saved = torch.load(path, weights_only=False)
        print(
            judged(f"GOKU, {saved['epoch']} epochs", data, theirs(data, options.goku, saved), saved["cpu"]), flush=True
        )
    observe, settings = (["pa", "pv", None], {**SETTINGS, "max_iter": 40}) if options.learnt else (measured, SETTINGS)
    print(judged("LatentODERegressor", data, *ours(data, observe, settings)), flush=True)


if __name__ == "__main__":
    main()
