"""Held-out likelihood against training time, beside other CNFs: ``python -m tests.benchmarks.density_race``."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sklearn.datasets import make_circles
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from skode import CNFDensityEstimator
from skode.datasets import toy_log_density
from tests.benchmarks.report import machine, table, write

NOTES = """\
Two noisy circles, 20,000 points to train on; the mean log-likelihood (nats) of 10,000 others was taken every now and
then, and the time that took is not counted. All at float32, one after another in one process. A peer's figure is the
best of its curve in the time given, though it was chosen on the held-out points. 'torchdiffeq' is the planar CNF with
a hypernetwork of its `examples/cnf.py`, 'FFJORD' the concatsquash perceptron (64-64-64, tanh) with the exact trace,
both written here over torchdiffeq's dopri5 at 1e-5; 'zuko' is `zuko.flows.CNF` with hidden (64, 64). Peers: Adam at
1e-3, batches of 512. CNFDensityEstimator, the flow alone, has its defaults and ends where they end it."""

N_TRAIN, N_HELD_OUT, BATCH, EVALUATIONS = 20_000, 10_000, 512, 40

Curve = list[tuple[float, float]]


def circles(n_samples: int, random_state: int) -> np.ndarray:
    """Points of two noisy circles."""
    return make_circles(n_samples, noise=0.06, factor=0.5, random_state=random_state)[0].astype(np.float32)


class HypernetPlanar(nn.Module):
    """Gated planar units whose weights a small network makes from the time (Chen et al. 2018, section 4)."""

    def __init__(self, n_features: int = 2, hidden: int = 32, width: int = 64) -> None:
        super().__init__()
        self.width, self.n_features = width, n_features
        self.hypernet = nn.Sequential(
            nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(),
            nn.Linear(hidden, width * (3 * n_features + 1)),
        )  # fmt: skip

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        block = self.width * self.n_features
        flat = self.hypernet(t.reshape(1, 1)).flatten()
        w, u, gate = (flat[i * block : (i + 1) * block].view(self.width, -1) for i in range(3))
        return torch.tanh(z @ w.T + flat[3 * block :]) @ (u * torch.sigmoid(gate)) / self.width


class ConcatSquash(nn.Module):
    """A linear map that the time gates and shifts (Grathwohl et al. 2019)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear, self.gate, self.shift = nn.Linear(n_in, n_out), nn.Linear(1, n_out), nn.Linear(1, n_out, False)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        t = t.reshape(1, 1)
        return self.linear(z) * torch.sigmoid(self.gate(t)) + self.shift(t)


class ConcatSquashPerceptron(nn.Module):
    """The field of FFJORD's two-dimensional examples."""

    def __init__(self, n_features: int = 2, hidden: tuple[int, ...] = (64, 64, 64)) -> None:
        super().__init__()
        sizes = (n_features, *hidden, n_features)
        self.layers = nn.ModuleList(ConcatSquash(*pair) for pair in pairwise(sizes))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            z = torch.tanh(layer(t, z))
        return self.layers[-1](t, z)


class WithTrace(nn.Module):
    """A field beside its divergence, a vector-Jacobian product per dimension."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = state[0].requires_grad_(True)
            dz = self.field(t, z)
            columns = (torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(z.shape[1]))
            return dz, sum(columns)


class TorchdiffeqFlow(nn.Module):
    """A CNF over torchdiffeq, its base a centred normal at time 0."""

    def __init__(self, field: nn.Module, end_time: float, base_variance: float) -> None:
        super().__init__()
        self.joint, self.end_time, self.base_variance = WithTrace(field), end_time, base_variance

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-densities of points of shape (n, d)."""
        from torchdiffeq import odeint_adjoint

        times = torch.tensor([self.end_time, 0.0])
        state = odeint_adjoint(self.joint, (x, x.new_zeros(len(x))), times, rtol=1e-5, atol=1e-5, method="dopri5")
        z, integral = state[0][-1], state[1][-1]
        scale = 0.5 * z.shape[1] * math.log(2 * math.pi * self.base_variance)
        return -0.5 * (z * z).sum(1) / self.base_variance - scale + integral


