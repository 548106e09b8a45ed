"""What a neural ODE cannot represent
==================================

An augmented one can: a sphere inside another.

Dupont, Doucet, Teh, "Augmented Neural ODEs" (NeurIPS 2019): solutions of an ODE in d dimensions do not cross, so that
no flow of the plane (or of space) takes the points inside a sphere out through those around it, to where an affine map
tells both apart. With one more dimension it is easy. A plain ODE can only come close, by dynamics that become harder
and harder to solve.

Run ``python examples/augmented.py [FOLDER]``: prints a table and writes two pictures to FOLDER, ``pictures`` by
default, in less than two minutes.
"""

# %%
# ``.ci/run`` runs this script; the build of this site only shows it. One of its pictures:
#
# .. image:: /images/thumb_augmented.png
#    :alt: Paths of points of two classes, which an appended dimension takes apart

# sphinx_gallery_thumbnail_path = "images/thumb_augmented.png"

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from skode import ODENetClassifier
from skode.inspection import TrajectoryDisplay

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
AUGMENT_DIMS = (0, 1, 5)


def two_spheres(n: int, n_dimensions: int, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Points within 0.5 of the origin (class 0, a third of them), and between 1 and 1.5 from it (class 1)."""
    directions = rng.normal(size=(n, n_dimensions))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    outside = np.arange(n) >= n // 3
    low, high = np.where(outside, 1.0, 0.0), np.where(outside, 1.5, 0.5)
    # Uniform in the ball or the shell: the radius to the power of the dimension is uniform.
    radii = rng.uniform(low**n_dimensions, high**n_dimensions) ** (1 / n_dimensions)
    return radii[:, None] * directions, outside.astype(int)


def fit(X: np.ndarray, y: np.ndarray, augment_dim: int, seed: int) -> ODENetClassifier:
    """An ODE of the features themselves, with zeros appended: ``state_size=None`` leaves out the map into a state."""
    model = ODENetClassifier(
        (32, 32),
        state_size=None,
        augment_dim=augment_dim,
        time_dependent=False,
        input_dropout=0.0,
        alpha=0.0,
        batch_size=64,
        learning_rate_init=3e-3,
        max_iter=60,
        n_iter_no_change=None,
        random_state=seed,
    )
    return model.fit(X, y)


def draw_losses(fits: dict[tuple[int, int], list[ODENetClassifier]]) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), sharex=True)
    for (n_dimensions, augment_dim), models in fits.items():
        label = f"augment_dim={augment_dim}" if augment_dim else "plain"
        column = n_dimensions - 1
        for row, name in enumerate(("loss_curve_", "nfe_forward_")):
            mean = np.mean([getattr(model, name) for model in models], axis=0)
            axes[row, column].plot(1 + np.arange(len(mean)), mean, label=label)
        axes[0, column].set(title=f"spheres in {n_dimensions} dimension{'s' * (n_dimensions > 1)}", yscale="log")
    axes[0, 0].set(ylabel="training loss")
    axes[1, 0].set(ylabel="evaluations per solve")
    axes[0, 1].legend()
    figure.supxlabel("epoch")
    figure.tight_layout()
    save(figure, "augmented_training.png")


def draw_flows(fits: dict[tuple[int, int], list[ODENetClassifier]], X: np.ndarray, y: np.ndarray) -> None:
    """Where points of the plane go: the first state across; upwards the second, or the one appended."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 5))
    for ax, augment_dim in zip(axes, (0, 1), strict=True):
        model = fits[2, augment_dim][0]
        TrajectoryDisplay.from_estimator(model, X[:300], c=y[:300], components=(0, -1), ax=ax, linewidth=0.4)
        ax.set(title=f"augment_dim={augment_dim}" if augment_dim else "plain")
    figure.tight_layout()
    save(figure, "augmented_flow.png")


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(FOLDER / name, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows, fits, planar = [], {}, None
    for n_dimensions in (1, 2):
        X, y = two_spheres(1500, n_dimensions, np.random.RandomState(0))
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=1 / 3, random_state=0, stratify=y)
        planar = X_test, y_test
        for augment_dim in AUGMENT_DIMS:
            started = time.perf_counter()
            models = [fit(X_train, y_train, augment_dim, seed) for seed in range(3)]
            fits[n_dimensions, augment_dim] = models
            rows.append(
                {
                    "dimensions": n_dimensions,
                    "zeros appended": augment_dim,
                    "training loss": np.mean([model.loss_ for model in models]),
                    "test error, %": 100 * (1 - np.mean([model.score(X_test, y_test) for model in models])),
                    "NFE, first epoch": np.mean([model.nfe_forward_[0] for model in models]),
                    "NFE, last epoch": np.mean([model.nfe_forward_[-1] for model in models]),
                    "seconds per fit": (time.perf_counter() - started) / 3,
                }
            )
    draw_losses(fits)
    draw_flows(fits, *planar)
    text = pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format)
    (FOLDER / "augmented.txt").write_text(text + "\n")
    print(text)
    print(f"\nMeans over three fits. The pictures augmented_training.png and augmented_flow.png are in {FOLDER}/.")


if __name__ == "__main__":
    main()
