"""ODE-Nets beside residual networks
=================================

Error, parameters, memory, time, and what the solver did.

The experiments of Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations" (NeurIPS 2018),
section 3, on handwritten digits:

- one family of convolutional networks as a ResNet (six residual blocks, each with weights of its own), an RK-Net (ODE
  differentiated through the solver), an ODE-Net by the adjoint ODE and by the discrete adjoint, and with evolving
  weights (ANODEV2): test error, parameters, peak memory, time, forward and backward evaluations;
- numerical error, time and evaluations against tolerance, for a network that was trained once;
- evaluations over training; training tight and predicting loose.

Run ``python examples/odenet.py [FOLDER]``: on the 8 x 8 digits of scikit-learn, in three to four minutes on two cores.
There, batches are so small that memory hardly differs; for memory against steps see ``docs/benchmarks``.
With ``--mnist FILE``, an ``.npz`` with ``x_train, y_train, x_test, y_test``, on MNIST: that takes hours. Tables are
printed and written to FOLDER (``pictures`` by default) with two pictures.
"""

# %%
# ``.ci/run`` runs this script; the build of this site only shows it. One of its pictures:
#
# .. image:: /images/thumb_odenet.png
#    :alt: Training loss of five networks over epochs

# sphinx_gallery_thumbnail_path = "images/thumb_odenet.png"

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import NullFormatter
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from skode import ODENetClassifier
from skode.dynamics import ConvField
from skode.inspection import ToleranceDisplay, TrainingCurveDisplay, tolerance_curve

N_LAYERS = 6
TOLERANCES = np.logspace(-1, -8, 8)


