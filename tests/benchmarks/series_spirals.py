"""Spirals at irregular times: a latent ODE beside recurrent networks: ``python -m tests.benchmarks.series_spirals``."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from unittest import mock

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from skode import LatentODERegressor
from skode.datasets import make_spirals
from skode.datasets._spirals import SpiralTruth
from skode.training.soap import SOAP
from tests.benchmarks.report import ROOT, machine, table, write

PAGE = ROOT / "docs" / "benchmarks" / "series_spirals.md"

NOTES = """\
Pieces of spirals (`make_spirals`, noise 0.3), each series seen at its own irregular times in a window. Every model
learns from {n_training} series, reads {n_new} new ones, and tells their paths at 200 equally spaced times of a span
twice the window's. RMSE per coordinate against the noise-free path, inside the window and beyond it; coverage of the
90 % band by fresh noisy observations at the same times. Everything in one process.

LatentODERegressor has its defaults and reads the new series through `condition`. The recurrent networks train for as
many seconds as its fit took: Adam at 1e-2 that falls to 0 along half a cosine, batches of 100 series and at most 30
observations of each (more were slower and no better), 64 units, Gaussian likelihood. 'RNN with gaps' is a GRU that
reads each observation with the gap before it, and whose read-out tells the value a gap later; half of its updates
predict one observation ahead, the others read a beginning of the series and then their own means. Beyond the window it
goes on by its own means at steps of a thirtieth of the window, which did better than at the asked times. Inside the
window it knows the past alone (and before a series' first observation nothing), so 'bidirectional RNN' stands beside
it, two GRUs that are asked for observations hidden from them, by the gaps to those on either side. 'maximum likelihood'
knows the spirals' formulas and the noise, and fits direction and start to each series: about the least error that the
noise allows. For the paper's latent ODE, of 30, 50 and 100 observations on a regular grid of spirals that differ a
little, Chen et al. (2018, table 2) report 0.164, 0.150 and 0.135."""

FINAL_SEEDS, DEVELOPMENT_SEEDS = (1000, 2000), (10, 20)  # for training and new series
NOISE, N_ASKED = 0.3, 200
QUANTILE = 1.6448536  # of the normal distribution at 95 %
HIDDEN, BATCH, RATE = 64, 100, 1e-2
MOST = 30  # observations of a series in an update of theirs
UNITS = 30  # the window's length in the recurrent networks' unit of time, a gap of theirs


@dataclass(frozen=True)
class Spirals:
    """Some series with their truth; ``time`` and ``y`` hold a series per row."""

    X: pd.DataFrame
    targets: pd.DataFrame
    truth: SpiralTruth

    @classmethod
    def draw(cls, n_series: int, n_observations: int, seed: int) -> Spirals:
        """Noisy spirals at irregular times."""
        return cls(*make_spirals(n_series, n_observations, noise=NOISE, random_state=seed, return_truth=True))

    @property
    def n_series(self) -> int:
        return len(self.truth.start)

    @property
    def time(self) -> np.ndarray:
        return self.X["time"].to_numpy().reshape(self.n_series, -1)

    @property
    def y(self) -> np.ndarray:
        return self.targets.to_numpy().reshape(self.n_series, -1, 2)

    @property
    def asked(self) -> np.ndarray:
        """The times at which paths are told."""
        return np.linspace(0, 2 * self.truth.window, N_ASKED)

    def paths(self, truth: SpiralTruth) -> np.ndarray:
        """Positions at the asked times, of shape (n_series, N_ASKED, 2)."""
        series = np.repeat(truth.start.index, N_ASKED)
        return truth.path(series, np.tile(self.asked, self.n_series)).reshape(self.n_series, N_ASKED, 2)


@dataclass(frozen=True)
class Told:
    """What a model tells of the new series, and what it took to learn."""

    mean: np.ndarray
    std: np.ndarray
    seconds: float | None = None
    updates: int | None = None


class Recurrent(nn.Module):
    """What both recurrent networks share: the likelihood, and a read-out that is a mean and a logarithm of a spread."""

    def negative_log_likelihood(self, read_out: Tensor, y: Tensor) -> Tensor:
        """The mean over all values, less a constant."""
        mean, log_std = read_out.chunk(2, dim=-1)
        return (0.5 * ((y - mean) * torch.exp(-log_std)) ** 2 + log_std).mean()

    def bounded(self, mean: Tensor, log_std: Tensor) -> Tensor:
        return torch.cat([mean, log_std.clamp(-5, 3)], dim=-1)


def parted(time: Tensor, y: Tensor, n_chosen: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Times and values of so many observations of each series, chosen at random, and those of the others."""
    shuffled = torch.rand(time.shape).argsort(dim=1)
    places = [part.sort(dim=1).values for part in (shuffled[:, :n_chosen], shuffled[:, n_chosen:])]
    return tuple(part for i in places for part in (time.gather(1, i), y.gather(1, i[..., None].expand(-1, -1, 2))))


class GapRNN(Recurrent):
    """A GRU over observations and gaps that is asked for the value a gap after its last observation."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, HIDDEN, batch_first=True)
        self.first = nn.Parameter(torch.zeros(1, 1, HIDDEN))
        self.now = nn.Linear(HIDDEN, 2)
        self.later = nn.Sequential(nn.Linear(HIDDEN + 1, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 4))

    def read(self, gap: Tensor, y: Tensor, state: Tensor) -> Tensor:
        """States after each observation."""
        return self.gru(torch.cat([gap[..., None], y], dim=-1), state.transpose(0, 1).contiguous())[0]

    def ask(self, state: Tensor, gap: Tensor) -> Tensor:
        """What is read out some gaps after the states."""
        slope, log_std = self.later(torch.cat([state, gap[..., None]], dim=-1)).chunk(2, dim=-1)
        return self.bounded(self.now(state) + gap[..., None] * slope, log_std)

    def loss(self, time: Tensor, y: Tensor, rng: np.random.Generator) -> Tensor:
        """Of every observation, from those before it or, in half of the calls, late ones from the means before them."""
        time, y, *_ = parted(time, y, min(MOST, time.shape[1]))
        n_times = time.shape[1]
        n_read = n_times if rng.random() < 0.5 else int(n_times * rng.uniform(0.2, 0.8))
        gap = torch.diff(time, prepend=torch.zeros_like(time[:, :1]))
        first = self.first.expand(len(time), -1, -1)
        states = torch.cat([first, self.read(gap[:, :n_read], y[:, :n_read], first)], dim=1)
        read_outs, state = [self.ask(states[:, :-1], gap[:, :n_read])], states[:, -1:]
        for i in range(n_read, n_times):
            own_gap = gap[:, i : i + 1]
            read_outs.append(self.ask(state, own_gap))
            state = self.read(own_gap, read_outs[-1][..., :2], state)
        return self.negative_log_likelihood(torch.cat(read_outs, dim=1), y)

    def tell(self, time: Tensor, y: Tensor, asked: Tensor) -> Tensor:
        """What is read out at times asked for, beyond the window from the network's own means."""
        states = [self.first.expand(len(time), -1, -1)]
        times = torch.cat([torch.zeros_like(time[:, :1]), time], dim=1)
        states.append(self.read(torch.diff(times), y, states[0]))
        for step in range(UNITS):
            gap = UNITS + 0.5 + step - times[:, -1:]
            mean = self.ask(states[-1][:, -1:], gap)[..., :2]
            states.append(self.read(gap, mean, states[-1][:, -1:]))
            times = torch.cat([times, times[:, -1:] + gap], dim=1)
        before = torch.searchsorted(times, asked, right=True) - 1
        state = torch.cat(states, dim=1).gather(1, before[..., None].expand(-1, -1, HIDDEN))
        return self.ask(state, asked - times.gather(1, before))


class BidirectionalRNN(Recurrent):
    """GRUs from both ends that are asked for the value between two observations, by the gaps to them."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, HIDDEN, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(2 * HIDDEN + 2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 4))

    def loss(self, time: Tensor, y: Tensor, rng: np.random.Generator) -> Tensor:
        """Of hidden observations, from those that are not."""
        n_seen = int(min(MOST, time.shape[1]) * rng.uniform(0.5, 0.95))
        time, y, hidden_time, hidden_y = parted(time, y, n_seen)
        return self.negative_log_likelihood(self.tell(time, y, hidden_time), hidden_y)

    def tell(self, time: Tensor, y: Tensor, asked: Tensor) -> Tensor:
        """What is read out at times asked for."""
        nothing = torch.zeros_like(time[:, :1])
        starts, ends = torch.cat([nothing, time], dim=1), torch.cat([time, time[:, -1:]], dim=1)
        gaps = ends - starts
        forth, back = self.gru(torch.cat([gaps[:, :-1, None], gaps[:, 1:, None], y], dim=-1))[0].chunk(2, dim=-1)
        unread = torch.zeros_like(forth[:, :1])
        states = torch.cat([torch.cat([unread, forth], dim=1), torch.cat([back, unread], dim=1)], dim=-1)
        between = torch.searchsorted(time, asked, right=True)
        state = states.gather(1, between[..., None].expand(-1, -1, 2 * HIDDEN))
        sides = torch.stack([asked - starts.gather(1, between), ends.gather(1, between) - asked], dim=-1)
        return self.bounded(*self.head(torch.cat([state, sides], dim=-1)).chunk(2, dim=-1))


def by_recurrence(kind: type[GapRNN | BidirectionalRNN], training: Spirals, new: Spirals, seconds: float) -> Told:
    """What a recurrent network tells after so many seconds of training."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    centre, spread = training.y.mean((0, 1)), training.y.std((0, 1))

    def tensors(spirals: Spirals) -> tuple[Tensor, Tensor]:
        time, y = spirals.time * UNITS / spirals.truth.window, (spirals.y - centre) / spread
        return torch.tensor(time, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)

    time, y = tensors(training)
    model = kind()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    updates, started, gone = 0, perf_counter(), 0.0
    while gone < 1:
        optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * gone))
        rows = torch.randperm(len(time))[:BATCH]
        optimizer.zero_grad()
        model.loss(time[rows], y[rows], rng).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        updates += 1
        gone = (perf_counter() - started) / seconds
    asked = torch.tensor(new.asked * UNITS / new.truth.window, dtype=torch.float32).repeat(new.n_series, 1)
    with torch.no_grad():
        mean, log_std = (part.double().numpy() for part in model.tell(*tensors(new), asked).chunk(2, dim=-1))
    return Told(mean * spread + centre, np.exp(log_std) * spread, seconds * gone, updates)


