"""Densities by continuous flows
=============================

Beside discrete flows, through time, where they are exact and where they fail.

The experiments of Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations" (NeurIPS 2018),
section 4, and what one asks next, on densities whose exact logarithm is known:

- discrete planar flows (Rezende, Mohamed, "Variational Inference with Normalizing Flows", ICML 2015) of growing depth
  beside continuous ones of growing width, all by maximum likelihood: nats lost, parameters, seconds, evaluations;
- how a density evolves, as a picture and as an animation;
- 25 narrow modes far apart: which are found, and how many samples fall between them. A flow is a homeomorphism, so
  that it can thin the bridges between modes but not cut them;
- a density for each class, and Bayes' rule, as a classifier.

Run ``python examples/densities.py [FOLDER]``: prints four tables and writes them to FOLDER, ``pictures`` by default,
with three pictures and an animation, in about three minutes on two cores.
"""

# %%
# ``.ci/run`` runs this script; the build of this site only shows it. One of its pictures:
#
# .. image:: /images/thumb_densities.png
#    :alt: Two flows that were fitted to 25 narrow modes: by likelihood alone, and after flow matching

# sphinx_gallery_thumbnail_path = "images/thumb_densities.png"

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.animation import PillowWriter
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import softplus

from skode import CNFDensityEstimator
from skode.datasets import make_toy_density, toy_log_density
from skode.inspection import DensityEvolutionDisplay, TrajectoryDisplay

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")

TARGETS = {"two_circles": (-1.4, 1.4, -1.4, 1.4), "two_moons": (-1.5, 2.5, -1.1, 1.6)}
SIZES = (2, 8, 32)
LEARNING_RATE = 3e-2
N_UPDATES = 2000
BATCH_SIZE = 256
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}
FAILURES: list[str] = []


class PlanarFlow(nn.Module):
    """Discrete planar layers ``x -> x + u h(w.x + b)`` with ``h = tanh``, from the data to a normal density.

    Each multiplies volumes by ``1 + h'(w.x + b) u.w``, which stays positive as ``u.w > -1``.
    """

    def __init__(self, n_features: int, depth: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(depth, n_features))
        self.u = nn.Parameter(0.1 * torch.randn(depth, n_features))
        self.b = nn.Parameter(torch.empty(depth).uniform_(-2, 2))
        self.log_scale = nn.Parameter(torch.zeros(n_features))

    def invertible_u(self) -> Tensor:
        """``u``, moved along ``w`` to where ``u.w = softplus(...) - 1`` (Rezende & Mohamed 2015, appendix A.1)."""
        alignment = (self.w * self.u).sum(1)
        missing = softplus(alignment) - 1 - alignment
        return self.u + (missing / self.w.square().sum(1))[:, None] * self.w

    def log_prob(self, x: Tensor) -> Tensor:
        log_det = torch.zeros(len(x))
        for w, u, b in zip(self.w, self.invertible_u(), self.b, strict=True):
            h = torch.tanh(x @ w + b)
            x = x + h[:, None] * u
            log_det = log_det + torch.log1p((1 - h**2) * (u @ w))
        z = x * torch.exp(-self.log_scale)
        base = -0.5 * z.square().sum(1) - self.log_scale.sum() - 0.5 * x.shape[1] * math.log(2 * math.pi)
        return base + log_det