class ResidualBlocks(nn.Module):
    """``dz/dt`` that has other weights in each of some equal stretches of time.

    Euler's method with a step for each stretch is then a residual network: ``z + h f_k(z)``, block by block.
    """

    def __init__(self, n_channels: int, n_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(n_channels // 2, n_channels),
                nn.ReLU(),
                nn.Conv2d(n_channels, n_channels, 3, padding=1),
                nn.GroupNorm(n_channels // 2, n_channels),
                nn.ReLU(),
                nn.Conv2d(n_channels, n_channels, 3, padding=1),
                nn.GroupNorm(n_channels // 2, n_channels),
            )
            for _ in range(n_blocks)
        )

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        # Where samples have times of their own, these are the same: the steps are.
        k = math.floor(float(t.reshape(-1)[0]) * len(self.blocks) + 0.5)
        return len(self.blocks) * self.blocks[min(k, len(self.blocks) - 1)](z)


def conv_field(n_channels: int, *, evolving_weights: bool = False) -> ConvField:
    """The paper's field, whose last normalisation is not 0 at first: dynamics are as hard as its own."""
    generator = torch.Generator().manual_seed(0)
    field = ConvField(n_channels, (n_channels,), evolving_weights=evolving_weights, generator=generator)
    nn.init.ones_(field.norms[-1].weight)
    return field


def networks(n_channels: int) -> dict[str, dict]:
    """What sets each network apart."""
    torch.manual_seed(0)
    field = conv_field(n_channels)
    return {
        "ResNet": {"field": ResidualBlocks(n_channels, N_LAYERS), "method": "euler", "step_size": 1 / N_LAYERS},
        "RK-Net": {"field": field, "adjoint": "backprop"},
        "ODE-Net, adjoint ODE": {"field": field, "adjoint": "continuous"},
        "ODE-Net, discrete adjoint": {"field": field},
        "ODE-Net, evolving weights": {"field": conv_field(n_channels, evolving_weights=True)},
    }


def load(mnist: Path | None) -> tuple[dict, list[np.ndarray]]:
    """Settings of all networks, and the data: X_train, X_test, y_train, y_test."""
    settings = {"image_shift": 0.5, "batch_size": 50, "max_iter": 10, "state_size": 32, "image_shape": (1, 8, 8)}
    if mnist is None:
        X, y = load_digits(return_X_y=True)
        return settings, train_test_split(X.astype(np.float32), y, test_size=1 / 3, random_state=0, stratify=y)
    with np.load(mnist) as file:
        X_train, X_test = (file[name].reshape(-1, 784).astype(np.float32) for name in ("x_train", "x_test"))
        y_train, y_test = file["y_train"], file["y_test"]
    settings |= {"image_shift": 2.0, "batch_size": 128, "max_iter": 15, "image_shape": (1, 28, 28)}
    return settings, [X_train, X_test, y_train, y_test]


def classifier(settings: dict, **own) -> ODENetClassifier:
    common = {"learning_rate": "cosine", "learning_rate_init": 1e-2, "alpha": 0.01, "input_dropout": 0.0}
    width = (settings["state_size"],)
    return ODENetClassifier(width, n_iter_no_change=None, random_state=0, **common, **settings, **own)


def peak_memory() -> float:
    """The most memory that this process has held so far, in MB."""
    unit = 1.0 if sys.platform == "darwin" else 1024.0  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def train(mnist: Path | None, name: str) -> tuple[dict, ODENetClassifier]:
    """Train one of the networks, in a process that has trained no other; its row in the table."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(2)
    settings, (X_train, X_test, y_train, y_test) = load(mnist)
    model = classifier(settings, **networks(settings["state_size"])[name])
    memory, started = peak_memory(), time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - started
    row = {
        "network": name,
        "test error, %": 100 * (1 - model.score(X_test, y_test)),
        "parameters": sum(p.numel() for p in model.module_.parameters()),
        "peak memory, MB": peak_memory() - memory,
        "seconds": seconds,
        "NFE forward": model.nfe_forward_[-1],
        "NFE backward": model.nfe_backward_[-1],
    }
    return row, model


def compare(mnist: Path | None) -> tuple[pd.DataFrame, dict[str, ODENetClassifier]]:
    rows, models = [], {}
    for name in networks(32):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            row, models[name] = process.submit(train, mnist, name).result()
        rows.append(row)
        print(f"trained {name} in {row['seconds']:.0f} s", file=sys.stderr)
    return pd.DataFrame(rows), models


def against_tolerance(model: ODENetClassifier, X: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """Numerical error of the state at the end, time and evaluations, for one and the same network."""
    exact = model.set_params(rtol=1e-9, atol=1e-9, dtype="float64")
    exact.module_.double()  # what is compared is the solver's error, not that of rounding
    truth = exact.transform(X)
    curve = tolerance_curve(exact, X, y, tolerances=TOLERANCES)
    errors = []
    for tolerance in TOLERANCES:
        found = exact.set_params(rtol=tolerance, atol=tolerance).transform(X)
        errors.append(np.sqrt(np.mean((found - truth) ** 2)))
    return curve.assign(error=errors)


def tight_and_loose(settings: dict, data: list[np.ndarray]) -> pd.DataFrame:
    """Test accuracy by the tolerance of training (rows) and of prediction (columns)."""
    X_train, X_test, y_train, y_test = data
    found = {}
    for trained_at in (1e-1, 1e-3, 1e-5):
        field = conv_field(settings["state_size"])
        own = {"rtol": trained_at, "atol": trained_at, "dtype": "float32", "field": field}
        model = classifier(settings, **own).fit(X_train, y_train)
        curve = tolerance_curve(model, X_test, y_test, tolerances=(1e-1, 1e-2, 1e-3, 1e-4))
        found[f"trained at {trained_at:.0e}"] = dict(zip(curve["tolerance"], curve["score"], strict=True))
    return pd.DataFrame(found).T


def draw(folder: Path, curve: pd.DataFrame, models: dict[str, ODENetClassifier]) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6))
    axes[0].loglog(curve["nfe"], curve["error"], "o-")
    axes[0].set(xlabel="evaluations per sample", ylabel="numerical error of the state")
    axes[0].xaxis.set_minor_formatter(NullFormatter())
    ToleranceDisplay(curve, score_name="test accuracy").plot(axes[1:])
    figure.tight_layout()
    save(figure, folder / "odenet_tolerance.png")

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for name, model in models.items():
        TrainingCurveDisplay.from_estimator(model, panels=["loss", "nfe"], log=True, name=name, axes=axes)
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    save(figure, folder / "odenet_training.png")


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("pictures"))
    parser.add_argument("--mnist", type=Path, help="an .npz file with x_train, y_train, x_test and y_test")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    settings, data = load(options.mnist)

    comparison, models = compare(options.mnist)
    curve = against_tolerance(models["ODE-Net, discrete adjoint"], data[1], data[3])
    grid = tight_and_loose(settings, data)
    draw(options.folder, curve, models)
    text = "\n\n".join(
        [
            comparison.to_string(index=False, float_format="{:.2f}".format),
            curve.to_string(index=False, float_format="{:.3g}".format),
            "Test accuracy, by the tolerance of training (rows) and of prediction (columns):\n"
            + grid.to_string(float_format="{:.4f}".format),
        ]
    )
    (options.folder / "odenet.txt").write_text(text + "\n")
    print(text)
    print(f"\nThis and the pictures odenet_tolerance.png and odenet_training.png are in {options.folder}/.")


if __name__ == "__main__":
    main()
