"""Irregular series by latent ODEs
===============================

Spirals beside a recurrent network, what the latent states hold, times as data.

The sources' experiments (Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018,
section 5; Rubanova, Chen, Duvenaud, "Latent ODEs for irregularly-sampled time series", NeurIPS 2019), on series whose
noise-free paths are known:

- noisy pieces of spirals, each seen at times of its own, beside an RNN that reads the gaps between them and trains as
  long on the same core: errors inside the window that was observed and in a continuation as long as it;
- interpolation and extrapolation of four new series, with the region that holds nine of ten draws;
- the latent states of new series: no one told the model that there are two kinds of spirals;
- series that are measured more often where they are high: the times as a Poisson process with an intensity of its own;
- an ODE-RNN beside a GRU as the encoder of short series.

Run ``python examples/series.py [FOLDER] [--full]``: prints four tables and writes them to FOLDER, ``pictures`` by
default, with three pictures, in about a minute and a half on one core. It then learns from 200 spirals of 30
observations, for 100 epochs; with ``--full`` from 600 spirals of 30, 50 and 100, by the model's defaults, for minutes.
"""

# %%
# ``.ci/run`` runs this script; the build of this site only shows it. One of its pictures:
#
# .. image:: /images/thumb_series.png
#    :alt: A noisy piece of a spiral, its continuation by a latent ODE, and the region of nine of ten draws

# sphinx_gallery_thumbnail_path = "images/thumb_series.png"

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter as now
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Ellipse
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import Tensor, nn

from skode import LatentODERegressor
from skode.datasets import make_spirals

if TYPE_CHECKING:
    from skode.datasets._spirals import SpiralTruth

Fit = tuple[LatentODERegressor, "Spirals"]

NOISE, N_ASKED = 0.3, 100
WINDOW = 30  # in the unit of time of the recurrent network
SEEN, AHEAD = "tab:blue", "tab:orange"
COLOURS = {"clockwise": "tab:green", "counterclockwise": "tab:purple"}
FAILURES: list[str] = []


@dataclass(frozen=True)
class Spirals:
    """Noisy series, and what is true of them."""

    X: pd.DataFrame
    y: pd.DataFrame
    truth: SpiralTruth

    @classmethod
    def draw(cls, n_series: int, n_observations: int, seed: int) -> Spirals:
        return cls(*make_spirals(n_series, n_observations, noise=NOISE, random_state=seed, return_truth=True))

    @property
    def ids(self) -> pd.Index:
        return self.truth.start.index

    @property
    def times(self) -> np.ndarray:
        """Times to ask for: half of them in the window, half in a continuation as long as it."""
        return np.linspace(0, 2 * self.truth.window, N_ASKED)

    @property
    def asked(self) -> pd.DataFrame:
        return grid(self.ids, self.times)

    def paths(self) -> np.ndarray:
        """The noise-free positions there, of shape (n_series, N_ASKED, 2)."""
        return by_series(self.truth.path(self.asked["series"], self.asked["time"]))

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """Times and observations, a series in each row."""
        time = self.X["time"].to_numpy().reshape(len(self.ids), -1) * WINDOW / self.truth.window
        return time, self.y.to_numpy().reshape(*time.shape, 2)


def grid(series: pd.Index, times: np.ndarray) -> pd.DataFrame:
    """The same times of each series."""
    return pd.DataFrame({"series": np.repeat(series, len(times)), "time": np.tile(times, len(series))})


def by_series(values: np.ndarray) -> np.ndarray:
    """Values at the asked times of some series, with an axis of series before that of times."""
    return values.reshape(-1, N_ASKED, *values.shape[1:])


def renamed(X: pd.DataFrame) -> pd.DataFrame:
    """Rows under ids that no training series has: new series."""
    return X.assign(series=-1 - X["series"])