class PlanarDensity:
    """A planar flow of whitened data, with as much of an estimator as is needed here."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def fit(self, X: np.ndarray) -> PlanarDensity:
        torch.manual_seed(0)
        self.whitening_ = PCA(whiten=True).fit(X)
        self.module_ = PlanarFlow(X.shape[1], self.depth)
        inputs = self._whitened(X)
        optimizer = torch.optim.Adam(self.module_.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_UPDATES)
        for _ in range(N_UPDATES):
            batch = inputs[torch.randint(len(inputs), (BATCH_SIZE,))]
            optimizer.zero_grad()
            (-self.module_.log_prob(batch).mean()).backward()
            nn.utils.clip_grad_norm_(self.module_.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        self.nfe_forward_ = [self.depth]
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            log_prob = self.module_.log_prob(self._whitened(X)).double().numpy()
        return log_prob - 0.5 * np.log(self.whitening_.explained_variance_).sum()

    def _whitened(self, X: np.ndarray) -> Tensor:
        return torch.from_numpy(self.whitening_.transform(X)).float()


def contestants() -> dict[str, PlanarDensity | CNFDensityEstimator]:
    own = {"batch_size": BATCH_SIZE, "learning_rate_init": LEARNING_RATE, "kinetic_energy": 0.0, **TOLERANCE}
    planar = {"field": "gated_planar", "max_iter": 60, "stacking": False, "random_state": 0, **own}
    return {
        **{f"planar, depth {depth}": PlanarDensity(depth) for depth in SIZES},
        **{f"continuous, width {width}": CNFDensityEstimator((width,), **planar) for width in SIZES},
        "continuous, perceptron": CNFDensityEstimator(max_iter=30, stacking=False, random_state=0),
    }


def grid(extent: tuple[float, float, float, float], n: int) -> np.ndarray:
    """The centres of n x n cells, row by row from below."""
    left, right, bottom, top = extent
    middles = (np.arange(n) + 0.5) / n
    x, y = np.meshgrid(left + (right - left) * middles, bottom + (top - bottom) * middles)
    return np.column_stack([x.ravel(), y.ravel()])


def show(ax: plt.Axes, values: np.ndarray, extent: tuple[float, float, float, float], **style) -> mpl.image.AxesImage:
    n = math.isqrt(len(values))
    ax.set(xticks=[], yticks=[])
    return ax.imshow(values.reshape(n, n), origin="lower", extent=extent, **style)


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(FOLDER / name, dpi=110, bbox_inches="tight")
    plt.close(figure)


def in_two_processes(function: Callable, *arguments: Iterable) -> list:
    """``map``, two at a time."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        return list(processes.map(function, *arguments))


