"""The density of a table of many rows: ``python -m tests.benchmarks.density_rows``."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from skode import CNFDensityEstimator
from tests.benchmarks.report import machine, table, write

NOTES = """\
A simulated table of 100,000 rows by 6 columns: hour, temperature, humidity, wind, power of a turbine and pressure, in
three kinds of weather, with edges, curves and narrow relations. Mean log-likelihood (nats a row, of columns scaled by
the training part's mean and spread) of 20,000 other rows, and seconds of CPU of the fit on one thread. Evaluations are
those of a solve in the first and in the last epoch. CNFDensityEstimator, the flow alone, has its defaults; the mixture
has 50 components."""

N_TRAIN, N_FRESH, N_COMPONENTS = 100_000, 20_000, 50


def turbine(n_samples: int, seed: int) -> np.ndarray:
    """The table, of shape (n_samples, 6)."""
    rng = np.random.default_rng(seed)
    weather = rng.choice(3, n_samples, p=[0.5, 0.3, 0.2])

    def by_weather(*values: float) -> np.ndarray:
        return np.array(values)[weather]

    hour = rng.uniform(0, 24, n_samples)
    warmer = by_weather(6, 2, 9) * np.cos((hour - 15) * np.pi / 12)
    temperature = by_weather(18, 8, 25) + warmer + rng.normal(0, by_weather(1.5, 1, 0.7))
    humidity = 100 / (1 + np.exp((temperature - by_weather(20, 25, 15)) / 6 + rng.normal(0, 0.25, n_samples)))
    wind = by_weather(5, 11, 3) * rng.weibull(by_weather(2, 2.5, 1.3))
    share = 1 / (1 + np.exp(-0.9 * (wind - 9)))
    power = 2000 * share * (1 + 0.03 * rng.standard_normal(n_samples)) + rng.normal(0, 15, n_samples)
    gusts = rng.standard_t(5, n_samples) * by_weather(3, 5, 1.5)
    pressure = by_weather(1015, 998, 1022) - 0.6 * np.sqrt(wind) + gusts
    return np.column_stack([hour, temperature, humidity, wind, power, pressure])


def section(n_train: int = N_TRAIN, n_fresh: int = N_FRESH) -> str:
    """The Markdown of the part."""
    X = turbine(n_train + n_fresh, seed=1)
    scaler = StandardScaler().fit(X[:n_train])
    rows, fresh = scaler.transform(X[:n_train]), scaler.transform(X[n_train:])
    models: dict[str, Any] = {
        "CNFDensityEstimator": CNFDensityEstimator(stacking=False, random_state=0, verbose=True),
        f"GMM ({N_COMPONENTS})": GaussianMixture(N_COMPONENTS, random_state=0),
    }
    cells = []
    for name, model in models.items():
        began = process_time()
        model.fit(rows)
        seconds = process_time() - began
        counts = getattr(model, "nfe_forward_", None)
        evaluations = None if counts is None else f"{counts[0]:.0f} to {counts[-1]:.0f}"
        epochs = None if counts is None else model.n_iter_
        cells.append([name, f"{model.score(fresh):.4f}", f"{seconds:.0f}", epochs, evaluations])
    return f"{NOTES}\n\n" + table(["model", "log-likelihood", "CPU, s", "epochs", "evaluations"], cells)


def main() -> None:
    """Fit, print the table, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.density_rows", description=__doc__)
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    body = section()
    command = "python -m tests.benchmarks.density_rows"
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out, "The density of a table of many rows", body, command)


if __name__ == "__main__":
    main()