class GapRNN(nn.Module):
    """A GRU that reads each observation with the gap before it, and tells the value a gap after the last it read."""

    hidden_size, rate, batch_size, n_read_at_most = 64, 1e-2, 100, 30

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, self.hidden_size, batch_first=True)
        self.first = nn.Parameter(torch.zeros(1, 1, self.hidden_size))
        self.now = nn.Linear(self.hidden_size, 2)
        self.slope = nn.Sequential(nn.Linear(self.hidden_size + 1, 64), nn.Tanh(), nn.Linear(64, 2))

    def later(self, state: Tensor, gap: Tensor) -> Tensor:
        """Values some gaps after the states."""
        gap = gap[..., None]
        return self.now(state) + gap * self.slope(torch.cat([state, gap], dim=-1))

    def states(self, gap: Tensor, y: Tensor, n_read: int) -> Tensor:
        """States before the first row and after each; past ``n_read`` rows, it reads its own answers."""
        first = self.first.expand(len(y), -1, -1)
        read, state = self.gru(
            torch.cat([gap[:, :n_read, None], y[:, :n_read]], dim=-1), first.transpose(0, 1).contiguous()
        )
        states = [first, read]
        for i in range(n_read, gap.shape[1]):
            own_gap = gap[:, i : i + 1]
            answer = self.later(states[-1][:, -1:], own_gap)
            read, state = self.gru(torch.cat([own_gap[..., None], answer], dim=-1), state)
            states.append(read)
        return torch.cat(states, dim=1)

    def loss(self, time: Tensor, y: Tensor, free: bool) -> Tensor:
        """Squared error of each value told from those before it; if ``free``, of late ones from a beginning alone."""
        some = torch.randperm(time.shape[1])[: self.n_read_at_most].sort().values
        time, y = time[:, some], y[:, some]
        n_read = math.ceil(len(some) * np.random.uniform(0.2, 0.8)) if free else len(some)
        gap = torch.diff(time, prepend=torch.zeros_like(time[:, :1]))
        return (self.later(self.states(gap, y, n_read)[:, :-1], gap) - y).square().mean()

    def fit(self, time: Tensor, y: Tensor, seconds: float) -> GapRNN:
        """Adam for so long, its rate falling to 0 along half a cosine; every other update is a free one."""
        optimizer = torch.optim.Adam(self.parameters())
        started, gone, free = now(), 0.0, False
        while gone < 1:
            optimizer.param_groups[0]["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * gone))
            batch = torch.randperm(len(time))[: self.batch_size]
            optimizer.zero_grad()
            self.loss(time[batch], y[batch], free).backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
            gone, free = (now() - started) / seconds, not free
        return self

    @torch.no_grad()
    def predict(self, time: Tensor, y: Tensor, asked: Tensor) -> Tensor:
        """Values at asked times, from the last state before each; after the window, it goes on by small steps."""
        steps = WINDOW + 0.5 + torch.arange(WINDOW)
        time = torch.cat([torch.zeros(len(y), 1), time, steps.expand(len(y), -1)], dim=1)
        states = self.states(torch.diff(time), y, n_read=y.shape[1])
        before = torch.searchsorted(time, asked, right=True) - 1
        state = states.gather(1, before[..., None].expand(-1, -1, self.hidden_size))
        return self.later(state, asked - time.gather(1, before))


def by_rnn(training: Spirals, new: Spirals, seconds: float) -> np.ndarray:
    """Paths of new series by a recurrent network that trained for so many seconds."""
    torch.manual_seed(0)
    np.random.seed(0)
    centre, spread = training.y.to_numpy().mean(0), training.y.to_numpy().std(0)

    def tensors(spirals: Spirals) -> tuple[Tensor, Tensor]:
        times, y = spirals.matrices()
        return torch.from_numpy(times).float(), torch.from_numpy((y - centre) / spread).float()

    model = GapRNN().fit(*tensors(training), seconds)
    asked = torch.from_numpy(new.times * WINDOW / new.truth.window).float().repeat(len(new.ids), 1)
    return model.predict(*tensors(new), asked).double().numpy() * spread + centre


def fit(training: Spirals, **settings) -> tuple[LatentODERegressor, float]:
    """A model, and the seconds that its fit took."""
    model = LatentODERegressor(series="series", time="time", random_state=0, **settings)
    started = now()
    model.fit(training.X, training.y)
    return model, now() - started


def errors(told: np.ndarray, new: Spirals) -> dict[str, float]:
    """Root mean squared distances per coordinate from the noise-free paths, inside from the first observation on."""
    squared, beyond = (told - new.paths()) ** 2, new.times > new.truth.window
    inside = (new.times >= new.X.groupby("series")["time"].min().to_numpy()[:, None]) & ~beyond
    return {"RMSE inside": math.sqrt(squared[inside].mean()), "RMSE beyond": math.sqrt(squared[:, beyond].mean())}


def spirals(fits: list[Fit]) -> str:
    """The table of errors. A model of each number of observations, and the new series that it has read, go to fits."""
    full = options().full
    n_training, sizes, settings = (600, (30, 50, 100), {}) if full else (200, (30,), {"max_iter": 100})
    rows = []
    for n_observations in sizes:
        training, new = Spirals.draw(n_training, n_observations, 0), Spirals.draw(100, n_observations, 1)
        model, seconds = fit(training, **settings)
        model = model.condition(renamed(new.X), new.y)
        fits.append((model, new))
        for name, told in {
            "latent ODE": by_series(model.predict(renamed(new.asked))),
            "RNN with gaps": by_rnn(training, new, seconds),
        }.items():
            rows.append({"observations": n_observations, "model": name, **errors(told, new), "seconds": seconds})
    table = pd.DataFrame(rows)
    ours = table[table["model"] == "latent ODE"]
    require((ours["RMSE inside"] < 0.2).all(), "the latent ODE is hardly better than the noise inside the window")
    require((ours["RMSE beyond"] < 0.8).all(), "the latent ODE has lost the spirals beyond the window")
    size = "" if full else f" (reduced to max_iter={settings['max_iter']}; --full: 600, and the model's defaults)"
    title = f"Spirals with noise {NOISE}, {n_training} to learn from{size}, 100 new ones:\n"
    note = (
        "\nInside counts from a series' first observation on. There the RNN tells values from those before them alone."
    )
    return title + as_text(table, "{:.3f}") + note


def draw_spirals(model: LatentODERegressor, new: Spirals) -> str:
    """Four new series with what is told of them, and how much of what is yet unseen the regions hold."""
    draws = by_series(model.sample_y(renamed(new.asked), n_samples=200))
    mean = by_series(model.predict(renamed(new.asked)))
    inside = new.times <= new.truth.window
    figure, axes = plt.subplots(1, 4, figsize=(15, 4))
    chosen = [series for of in COLOURS for series in new.ids[new.truth.direction == of][:2]]
    for ax, series in zip(axes, chosen, strict=True):
        draw_regions(ax, draws[series], inside)
        ax.plot(*new.paths()[series].T, color="black", linewidth=1, label="truth")
        ax.plot(*mean[series, inside].T, color=SEEN, linewidth=2, label="mean, inside")
        ax.plot(*mean[series, ~inside].T, color=AHEAD, linewidth=2, linestyle="--", label="mean, beyond")
        ax.plot(*new.y[new.X["series"] == series].to_numpy().T, "k.", markersize=4, label="observations")
        ax.set_title(f"new series {series}, {new.truth.direction[series]}", fontsize="medium")
        ax.set_aspect("equal", adjustable="datalim")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    save(figure, "series_spirals.png")

    observed = new.paths() + NOISE * np.random.default_rng(0).standard_normal(mean.shape)
    low, high = np.quantile(draws, [0.05, 0.95], axis=-1)
    covered = ((low <= observed) & (observed <= high)).mean(axis=(0, 2))
    require(0.7 < covered.mean() < 0.99, "nine of ten draws are far from nine of ten observations")
    shares = f"{100 * covered[inside].mean():.0f} % inside the window, {100 * covered[~inside].mean():.0f} % beyond it"
    return f"Between the 5 % and 95 % quantiles of draws lie, of new observations, {shares}."


def draw_regions(ax: plt.Axes, draws: np.ndarray, inside: np.ndarray) -> None:
    """At each time an ellipse about nine of ten draws, of shape (n_times, 2, n_draws)."""
    for part, colour, label in ((~inside, AHEAD, "90 % of draws, beyond"), (inside, SEEN, "90 % of draws, inside")):
        for at_time in draws[part]:
            centre, (variances, axes) = at_time.mean(axis=1), np.linalg.eigh(np.cov(at_time))
            distances = np.linalg.norm(axes.T @ (at_time - centre[:, None]) / np.sqrt(variances)[:, None], axis=0)
            width, height = 2 * np.quantile(distances, 0.9) * np.sqrt(variances)
            angle = np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))
            pale = 0.25 * np.array(mpl.colors.to_rgb(colour)) + 0.75
            ax.add_patch(Ellipse(centre, width, height, angle=angle, color=pale, linewidth=0, label=label))
            label = None


