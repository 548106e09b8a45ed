"""Fits of known equations: coverage, stiff equations, time beside SciPy; ``python -m tests.benchmarks.equations``."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares
from scipy.stats import t as student

from skode import ODERegressor
from tests.benchmarks.report import ROOT, table
from tests.equations.systems import compartments, lotka_volterra, robertson, sir, solved

N_SIMULATIONS = 200
RATES = {"k1": 0.04, "k2": 3e7, "k3": 1e4}


def fitted(model: ODERegressor, X: Any, y: Any) -> tuple[ODERegressor, float]:
    """The fitted estimator, and the time of the process that it took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = process_time()
        model.fit(X, y)
        return model, process_time() - started


def exact_hits(slopes: np.ndarray, errors: np.ndarray, names: int) -> np.ndarray:
    """Whether 95 % intervals of linear theory hold the truth: with the derivatives there, for the same noise.

    What they miss of 95 % is the luck of the draw.
    """
    H = slopes.T @ slopes
    found = np.linalg.solve(H, slopes.T @ errors)
    dof = len(errors) - len(found)
    variance = np.sum((errors - slopes @ found) ** 2) / dof
    allowed = student.ppf(0.975, dof) * np.sqrt(np.diag(np.linalg.inv(H)) * variance)
    return (np.abs(found) < allowed)[:names]


def coverage(first_seed: int = 0) -> str:
    """How often 95 % intervals hold the true constants, over simulations; starts off by a factor of 1.5."""
    cases: dict[str, tuple[Any, dict[str, float], list[float], np.ndarray, str, list[int], Any]] = {
        "SIR, infected observed, initial states known": (
            sir,
            {"beta": 0.4, "gamma": 0.1},
            [0.99, 0.01, 0.0],
            np.linspace(0.0, 80.0, 41)[1:],
            "SIR",
            [1],
            [0.99, 0.01, 0.0],
        ),
        "Lotka-Volterra, initial states unknown": (
            lotka_volterra,
            {"a": 1.0, "b": 0.5, "c": 1.2, "d": 0.4},
            [3.0, 1.0],
            np.linspace(0.0, 15.0, 41)[1:],
            "xy",
            [0, 1],
            None,
        ),
        "two compartments and a gut, blood observed": (
            compartments,
            {"ka": 1.3, "ke": 0.2, "k12": 0.4, "k21": 0.3},
            [10.0, 0.0, 0.0],
            np.linspace(0.0, 24.0, 41)[1:],
            "gbt",
            [1],
            [10.0, 0.0, 0.0],
        ),
    }
    rows = []
    for name, (rhs, p, y0, t, states, seen, initial) in cases.items():
        clean = solved(rhs, p, y0, np.concatenate([[0.0], t]))[:, seen]
        unknown = np.log([*p.values(), *(y0 if initial is None else [])])

        def outputs(logs: np.ndarray, rhs: Any = rhs, p: Any = p, y0: Any = y0, t: Any = t, seen: Any = seen) -> Any:
            values = np.exp(logs)
            start = values[len(p) :] if len(logs) > len(p) else y0
            return solved(rhs, dict(zip(p, values, strict=False)), start, np.concatenate([[0.0], t]))[1:, seen]

        eye = 1e-4 * np.eye(len(unknown))
        # Each output in units of its noise, which is the same share of its spread for all.
        slopes = np.stack([(outputs(unknown + e) - outputs(unknown - e)) / 2e-4 for e in eye], axis=-1)
        slopes = (slopes / clean.std(axis=0)[:, None]).reshape(-1, len(unknown))
        hits, exact, seconds = [], [], []
        for seed in range(first_seed, first_seed + N_SIMULATIONS):
            rng = np.random.default_rng(seed)
            noisy = clean + 0.05 * clean.std(axis=0) * rng.normal(size=clean.shape)
            noisy[0] = np.nan  # the series starts at 0, where nothing is observed
            start = {key: (1.5 * value, 0, None) for key, value in p.items()}
            model = ODERegressor(
                rhs, start, states=list(states), observe=[states[i] for i in seen], initial=initial, rtol=1e-5
            )
            model, took = fitted(model, np.concatenate([[0.0], t])[:, None], noisy)
            interval = model.conf_int()
            hits.append([interval.loc[key, "low"] < value < interval.loc[key, "high"] for key, value in p.items()])
            seconds.append(took)
            errors = ((noisy - clean) / clean.std(axis=0))[1:].ravel()
            exact.append(exact_hits(slopes, errors, len(p)))
        share = np.mean(hits, axis=0)
        by_name = ", ".join(f"{key} {value:.1%}" for key, value in zip(p, share, strict=True))
        rows.append([name, f"{np.mean(hits):.1%}", by_name, f"{np.mean(exact):.1%}", f"{np.median(seconds):.2f}"])
    header = ["model", "coverage", "of each constant", "linear theory, same noise", "s a fit"]
    return table(header, rows)


