"""Files of each release, kept for ever: ``python -m tests.persistence.kept`` writes those of this version.

Each holds an estimator whose attribute ``kept_`` has data, and what the estimator answered for these when it was saved.
"""

from pathlib import Path

from skode import (
    CNFDensityEstimator,
    LatentODERegressor,
    NeuralODERegressor,
    ODENetClassifier,
    ODENetRegressor,
    ODERegressor,
)
from skode.version import __version__
from tests.persistence import models

DATA = Path(__file__).parent / "data"

SMALL = {"max_iter": 2, "random_state": 0, "hidden_layer_sizes": (2,)}
SERIES = {"series": "id", "time": "time"}

CASES = {
    "classifier": lambda: (ODENetClassifier(**SMALL, alpha=0.1), *models.table()),
    "regressor": lambda: (ODENetRegressor(**SMALL, alpha=0.1, likelihood="gaussian"), *_regression()),
    "density": lambda: (CNFDensityEstimator(**SMALL), models.numbers(), None),
    "latent": lambda: (
        LatentODERegressor(**SMALL, **SERIES, latent_size=2, encoder_size=2, n_draws=4),
        *models.panel("zone"),
    ),
    "equations": models.CASES["equations"],
    "field": lambda: (NeuralODERegressor(**SERIES, degree=2, max_iter=2), *models.panel(n_outputs=2)),
}


def _regression():
    X, _ = models.table()
    return X, models.numbers()[:, 0]


def answers(model, X):
    """Answers of a model for data, by the names of its methods."""
    names = {ODENetClassifier: ["predict_proba"], CNFDensityEstimator: ["score_samples"], ODERegressor: ["summary"]}
    found = {name: getattr(model, name)(*([] if name == "summary" else [X])) for name in names.get(type(model), [])}
    return {"predict": model.predict(X), **found}


def main() -> None:
    """Write the files of this version where there are none."""
    folder = DATA / __version__
    folder.mkdir(parents=True)
    for name, case in CASES.items():
        model, X, _ = models.fitted_to(*case())
        few = X[:6]
        model.kept_ = {"X": few, "answers": answers(model, few)}
        model.save(folder / f"{name}.skode")


if __name__ == "__main__":
    main()