class ZukoFlow(nn.Module):
    """zuko's CNF."""

    def __init__(self) -> None:
        super().__init__()
        from zuko.flows import CNF

        self.flow = CNF(features=2, hidden_features=(64, 64))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-densities of points of shape (n, d)."""
        return self.flow().log_prob(x)


PEERS: dict[str, Callable[[], nn.Module]] = {
    "torchdiffeq": lambda: TorchdiffeqFlow(HypernetPlanar(), 10.0, 0.1),
    "FFJORD": lambda: TorchdiffeqFlow(ConcatSquashPerceptron(), 0.5, 1.0),
    "zuko": ZukoFlow,
}


def raced_peer(make: Callable[[], nn.Module], X: np.ndarray, held_out: np.ndarray, seconds: float) -> Curve:
    """Curve of a peer that trains for so many seconds."""
    torch.manual_seed(0)
    points, others = torch.from_numpy(X), torch.from_numpy(held_out)
    flow = make()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    curve: Curve = []
    trained = 0.0
    while trained < seconds:
        started = perf_counter()
        optimizer.zero_grad()
        (-flow.log_prob(points[torch.randint(len(points), (BATCH,))]).mean()).backward()
        optimizer.step()
        trained += perf_counter() - started
        if trained >= seconds * (len(curve) + 1) / EVALUATIONS:
            with torch.no_grad():
                curve.append((trained, float(flow.log_prob(others).mean())))
    return curve


class Watch:
    """A callback that scores held-out points after every epoch and stops the clock for it."""

    def __init__(self, held_out: np.ndarray, seconds: float) -> None:
        self.held_out, self.seconds = held_out, seconds
        self.curve: Curve = []
        self.paused = 0.0
        self.started = perf_counter()

    def setup(self, estimator: Any, context: Any) -> None:
        """Nothing: the clock started when this was made."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Nothing."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Nothing."""

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> bool | None:
        """Score after an epoch; ask to stop where the time is over."""
        if context.task_name != "epoch":
            return None
        now = perf_counter()
        trained = now - self.started - self.paused
        self.curve.append((trained, fitted_estimator.score(self.held_out)))
        self.paused += perf_counter() - now
        return trained >= self.seconds


def raced_skode(X: np.ndarray, held_out: np.ndarray, seconds: float) -> Curve:
    """Curve of CNFDensityEstimator with its defaults, the flow alone."""
    estimator = CNFDensityEstimator(stacking=False, random_state=0)
    watch = Watch(held_out, seconds)
    estimator.set_callbacks(watch).fit(X)
    trained = perf_counter() - watch.started - watch.paused
    return [*watch.curve, (trained, estimator.score(held_out))]


def time_to(curve: Curve, likelihood: float) -> float | None:
    """Training seconds after which a curve first came to a likelihood."""
    return next((seconds for seconds, value in curve if value >= likelihood), None)


def section(seconds: float = 80.0) -> str:
    """The Markdown of the part."""
    X, held_out = circles(N_TRAIN, 0), circles(N_HELD_OUT, 1)
    curves = {"CNFDensityEstimator": raced_skode(X, held_out, seconds)}
    for name, make in PEERS.items():
        curves[name] = raced_peer(make, X, held_out, seconds)
        print(name, *(f"{trained:.1f} s: {value:.4f}" for trained, value in curves[name]), sep="\n  ", flush=True)
    truth = float(toy_log_density("two_circles", held_out.astype(np.float64)).mean())
    bests = {name: max(curve, key=lambda point: point[1]) for name, curve in curves.items()}
    ours = curves["CNFDensityEstimator"]
    rows = []
    for name, (seconds_taken, best) in bests.items():
        taken = time_to(ours, best)
        told = [None if taken is None else f"{taken:.1f}", None if taken is None else f"{seconds_taken / taken:.1f}"]
        rows.append(
            [
                name,
                f"{curves[name][-1][0]:.0f}",
                f"{best:.4f}",
                f"{truth - best:.4f}",
                f"{seconds_taken:.1f}",
                *(told if name in PEERS else ["", ""]),
            ]
        )
    header = ["", "trained, s", "best log-likelihood", "excess", "reached after, s", "skode there, s", "ratio"]
    points = "; ".join(f"{trained:.1f} s {value:.4f}" for trained, value in ours[:: max(1, len(ours) // 12)])
    rival = max((bests[name] for name in PEERS), key=lambda point: point[1])
    taken = time_to(ours, rival[1])
    verdict = "CNFDensityEstimator did not come to the best peer's best"
    if taken is not None:
        verdict = f"CNFDensityEstimator came to the best peer's best ({rival[1]:.4f}, after {rival[0]:.1f} s) in"
        verdict += f" {taken:.1f} s, {rival[0] / taken:.1f} times sooner"
    notes = f"{NOTES} The excess is that of the true density on the same points, {truth:.4f}, over it."
    return f"{notes}\n\n{table(header, rows)}\n\n{verdict}. Its curve: {points}."


def main() -> None:
    """Race, print the table, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.density_race", description=__doc__)
    parser.add_argument("--seconds", type=float, default=80.0, help="training time of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(options.threads)
    body = section(options.seconds)
    command = f"python -m tests.benchmarks.density_race --seconds {options.seconds:g} --threads {options.threads}"
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out, "Continuous normalizing flows against the clock", body, command)


if __name__ == "__main__":
    main()