def fit(model: PlanarDensity | CNFDensityEstimator, X: np.ndarray) -> float:
    """Fit on one core; the seconds that it took. Answers are then exact to more digits than training needs."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    started = time.perf_counter()
    model.fit(X)
    seconds = time.perf_counter() - started
    if isinstance(model, CNFDensityEstimator):
        model.set_params(rtol=1e-4, atol=1e-4)
    return seconds


def excess(target: str, model: PlanarDensity | CNFDensityEstimator) -> float:
    """Nats per sample lost to the exact density, on points that no model was fitted to."""
    X = make_toy_density(target, 5000, random_state=1)
    return float(np.mean(toy_log_density(target, X) - model.score_samples(X)))


def train(target: str, name: str) -> tuple[dict, np.ndarray]:
    """Fit one of the flows; its row in the table, and its density on a grid."""
    model = contestants()[name]
    seconds = fit(model, make_toy_density(target, 3000, random_state=0))
    row = {
        "target": target,
        "flow": name,
        "seconds": seconds,
        "excess, nats": excess(target, model),
        "parameters": sum(p.numel() for p in model.module_.parameters()),
        "NFE": model.nfe_forward_[-1],
    }
    return row, np.exp(model.score_samples(grid(TARGETS[target], 120)))


def planar_and_continuous() -> str:
    """Depth of discrete planar flows beside width of continuous ones."""
    tasks = [(target, name) for target in TARGETS for name in contestants()]
    fits = in_two_processes(train, *zip(*tasks, strict=True))
    names = ["target", *contestants()]
    figure, axes = plt.subplots(len(TARGETS), len(names), figsize=(2 * len(names), 4.4), squeeze=False)
    for row, (target, extent) in zip(axes, TARGETS.items(), strict=True):
        exact = np.exp(toy_log_density(target, grid(extent, 120)))
        densities = [exact, *(density for of, density in fits if of["target"] == target)]
        for ax, density in zip(row, densities, strict=True):
            show(ax, density, extent, vmin=0.0, vmax=exact.max(), aspect="auto")
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name, fontsize="small")
    figure.tight_layout()
    save(figure, "densities_planar.png")
    table = pd.DataFrame([row for row, _ in fits])
    require(table["excess, nats"].between(-0.05, 2.0).all(), "a flow lost to the exact density, or won, by too much")
    return "Planar flows, by depth or width:\n" + table.to_string(index=False, float_format="{:.2f}".format)


def evolution(target: str = "two_circles") -> str:
    """The density, and the paths of samples, from the base at t = 0 to the data at t = 1."""
    X = make_toy_density(target, 3000, random_state=0)
    model = CNFDensityEstimator(max_iter=30, stacking=False, random_state=0).fit(X)
    times, quarters = np.linspace(0, 1, 21), slice(None, None, 5)
    figure, axes = plt.subplots(2, 5, figsize=(12, 5.2), sharex=True, sharey=True, layout="constrained")
    own = {"n_samples": 600, "random_state": 0, "grid_resolution": 120, "eps": 1.0}
    dots = {"s": 2, "facecolor": "white", "linewidth": 0}
    display = DensityEvolutionDisplay.from_estimator(model, X, times=times, axes=axes[0], scatter_kw=dots, **own)
    for ax, k in zip(axes[1], range(21)[quarters], strict=True):
        so_far = {"states": display.paths[:40, : k + 1], "times": times[: k + 1]}
        TrajectoryDisplay(**so_far, state_names=("x0", "x1")).plot(ax, marker_kw={"s": 6})
    save(figure, "densities_evolution.png")

    figure, ax = plt.subplots(figsize=(3.2, 3.2), layout="constrained")
    display.animate(ax, scatter_kw=dots).save(FOLDER / "densities_evolution.gif", PillowWriter(10), dpi=80)
    plt.close(figure)

    cell = np.diff(display.xx0[0])[0] * np.diff(display.xx1[:, 0])[0]
    table = pd.DataFrame({"t": times, "mass": np.exp(display.log_density).sum((1, 2)) * cell})
    # The samples are the flow's own, so that minus their mean log-density at a time is the entropy at that time.
    table["entropy, nats"] = [-np.mean(model.log_prob(display.paths[:, k], t)) for k, t in enumerate(times)]
    require(table["mass"].between(0.98, 1.02).all(), "a density on the way does not integrate to 1")
    title = f"The density of {target} on its way (exact entropy {exact_entropy(target):.2f}):\n"
    return title + table[quarters].to_string(index=False, float_format="{:.3f}".format)


def exact_entropy(target: str) -> float:
    return -float(toy_log_density(target, make_toy_density(target, 20_000, random_state=2)).mean())


def fit_modes(epochs: tuple[int, int]) -> tuple[CNFDensityEstimator, float]:
    """A flow fitted by so many epochs of flow matching, then of likelihood; and the seconds."""
    matching_iter, max_iter = epochs
    own = {"batch_size": 125, "kinetic_energy": 0.0, "early_stopping": False, "random_state": 0, **TOLERANCE}
    model = CNFDensityEstimator((64, 64), matching_iter=matching_iter, max_iter=max_iter, **own)
    return model, fit(model, make_toy_density("twenty_five_gaussians", 5000, random_state=0))


def twenty_five_modes() -> str:
    """Shares of samples near each of 25 modes, and between them."""
    target, extent, sd = "twenty_five_gaussians", (-5.0, 5.0, -5.0, 5.0), 0.1
    # In so few updates, likelihood alone finds some of the modes; matching is cheap and begins with all of them.
    epochs = {"likelihood alone": (0, 35), "after flow matching": (250, 25)}
    fits = dict(zip(epochs, in_two_processes(fit_modes, epochs.values()), strict=True))
    points = grid(extent, 150)
    draws = {"exact density": make_toy_density(target, 10_000, random_state=3)}
    log_densities = {"exact density": toy_log_density(target, points)}
    losses, seconds = {"exact density": 0.0}, {"exact density": 0.0}
    for name, (model, seconds[name]) in fits.items():
        losses[name] = excess(target, model)
        draws[name] = model.sample(10_000, random_state=3)
        log_densities[name] = model.score_samples(points)

    centres = grid(extent, 5)
    rows = []
    for name, samples in draws.items():
        distances = np.linalg.norm(samples[:, None] - centres, axis=2)
        near = distances.min(axis=1) < 3 * sd
        shares = np.bincount(distances.argmin(axis=1)[near], minlength=len(centres)) / len(samples)
        rows.append(
            {
                "density": name,
                "excess, nats": losses[name],
                "modes found": int((shares > 0.02).sum()),
                "least share, %": 100 * shares.min(),
                "largest share, %": 100 * shares.max(),
                "beyond 3 sd, %": 100 * (1 - near.mean()),
                "seconds": seconds[name],
            }
        )
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2))
    for ax, (name, log_density) in zip(axes, log_densities.items(), strict=True):
        image = show(ax, log_density, extent, vmin=-12.0, vmax=log_densities["exact density"].max())
        ax.set_title(name)
    figure.colorbar(image, ax=axes, label="log density, nats", extend="min")
    save(figure, "densities_modes.png")
    table = pd.DataFrame(rows).set_index("density")
    found = table.loc["after flow matching"]
    require(table["excess, nats"].between(-0.05, 2.0).all(), "the flows of 25 modes lost, or won, by too much")
    require(found["modes found"] == 25 and found["largest share, %"] < 6, "not every mode has its share")
    return "25 modes, of 4% each:\n" + table.to_string(float_format="{:.2f}".format)


class BayesClassifier(ClassifierMixin, BaseEstimator):
    """Bayes' rule: a density for each class, by the frequency of the class."""

    def __init__(self, density: BaseEstimator) -> None:
        self.density = density

    def fit(self, X: np.ndarray, y: np.ndarray) -> BayesClassifier:
        self.classes_, counts = np.unique(y, return_counts=True)
        self.log_priors_ = np.log(counts / counts.sum())
        self.densities_ = [clone(self.density).fit(X[y == label]) for label in self.classes_]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        log_likelihoods = np.column_stack([density.score_samples(X) for density in self.densities_])
        return softmax(log_likelihoods + self.log_priors_, axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def bayes_classifier() -> str:
    """A flow for each class of the breast cancer data, beside classifiers of normal classes."""
    X, y = load_breast_cancer(return_X_y=True)
    classifiers = {
        "naive Bayes, normal": GaussianNB(),
        "quadratic discriminant, normal": QuadraticDiscriminantAnalysis(),
        "a flow for each class": BayesClassifier(CNFDensityEstimator((32,), max_iter=30, random_state=0)),
    }
    rows = []
    for name, classifier in classifiers.items():
        pipeline = make_pipeline(StandardScaler(), PCA(4, random_state=0), classifier)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        scores = cross_validate(pipeline, X, y, cv=folds, scoring=("accuracy", "neg_log_loss"))
        rows.append(
            {
                "classifier": name,
                "accuracy": scores["test_accuracy"].mean(),
                "sd over folds": scores["test_accuracy"].std(),
                "log loss": -scores["test_neg_log_loss"].mean(),
                "seconds per fit": scores["fit_time"].mean(),
            }
        )
    table = pd.DataFrame(rows)
    require((table["accuracy"] > 0.85).all(), "a classifier is hardly better than the larger class")
    return "Breast cancer, four principal components:\n" + table.to_string(index=False, float_format="{:.3f}".format)


def require(holds: bool, otherwise: str) -> None:
    """Note what is plainly broken in a table, to end with an error; all that is compared with NaN is."""
    if not holds:
        FAILURES.append(otherwise)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    tables = []
    for part in (planar_and_continuous, evolution, twenty_five_modes, bayes_classifier):
        started = time.perf_counter()
        tables.append(part())
        print(tables[-1], end="\n\n", flush=True)
        print(f"{part.__name__}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    (FOLDER / "densities.txt").write_text("\n\n".join(tables) + "\n")
    print(f"This, three pictures and an animation, densities_*, are in {FOLDER}/.")
    if FAILURES:
        sys.exit("; ".join(FAILURES))


if __name__ == "__main__":
    main()
