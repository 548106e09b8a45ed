"""Time of a latent ODE's update, beside torchdiffeq on a union of times: ``python -m tests.benchmarks.series_race``."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from skode import LatentODERegressor
from skode.datasets import make_spirals
from skode.timeseries.latent_ode import HORIZON
from skode.timeseries.sizes import LEAST_UPDATES
from tests.benchmarks.report import ROOT, machine, table, write
from tests.benchmarks.timing import interleaved, milliseconds, ratio

PAGE = ROOT / "docs" / "benchmarks" / "series_race.md"

NOTES = """\
One update (loss, gradient, Adam) on one batch of noisy spirals, each series with its own irregular times; one process,
one thread, medians over interleaved rounds, all models at their initial weights. LatentODERegressor has its defaults
(dopri5 at 1e-3) but for validation, which is left out; its update is what more epochs add to a `fit` of which the batch
is the whole panel, so that set-up is left out and its bookkeeping is not. All compute in float32. The peers solve the
whole batch over the union of all its times, as torchdiffeq's maintainers advise (their issues 86 and 122), and read
each series' own times off it; with `--adjoint` also by `odeint_adjoint`, timed once, for it takes up to minutes.
'alike' is a latent ODE of the same sizes, time scale and tolerances as ours with torch's GRU; 'example' is that of
torchdiffeq's `examples/latent_ode.py`, written here from its formulas: dopri5 at torchdiffeq's default tolerances (rtol
1e-7, atol 1e-9), a field 4-20-20-4 (ELU), a plain recurrent cell of 25, a decoder 4-20-2 (ReLU). Its cell reads each
series' own observations without their gaps, so it does not pay for the union; 'over the union' it reads a row for each
time of the union, zeros and a mark where there is no observation, as a batch on one grid has it. NFE: evaluations of
the field in the solve, less those of the gradient."""


def perceptron(sizes: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
    """Affine maps with an activation between them."""
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])


class Cell(nn.Module):
    """A recurrence h <- tanh(A [y, h] + b) over observations, a step of Python each."""

    def __init__(self, n_inputs: int, size: int) -> None:
        super().__init__()
        self.size, self.step = size, nn.Linear(n_inputs + size, size)

    def forward(self, inputs: Tensor) -> Tensor:
        state = inputs.new_zeros(len(inputs), self.size)
        for row in inputs.unbind(1):
            state = torch.tanh(self.step(torch.cat([row, state], dim=1)))
        return state


class Gated(nn.Module):
    """The last state of torch's GRU."""

    def __init__(self, n_inputs: int, size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(n_inputs, size, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gru(inputs)[1][0]


class UnionLatentODE(nn.Module):
    """A latent ODE that solves a batch of series over the union of their times.

    Parameters
    ----------
    encoder : Module
        From inputs, last observation first, of shape (n_series, n_observations, n_inputs), to a state.
    encoder_size : int
        Size of that state.
    field, decoder : Module
        The latent dynamics, and from latent states to means.
    latent_size : int
        Size of a latent state.
    solve : callable
        torchdiffeq's ``odeint`` or ``odeint_adjoint``, with its tolerances.
    """

    def __init__(
        self,
        encoder: nn.Module,
        encoder_size: int,
        field: nn.Module,
        decoder: nn.Module,
        latent_size: int,
        solve: Callable[..., Tensor],
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder_size, 2 * latent_size)
        self.field, self.decoder, self.solve = Autonomous(field), decoder, solve
        self.log_noise = nn.Parameter(torch.tensor(0.3).log())

    def negative_elbo(self, inputs: Tensor, time: Tensor, y: Tensor) -> Tensor:
        """The bound of Chen et al. (2018), appendix on latent ODEs, with one draw."""
        mean, log_variance = self.head(self.encoder(inputs)).chunk(2, dim=1)
        z0 = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        union, place = torch.unique(time, return_inverse=True)
        self.field.nfev = 0
        path = self.solve(self.field, z0, union)  # (n_times, n_series, latent_size)
        self.nfev = self.field.nfev
        own = path[place, torch.arange(len(time))[:, None]]
        residual = (y - self.decoder(own)) * torch.exp(-self.log_noise)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
        return (divergence + (0.5 * residual**2 + self.log_noise).sum()) / y.numel()


class Autonomous(nn.Module):
    """A field that takes a time and counts its evaluations."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.nfev = field, 0

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        self.nfev += 1
        return self.field(z)


def example(solver: Callable[..., Tensor], n_inputs: int = 2) -> UnionLatentODE:
    """The model of torchdiffeq's example."""
    field, decoder = perceptron((4, 20, 20, 4), nn.ELU), perceptron((4, 20, 2), nn.ReLU)
    return UnionLatentODE(Cell(n_inputs, 25), 25, field, decoder, 4, solver)


def alike(solver: Callable[..., Tensor]) -> UnionLatentODE:
    """A model of the sizes and tolerances of LatentODERegressor."""
    ours = LatentODERegressor()
    latent, size, hidden = ours.latent_size, ours.encoder_size, ours.hidden_layer_sizes
    field = perceptron((latent, *hidden, latent), nn.Tanh)
    decoder = perceptron((latent, max(hidden), 2), nn.Tanh)

    def solve(*arguments: Any) -> Tensor:
        return solver(*arguments, rtol=ours.rtol, atol=ours.atol)

    return UnionLatentODE(Gated(4, size), size, field, decoder, latent, solve)


def update_of(model: UnionLatentODE, time: np.ndarray, y: np.ndarray) -> Callable[[], None]:
    """What makes one update of a peer.

    Parameters
    ----------
    model : UnionLatentODE
        The peer; one with a GRU is told times and gaps, as LatentODERegressor's is.
    time : ndarray of shape (n_series, n_observations)
        Times since each series' first, increasing.
    y : ndarray of shape (n_series, n_observations, 2)
        Observations.
    """
    dtype = model.log_noise.dtype
    own_time, values = torch.tensor(time, dtype=dtype), torch.tensor(y, dtype=dtype)
    inputs = values.flip(1)
    if isinstance(model.encoder, Cell) and model.encoder.step.in_features > 2 + model.encoder.size:
        union, place = torch.unique(own_time, return_inverse=True)
        inputs = torch.zeros(len(time), len(union), 3, dtype=dtype)
        inputs[torch.arange(len(time))[:, None], place] = torch.cat([values, torch.ones_like(values[..., :1])], dim=2)
        inputs = inputs.flip(1)
    if isinstance(model.encoder, Gated):
        reversed_time = own_time.flip(1)
        gaps = -torch.diff(reversed_time, dim=1, prepend=reversed_time[:, :1])
        inputs = torch.cat([inputs, reversed_time[..., None], gaps[..., None]], dim=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=True)

    def update() -> None:
        optimizer.zero_grad()
        model.negative_elbo(inputs, own_time, values).backward()
        optimizer.step()

    return update


def fit_of(X: pd.DataFrame, y: pd.DataFrame, epochs: int) -> LatentODERegressor:
    """Ours, after so many epochs of one batch, at a rate that hardly moves the weights."""
    model = LatentODERegressor(
        series="series",
        time="time",
        batch_size=X["series"].nunique(),
        learning_rate_init=1e-6,
        max_iter=epochs,
        early_stopping=False,
        random_state=0,
    )
    return model.fit(X, y)


def race(n_series: int, n_times: int, rounds: int, epochs: int, *, adjoint: bool) -> list[list[Any]]:
    """Rows of the table for one size of batch.

    Parameters
    ----------
    n_series, n_times : int
        Series in the batch, and times of each.
    rounds : int
        Rounds of timing.
    epochs : int
        Epochs of ours in a turn.
    adjoint : bool
        Whether peers are also timed with the adjoint.
    """
    X, y = make_spirals(n_series, n_times, random_state=0)
    time = X["time"].to_numpy().reshape(n_series, n_times)
    time = time - time[:, :1]
    values = ((y - y.mean()) / y.std()).to_numpy().reshape(n_series, n_times, 2)
    scaled = time * HORIZON / np.median(time[:, -1])

    torch.manual_seed(0)
    peers = {
        "alike, odeint": (alike(odeint), scaled),
        "example, odeint": (example(odeint), time),
        "example over the union, odeint": (example(odeint, 3), time),
    }
    if adjoint:
        peers["alike, odeint_adjoint"] = alike(odeint_adjoint), scaled
        peers["example, odeint_adjoint"] = example(odeint_adjoint), time
    calls: dict[str, Callable[[], Any]] = {
        name: update_of(model, own_time, values) for name, (model, own_time) in peers.items()
    }
    slow = {name: calls.pop(name) for name in peers if name.endswith("adjoint")}
    calls |= {"few": lambda: fit_of(X, y, 2), "many": lambda: fit_of(X, y, 2 + epochs)}
    taken = interleaved(calls, rounds=rounds)
    ours = (taken.pop("many") - taken.pop("few")) / (epochs * LEAST_UPDATES)
    for name, update in slow.items():
        started = perf_counter()
        update()
        taken[name] = np.array([perf_counter() - started])

    evaluations = {name: model.nfev for name, (model, _) in peers.items()}
    evaluations["LatentODERegressor"] = round(fit_of(X, y, 1).nfe_forward_[-1])
    rows = []
    for name, seconds in {"LatentODERegressor": ours, **taken}.items():
        to_ours = ratio(seconds, np.median(ours) if name in slow else ours)
        rows.append([f"{n_series} x {n_times}", name, milliseconds(seconds), to_ours, evaluations[name]])
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def main() -> None:
    """Race, print the table, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.series_race", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small batch: to see that all works, not to publish")
    parser.add_argument("--adjoint", action="store_true", help="time peers with the adjoint as well: minutes")
    parser.add_argument("--out", type=Path, help=f"where to write the page; else {PAGE}, if it is to be published")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    sizes, rounds, epochs = (((5, 10),), 3, 5) if options.quick else (((50, 40), (100, 30)), 5, 15)
    rows = [
        row for n_series, n_times in sizes for row in race(n_series, n_times, rounds, epochs, adjoint=options.adjoint)
    ]
    body = f"{NOTES}\n\n" + table(["series x times", "", "ms", "/ ours", "NFE"], rows)
    command = "python -m tests.benchmarks.series_race" + (" --quick" if options.quick else "")
    print(machine(command), body, sep="\n\n")
    if options.out or not options.quick:
        write(options.out or PAGE, "An update of a latent ODE", body, command)


if __name__ == "__main__":
    main()
