"""Quickstart: three estimators on real data
=========================================

Fits a classifier to handwritten digits, a density to measurements of tumours, and a latent ODE to series of tumour
volumes; prints one table of held-out scores, beside those of what one would otherwise take, and writes three pictures.

Run ``python examples/quickstart.py [FOLDER]``; the pictures go to FOLDER, ``pictures`` by default.
"""

# %%
# ``.ci/run`` runs this script; the build of this site only shows it. One of its pictures:
#
# .. image:: /images/series.png
#    :alt: Tumour volumes of six mice: observations, mean and a 90 % band

# sphinx_gallery_thumbnail_path = "images/thumb_quickstart.png"

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
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier
from skode.datasets import load_tumour_growth
from skode.inspection import SeriesForecastDisplay

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
TABLE: list[dict] = []


def report(task: str, model: str, score: str, value: float, started: float) -> None:
    TABLE.append(
        {"task": task, "model": model, "score": score, "held out": value, "seconds": time.perf_counter() - started}
    )


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(FOLDER / name, dpi=110, bbox_inches="tight")
    plt.close(figure)


def classify() -> None:
    """Handwritten digits: a quarter held out."""
    X, y = load_digits(return_X_y=True, as_frame=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
    task, score = "digits, 10 classes", "accuracy"
    for name, model in [
        ("ODENetClassifier", ODENetClassifier(random_state=0)),
        ("MLPClassifier", MLPClassifier(random_state=0)),
    ]:
        started = time.perf_counter()
        model.fit(X_train, y_train)
        report(task, name, score, model.score(X_test, y_test), started)
        if isinstance(model, ODENetClassifier):
            figure, axes = plt.subplots(figsize=(5, 5))
            ConfusionMatrixDisplay.from_estimator(model, X_test, y_test, ax=axes, colorbar=False, cmap="Blues")
            axes.set_title("ODENetClassifier on held-out digits")
            save(figure, "confusion_matrix.png")


def estimate_density() -> None:
    """Cell nuclei of breast tumours: two columns, for the picture, and six."""
    table = load_breast_cancer(as_frame=True).data
    for n_columns in (2, 6):
        X_train, X_test = train_test_split(table.iloc[:, :n_columns], test_size=0.25, random_state=0)
        task, score = f"cell nuclei, {n_columns} columns", "log-likelihood"

        started = time.perf_counter()
        flow = CNFDensityEstimator(random_state=0).fit(X_train)
        report(task, "CNFDensityEstimator", score, flow.score(X_test), started)

        started = time.perf_counter()
        mixtures = [GaussianMixture(k, random_state=0).fit(X_train) for k in range(1, 11)]
        mixture = min(mixtures, key=lambda m: m.bic(X_train))
        report(task, "GaussianMixture (BIC)", score, mixture.score(X_test), started)

        started = time.perf_counter()
        scaler = StandardScaler().fit(X_train)
        grid = {"bandwidth": np.geomspace(0.05, 2, 15)}
        kernel = GridSearchCV(KernelDensity(), grid).fit(scaler.transform(X_train))
        likelihood = kernel.score(scaler.transform(X_test)) / len(X_test) - np.log(scaler.scale_).sum()
        report(task, "KernelDensity (CV)", score, likelihood, started)

        if n_columns == 2:
            draw_density(flow, X_test)


def draw_density(flow: CNFDensityEstimator, X: pd.DataFrame) -> None:
    low, high = X.min() - X.std(), X.max() + X.std()
    x, y = np.meshgrid(*(np.linspace(low.iloc[i], high.iloc[i], 120) for i in range(2)))
    grid = pd.DataFrame(np.column_stack([x.ravel(), y.ravel()]), columns=X.columns)
    density = np.exp(flow.score_samples(grid)).reshape(x.shape)
    figure, axes = plt.subplots(figsize=(6, 4.5))
    axes.contourf(x, y, density, levels=20, cmap="Blues")
    axes.scatter(X.iloc[:, 0], X.iloc[:, 1], s=8, color="black", label="held-out tumours")
    axes.set(xlabel=X.columns[0], ylabel=X.columns[1], title="CNFDensityEstimator")
    axes.legend()
    save(figure, "density.png")


def forecast() -> None:
    """Tumour volumes of 30 mice, two or three measurements a week: the last week of each held out."""
    frame = load_tumour_growth().frame
    X, y = frame[["mouse", "day", "dose"]], np.log(frame["volume"].clip(lower=0.005)).rename("log volume")
    held_out = frame["day"] > frame.groupby("mouse")["day"].transform("max") - 7
    X_train, y_train, X_test, y_test = X[~held_out], y[~held_out], X[held_out], y[held_out]
    task, score = "tumours, last week", "RMSE of log volume"

    started = time.perf_counter()
    model = LatentODERegressor(series="mouse", time="day", random_state=0).fit(X_train, y_train)
    mean, std = model.predict(X_test, return_std=True)
    report(task, "LatentODERegressor", score, rmse(mean, y_test), started)
    inside = (np.abs(y_test - mean) < 1.645 * std).mean()

    started = time.perf_counter()
    last = y_train.groupby(X_train["mouse"]).last()
    report(task, "last value", score, rmse(X_test["mouse"].map(last), y_test), started)

    started = time.perf_counter()
    guesses = pd.Series(index=y_test.index, dtype=float)
    for mouse, rows in X_test.groupby("mouse"):
        seen = X_train["mouse"] == mouse
        kernel = RBF(10.0, (1.0, 100.0)) + WhiteKernel(0.1, (1e-3, 1.0))
        gp = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            gp.fit(X_train.loc[seen, ["day"]], y_train[seen])
        guesses[rows.index] = gp.predict(rows[["day"]])
    report(task, "Gaussian process per mouse", score, rmse(guesses, y_test), started)

    print(f"\nA 90 % band of LatentODERegressor covers {100 * inside:.0f} % of the held-out week.")
    draw_series(model, frame, y, held_out)


def rmse(guess, truth) -> float:
    return float(np.sqrt(np.mean((np.asarray(guess) - np.asarray(truth)) ** 2)))


def draw_series(model: LatentODERegressor, frame: pd.DataFrame, y: pd.Series, held_out: pd.Series) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), sharex=True, sharey=True)
    mice = frame.drop_duplicates("mouse").groupby("group", sort=False).head(2).head(6)
    X, days = frame[["mouse", "day", "dose"]], np.linspace(0, 32, 80)
    SeriesForecastDisplay.from_estimator(model, X, y, series=mice["mouse"], times=days, held_out=held_out, axes=axes)
    for ax, mouse in zip(axes.flat, mice.itertuples(), strict=True):
        ax.set_title(f"mouse {mouse.mouse}, {mouse.group}")
        ax.label_outer()
    save(figure, "series.png")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    # A fit that uses up max_iter says so with a warning; here the table says what it reached.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for part in (classify, estimate_density, forecast):
        part()
    table = pd.DataFrame(TABLE)
    print(table.to_string(index=False, formatters={"held out": "{:.3f}".format, "seconds": "{:.1f}".format}))
    print(f"\nAccuracy and log-likelihood: higher is better; RMSE: lower is better. Pictures are in {FOLDER}/:")
    print(", ".join(sorted(path.name for path in FOLDER.glob("*.png"))))


if __name__ == "__main__":
    main()