def by_latent_ode(training: Spirals, new: Spirals, **settings: int) -> Told:
    """What LatentODERegressor tells."""
    model = LatentODERegressor(series="series", time="time", random_state=0, **settings)
    started = perf_counter()
    with counted_updates() as updates:
        model.fit(training.X, training.targets)
    seconds = perf_counter() - started
    asked = pd.DataFrame(
        {"series": np.repeat(new.truth.start.index, N_ASKED), "time": np.tile(new.asked, new.n_series)}
    )
    told = model.condition(unknown(new.X), new.targets).predict(unknown(asked), return_std=True)
    mean, std = (part.reshape(new.n_series, N_ASKED, 2) for part in told)
    return Told(mean, std, seconds, len(updates))


def unknown(X: pd.DataFrame) -> pd.DataFrame:
    """Rows under ids that no training series has."""
    return X.assign(series=-1 - X["series"])


@contextmanager
def counted_updates() -> Iterator[list[None]]:
    """A list that gains an element with every update of an estimator's weights."""
    steps: list[None] = []

    def step(optimiser: SOAP, own: Callable[[SOAP], None] = SOAP.step) -> None:
        own(optimiser)
        steps.append(None)

    with mock.patch.object(SOAP, "step", step):
        yield steps


def by_maximum_likelihood(new: Spirals) -> Told:
    """What the formulas tell, with each series' direction and start fitted to its observations."""
    fits = {}
    for direction in ("clockwise", "counterclockwise"):
        guess = replace(new.truth, direction=pd.Series(direction, new.truth.start.index))
        low, high = (np.full(new.n_series, share * new.truth.t_max) for share in (0.1, 0.5))
        for _ in range(4):  # each grid lies around the best of the one before
            starts = np.linspace(low, high, 61)
            errors = np.stack([squared_error(new, replace(guess, start=pd.Series(row))) for row in starts])
            best = np.argmin(errors, axis=0)
            columns = np.arange(new.n_series)
            low, high = (starts[np.clip(best + side, 0, 60), columns] for side in (-1, 1))
        fits[direction] = starts[best, columns], errors[best, columns]
    (clockwise, error), (counter, other_error) = fits.values()
    fitted = replace(
        new.truth,
        direction=pd.Series(np.where(error < other_error, *fits)),
        start=pd.Series(np.where(error < other_error, clockwise, counter)),
    )
    mean = new.paths(fitted)
    return Told(mean, np.full_like(mean, NOISE))