def robertson_times() -> np.ndarray:
    """Forty times, spaced logarithmically, after 0."""
    return np.concatenate([[0.0], np.logspace(-5, 5, 40)])


def bounds_of_robertson() -> dict[str, np.ndarray]:
    """Least standard errors of the rates, relative, by the inequality of Cramer and Rao."""
    t, logs = robertson_times(), np.log(list(RATES.values()))

    def states(logs: np.ndarray) -> np.ndarray:
        return solved(robertson, dict(zip(RATES, np.exp(logs), strict=True)), [1.0, 0.0, 0.0], t, "Radau")[1:]

    y, step = states(logs), 1e-3
    slopes = np.stack([(states(logs + step * e) - states(logs - step * e)) / (2.0 * step) for e in np.eye(3)], axis=-1)
    found = {}
    for name, deviation in {"relative": 0.05 * np.abs(y), "of the spread": 0.05 * y.std(axis=0)}.items():
        J = (slopes / np.broadcast_to(deviation, y.shape)[..., None]).reshape(-1, 3)
        found[name] = np.sqrt(np.diag(np.linalg.inv(J.T @ J)))
    return found


def robertsons_rates(seeds: range = range(5)) -> str:
    """Robertson's rates from 40 points with 5 % noise, starts off by factors of up to 3."""
    rows = [
        ["Robertson, noise " + name, "least s.e.", *(f"{x:.2%}" for x in bound), "", ""]
        for name, bound in bounds_of_robertson().items()
    ]
    t = robertson_times()
    clean = solved(robertson, RATES, [1.0, 0.0, 0.0], t, "Radau")
    for seed in seeds:
        rng = np.random.default_rng(seed)
        noisy = clean * np.exp(0.05 * rng.normal(size=clean.shape))
        noisy[0] = np.nan
        factors = 3.0 ** rng.uniform(-1.0, 1.0, 3)
        start = {name: (value * factor, 0, None) for (name, value), factor in zip(RATES.items(), factors, strict=True)}
        model = ODERegressor(
            robertson,
            start,
            states=["a", "b", "c"],
            initial=[1.0, 0.0, 0.0],
            noise="lognormal",
            method="kvaerno5",
            rtol=1e-4,
            atol=1e-10,
        )
        model, seconds = fitted(model, t[:, None], noisy)
        summary, true = model.summary(), np.array(list(RATES.values()))
        error = summary["estimate"].to_numpy() / true - 1.0
        missed = np.abs(error / (summary["std_error"].to_numpy() / summary["estimate"].to_numpy())).max()
        rows.append(
            [
                "Robertson, noise relative",
                f"seed {seed}",
                *(f"{x:+.2%}" for x in error),
                f"{missed:.1f}",
                f"{seconds:.1f}",
            ]
        )
    header = ["equations", "", "k1", "k2", "k3", "largest miss / s.e.", "s"]
    return table(header, rows)


def van_der_pol(seeds: range = range(5)) -> str:
    """Van der Pol's oscillator with mu = 100 from 100 points of one and a half periods, noise 5 %."""

    def oscillator(t: Any, y: Any, p: Any) -> Any:
        x, v = y.unbind(-1)
        return torch.stack([v, p["mu"] * (1.0 - x**2) * v - x], dim=-1)

    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        t = np.concatenate([[0.0], np.sort(rng.uniform(0.0, 250.0, 100))])
        x = solved(oscillator, {"mu": 100.0}, [2.0, 0.0], t, "Radau")[:, :1]
        noisy = x + 0.05 * x.std() * rng.normal(size=x.shape)
        start = {"mu": (100.0 * 3.0 ** rng.uniform(-1.0, 1.0), 0, None)}
        model = ODERegressor(
            oscillator,
            start,
            states=["x", "v"],
            observe="x",
            initial=[2.0, 0.0],
            method="kvaerno5",
            rtol=1e-5,
            atol=1e-7,
        )
        model, seconds = fitted(model, t[:, None], noisy)
        estimate, error = model.summary().loc["mu", ["estimate", "std_error"]]
        rows.append([seed, f"{start['mu'][0]:.0f}", f"{estimate:.3f}", f"{error:.3f}", f"{seconds:.1f}"])
    return table(["seed", "start of mu", "mu", "s.e.", "s"], rows)