def draw_latent(model: LatentODERegressor, new: Spirals) -> str:
    """Latent initial states of new series, and some of the ways from there."""
    states = model.latent_states().loc[-1 - new.ids].to_numpy()
    direction, colours = new.truth.direction, new.truth.direction.map(COLOURS)
    components = PCA(2).fit_transform(states)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5))
    for of, colour in COLOURS.items():
        left.scatter(*components[direction == of].T, s=15, color=colour, label=of)
    left.legend()
    left.set_title("latent states at the start, by direction")
    image = middle.scatter(*components.T, s=15, c=new.truth.start)
    figure.colorbar(image, ax=middle)
    middle.set_title("by position on the spiral")

    trajectories = by_series(model.latent_trajectory(renamed(new.asked)))
    projected = PCA(2).fit(trajectories.reshape(-1, states.shape[1]))
    inside = new.times <= new.truth.window
    for series in new.ids[:24]:
        x, y = projected.transform(trajectories[series]).T
        right.plot(x[inside], y[inside], color=colours[series])
        right.plot(x[~inside], y[~inside], color=colours[series], linestyle=":")
        right.plot(x[0], y[0], ".", color=colours[series])
    right.set_title("latent trajectories; dotted: beyond the window")
    for ax in (left, middle, right):
        ax.set(xlabel="first component", ylabel="second component")
    figure.tight_layout()
    save(figure, "series_latent.png")

    accuracy = cross_val_score(LogisticRegression(), states, direction, cv=5).mean()
    require(accuracy > 0.9, "the latent states do not tell the directions apart")
    return f"A linear classifier tells the direction of {100 * accuracy:.0f} % of new series from their latent states."