def squared_error(new: Spirals, guess: SpiralTruth) -> np.ndarray:
    """Sum of squares of each series' observations about a guess."""
    residual = new.targets.to_numpy() - guess.path(new.X["series"], new.X["time"])
    return (residual**2).reshape(new.n_series, -1).sum(axis=1)


def scores(told: Told, new: Spirals) -> list[str]:
    """RMSE inside and beyond the window, and coverage inside and beyond it."""
    path = new.paths(new.truth)
    noisy = path + NOISE * np.random.default_rng(0).standard_normal(path.shape)
    error, covered = (told.mean - path) ** 2, np.abs(noisy - told.mean) <= QUANTILE * told.std
    inside = new.asked <= new.truth.window
    parts = (inside, ~inside)
    rmse = [f"{math.sqrt(error[:, part].mean()):.3f}" for part in parts]
    return [*rmse, *(f"{100 * covered[:, part].mean():.1f} %" for part in parts)]


def section(seeds: tuple[int, int], sizes: tuple[int, ...], n_training: int, n_new: int, **settings: int) -> str:
    """The Markdown of the part."""
    rows = []
    for n_observations in sizes:
        training, new = (
            Spirals.draw(n_series, n_observations, seed)
            for n_series, seed in zip((n_training, n_new), seeds, strict=True)
        )
        ours = by_latent_ode(training, new, **settings)
        for name, told in {
            "LatentODERegressor": ours,
            "RNN with gaps": by_recurrence(GapRNN, training, new, ours.seconds),
            "bidirectional RNN": by_recurrence(BidirectionalRNN, training, new, ours.seconds),
            "maximum likelihood": by_maximum_likelihood(new),
        }.items():
            inside, beyond, covered_inside, covered_beyond = scores(told, new)
            if name == "bidirectional RNN":  # it is never asked beyond the window
                beyond = covered_beyond = None
            cost = [None if told.seconds is None else f"{told.seconds:.0f}", told.updates]
            rows.append([n_observations, name, inside, beyond, covered_inside, covered_beyond, *cost])
            print(*rows[-1], sep=" | ", flush=True)
    header = ["observations", "", "RMSE inside", "RMSE beyond", "covered inside", "covered beyond", "fit, s", "updates"]
    return f"{NOTES.format(n_training=n_training, n_new=n_new)}\n\n" + table(header, rows)


def main() -> None:
    """Fit all, print the table, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.series_spirals", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few series and epochs: to see that all works")
    parser.add_argument("--development", action="store_true", help="other seeds than the published ones")
    parser.add_argument("--observations", type=int, nargs="+", default=(30, 50, 100))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help=f"where to write the page; else {PAGE}, if it is to be published")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(options.threads)
    seeds = DEVELOPMENT_SEEDS if options.quick or options.development else FINAL_SEEDS
    if options.quick:
        body = section(seeds, (30,), 100, 50, max_iter=30)
    else:
        body = section(seeds, tuple(options.observations), 600, 200)
    flags = [f" --{name}" for name in ("quick", "development") if getattr(options, name)]
    command = f"python -m tests.benchmarks.series_spirals{''.join(flags)} --threads {options.threads}"
    print(machine(command), body, sep="\n\n")
    if options.out or not (options.quick or options.development):
        write(options.out or PAGE, "Spirals seen at irregular times", body, command)


if __name__ == "__main__":
    main()