def time_of_sir(rounds: int = 7) -> str:
    """A fit of the SIR model beside SciPy's, in one run and turn by turn."""
    p, y0 = {"beta": 0.4, "gamma": 0.1}, [0.99, 0.01, 0.0]
    t = np.linspace(0.0, 80.0, 41)
    clean = solved(sir, p, y0, t)[:, 1]
    ratios, ours, scipys = [], [], []
    for seed in range(rounds):
        noisy = clean + 0.02 * clean.std() * np.random.default_rng(seed).normal(size=len(t))

        def residuals(logs: np.ndarray, noisy: np.ndarray = noisy) -> np.ndarray:
            beta, gamma = np.exp(logs)

            def field(t: float, y: np.ndarray) -> list[float]:
                new, recovered = beta * y[0] * y[1], gamma * y[1]
                return [-new, new - recovered, recovered]

            return solve_ivp(field, (0.0, 80.0), y0, t_eval=t, rtol=1e-6, atol=1e-9).y[1] - noisy

        started = process_time()
        found = least_squares(residuals, np.log([0.5, 0.2]))
        scipys.append(process_time() - started)
        start = {"beta": (0.5, 0, None), "gamma": (0.2, 0, None)}
        model = ODERegressor(sir, start, states=["S", "I", "R"], observe="I", initial=y0)
        model, took = fitted(model, t[:, None], noisy)
        ours.append(took)
        assert np.allclose(list(model.params_.values()), np.exp(found.x), rtol=1e-2)
        ratios.append(ours[-1] / scipys[-1])
    rows = [
        ["ODERegressor", f"{1e3 * np.median(ours):.0f}", f"{np.median(ratios):.2f}"],
        ["scipy.optimize.least_squares with solve_ivp", f"{1e3 * np.median(scipys):.0f}", "1"],
    ]
    return table(["SIR, starts 0.5 and 0.2", "ms", "ratio"], rows) + "\n\n" + time_of_panel()


def time_of_panel(n_series: int = 200, n_alone: int = 10) -> str:
    """Series with a rate of their own in one fit, and one after the other."""
    rng = np.random.default_rng(0)
    t, rates = np.linspace(0.0, 8.0, 15), rng.uniform(0.5, 1.5, n_series)

    def growth(t: Any, y: Any, p: Any) -> Any:
        return (p["rate"] * y[..., 0] * (1.0 - y[..., 0] / 5.0))[..., None]

    y = 5.0 / (1.0 + 24.0 * np.exp(-rates[:, None] * t)) + 0.05 * rng.normal(size=(n_series, 15))
    X = pd.DataFrame({"series": np.repeat(np.arange(n_series), 15), "t": np.tile(t, n_series)})
    start, settings = {"rate": (1.0, 0, None)}, {"states": ["size"], "initial": [0.2], "time": "t"}
    together = fitted(ODERegressor(growth, start, per_series=["rate"], series="series", **settings), X, y.ravel())[1]
    alone = [
        fitted(ODERegressor(growth, start, **settings), X.loc[X["series"] == i, ["t"]], y[i])[1] for i in range(n_alone)
    ]
    loop = n_series * float(np.median(alone))
    rows = [["one fit", f"{together:.2f}", "1"], ["one after the other", f"{loop:.1f}", f"{loop / together:.0f}"]]
    return table([f"{n_series} series of 15 times", "s", "ratio"], rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "coverage": coverage,
    "coverage_again": lambda: coverage(N_SIMULATIONS),
    "robertson": robertsons_rates,
    "van_der_pol": van_der_pol,
    "time": time_of_sir,
}


def main() -> None:
    """Run sections and print them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.equations", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="the folder to write sections to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only:
        text = SECTIONS[name]()
        print(text, flush=True)
        if options.out.is_dir():
            (options.out / f"equations_{name}.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