@dataclass(frozen=True)
class Oscillations:
    """Damped oscillations that are measured at a rate ``exp(base + slope * signal)``."""

    base, slope, noise, end = 1.5, 1.2, 0.1, 6.0

    #: A row per series: amplitude, decay, frequency, phase.
    waves: np.ndarray

    @classmethod
    def draw(cls, n_series: int, rng: np.random.Generator) -> Oscillations:
        low, high = [0.8, 0.02, 1.2, 0.0], [1.5, 0.15, 1.4, 2 * np.pi]
        return cls(rng.uniform(low, high, (n_series, 4)))

    @property
    def asked(self) -> pd.DataFrame:
        return grid(pd.RangeIndex(len(self.waves)), np.linspace(0, self.end, N_ASKED))

    def signal(self, X: pd.DataFrame) -> np.ndarray:
        amplitude, decay, frequency, phase = self.waves[X["series"]].T
        time = X["time"].to_numpy()
        return amplitude * np.exp(-decay * time) * np.cos(frequency * time + phase)

    def intensity(self, X: pd.DataFrame) -> np.ndarray:
        return np.exp(self.base + self.slope * self.signal(X))

    def measure(self, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
        """By thinning (Lewis, Shedler, 1979): of candidates at the largest rate, each stays by its own share of it."""
        largest = np.exp(self.base + self.slope * self.waves[:, 0].max())
        series = np.repeat(np.arange(len(self.waves)), rng.poisson(largest * self.end, len(self.waves)))
        candidates = pd.DataFrame({"series": series, "time": rng.uniform(0, self.end, len(series))})
        X = candidates[rng.uniform(0, largest, len(series)) < self.intensity(candidates)]
        X = X.sort_values(["series", "time"], ignore_index=True)
        return X, self.signal(X) + self.noise * rng.standard_normal(len(X))


def kernel_intensity(times: np.ndarray, asked: np.ndarray, end: float, width: float) -> np.ndarray:
    """A normal bump about each event, over what part of a bump there lies between 0 and the end."""
    bumps = norm.pdf(asked[:, None], times, width).sum(axis=1)
    return bumps / (norm.cdf(end, asked, width) - norm.cdf(0, asked, width))


def times_as_data() -> str:
    """Intensities of held-out series, told from their observations and from when these were made."""
    rng = np.random.default_rng(0)
    training, new = Oscillations.draw(120, rng), Oscillations.draw(60, rng)
    model = LatentODERegressor("series", "time", observation_times="poisson", max_iter=150, random_state=0)
    model.fit(*training.measure(rng))
    X, y = new.measure(rng)
    model = model.condition(renamed(X), y)
    asked, exact = new.asked, new.intensity(new.asked)

    events, times = [of["time"].to_numpy() for _, of in X.groupby("series")], asked["time"].to_numpy()[:N_ASKED]
    told = {"latent ODE": model.predict_intensity(renamed(asked))}
    for width in (0.25, 0.5, 1.0):
        by_kernel = [kernel_intensity(own, times, new.end, width) for own in events]
        told[f"kernels of width {width}"] = np.concatenate(by_kernel)
    told["constant, each series its own"] = np.repeat([len(own) / new.end for own in events], N_ASKED)
    rows = [
        {"intensity": name, "RMSE of its logarithm": math.sqrt(np.mean(np.log(rates / exact) ** 2))}
        for name, rates in told.items()
    ]
    draw_intensities(model, new, X, y, told["latent ODE"])
    table = pd.DataFrame(rows)
    score = table["RMSE of its logarithm"]
    require(score[0] < score[1:].min(), "the latent ODE's intensity is worse than kernels'")
    title = f"Times as data, {len(X) / len(events):.0f} observations of a new series, {len(events)} new series:\n"
    return title + as_text(table, "{:.2f}")


def draw_intensities(
    model: LatentODERegressor, new: Oscillations, X: pd.DataFrame, y: np.ndarray, rates: np.ndarray
) -> None:
    asked, shown = new.asked, range(4)
    times = asked["time"].to_numpy()[:N_ASKED]
    mean, std = (by_series(part) for part in model.predict(renamed(asked), return_std=True))
    signal, exact, rates = (by_series(part) for part in (new.signal(asked), new.intensity(asked), rates))
    figure, axes = plt.subplots(2, len(shown), figsize=(15, 5.5), sharex=True, sharey="row")
    for series, (above, below) in zip(shown, axes.T, strict=True):
        own = X["series"] == series
        low, high = (mean[series] + sign * 1.645 * std[series] for sign in (-1, 1))
        above.fill_between(times, low, high, color=SEEN, alpha=0.2, linewidth=0, label="90 % band")
        above.plot(times, signal[series], color="black", linewidth=1, label="truth")
        above.plot(times, mean[series], color=SEEN, label="told")
        above.plot(X.loc[own, "time"], y[own], "k.", markersize=4, label="observations")
        above.set_title(f"new series {series}", fontsize="medium")
        below.plot(times, exact[series], color="black", linewidth=1, label="truth")
        below.plot(times, rates[series], color=AHEAD, label="told")
        below.plot(X.loc[own, "time"], np.zeros(own.sum()), "k|", label="observations")
        below.set_xlabel("time")
    axes[0, 0].set_ylabel("signal")
    axes[1, 0].set_ylabel("observations per unit of time")
    for ax in axes[:, -1]:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    save(figure, "series_times.png")


def encoders() -> str:
    """Encoders of short series."""
    training, new = Spirals.draw(60, 8, 0), Spirals.draw(200, 8, 1)
    rows = []
    for encoder in ("gru", "ode_rnn"):
        model, seconds = fit(training, encoder=encoder, max_iter=80)
        told = by_series(model.condition(renamed(new.X), new.y).predict(renamed(new.asked)))
        rows.append({"encoder": encoder, **errors(told, new), "seconds": seconds})
    table = pd.DataFrame(rows)
    require((table["RMSE inside"] < 1).all(), "an encoder has not learned the spirals")
    title = "Encoders, 60 spirals of 8 observations to learn from, max_iter=80:\n"
    return (
        title
        + as_text(table, "{:.3f}")
        + "\nFrom one seed; with so few series, other seeds differ by as much as encoders do."
    )


def as_text(table: pd.DataFrame, style: str) -> str:
    return table.to_string(index=False, float_format=style.format)


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(options().folder / name, dpi=110, bbox_inches="tight")
    plt.close(figure)


def require(holds: bool, otherwise: str) -> None:
    """Note what is plainly broken in a table, to end with an error; all that is compared with NaN is."""
    if not holds:
        FAILURES.append(otherwise)


@cache
def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("pictures"), help="where pictures go")
    parser.add_argument("--full", action="store_true", help="spirals of 30, 50 and 100 observations, for minutes")
    return parser.parse_args()


def main() -> None:
    options().folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the network and the latent ODE train as long, on as much
    warnings.simplefilter("ignore", ConvergenceWarning)
    texts: list[str] = []

    def note(part: Callable[..., str], *arguments) -> None:
        started = now()
        texts.append(part(*arguments))
        print(texts[-1], end="\n\n", flush=True)
        print(f"{part.__name__}: {now() - started:.0f} s", file=sys.stderr)

    fits: list[Fit] = []
    note(spirals, fits)
    note(draw_spirals, *fits[0])
    note(draw_latent, *fits[0])
    note(times_as_data)
    note(encoders)
    (options().folder / "series.txt").write_text("\n\n".join(texts) + "\n")
    print(f"This and three pictures, series_*, are in {options().folder}/.")
    if FAILURES:
        sys.exit("; ".join(FAILURES))


if __name__ == "__main__":
    main()
