"""Fits to run in one process and in several, and what they end with."""

import warnings
from unittest.mock import patch

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_wine
from sklearn.model_selection import GridSearchCV, KFold

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.datasets import make_spirals
from skode.io import ArrayTable

TABLE = {"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 0, "dtype": "float64"}
SERIES = {"series": "series", "time": "time", "random_state": 0, "dtype": "float64", "max_iter": 4, "n_draws": 8}


def numbers(model):
    """All that a fit has learnt, as arrays by name."""
    found = {f"weights of {name}": x.cpu().numpy() for name, x in model.module_.state_dict().items()}
    for name in ("loss_curve_", "validation_scores_", "stacking_weights_", "alpha_", "offset_", "nfe_forward_"):
        if getattr(model, name, None) is not None:
            found[name] = np.asarray(getattr(model, name))
    if hasattr(model, "posterior_"):
        found["posterior"] = model.posterior_.mean.numpy()
        found["log-weights"] = model.posterior_.log_weights.numpy()
    return found


def wine():
    return load_wine(return_X_y=True)[0][:, [0, 6, 9, 12]]


def spirals(n=14):
    """Series of two values, which are not always observed together: no two inputs of encoders are always equal.

    The weights of such inputs have no gradient along their difference but what rounding makes, and Adam steps by it.
    """
    X, y = make_spirals(n_series=n, n_observations=12, random_state=0)
    y = np.array(y)
    y[::5, 0] = np.nan
    return X, y


def classifier(**parameters):
    X, y = load_iris(return_X_y=True)
    return ODENetClassifier(**TABLE | parameters).fit(X, y)


def images():
    X, y = load_digits(n_class=2, return_X_y=True)
    parameters = {"image_shape": (1, 8, 8), "state_size": 2, "image_shift": 1.0, "max_iter": 2, "batch_size": 33}
    return ODENetClassifier(**TABLE | parameters | {"hidden_layer_sizes": (3,)}).fit(X[:90], y[:90])


def regressor(**parameters):
    X, y = load_diabetes(return_X_y=True)
    weights = np.random.default_rng(0).integers(0, 3, 60).astype(float)
    return ODENetRegressor(**TABLE | parameters).fit(X[:60], y[:60], weights)


def density(**parameters):
    return CNFDensityEstimator(**TABLE | parameters).fit(wine())


def in_blocks(estimator, X, *targets, **parameters):
    """A fit to a table that is read in blocks, some of them at a time."""
    with patch("skode.training.blocks.POOL_BYTES", 50 * X[0].nbytes):
        return estimator(**TABLE | parameters).fit(ArrayTable(X, block_rows=20), *targets)


def classifier_in_blocks(**parameters):
    return in_blocks(ODENetClassifier, *load_iris(return_X_y=True), **parameters)


def density_in_blocks(**parameters):
    return in_blocks(CNFDensityEstimator, wine(), **parameters)


def latent(**parameters):
    X, y = spirals()
    return LatentODERegressor(**SERIES | parameters).fit(X, y)


def partly(model, *data):
    """The model after two calls of ``partial_fit``."""
    half = len(data[0]) // 2
    for part in (slice(None, half), slice(half, None)):
        model.partial_fit(*(x[part] for x in data))
    return model


def weighted_events():
    X, y = spirals()
    weights = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
    return LatentODERegressor(**SERIES, observation_times="poisson").fit(X, np.abs(y), weights)


def searched():
    """The best of a search over tolerances, with its scores as the loss curve."""
    grid = {"rtol": [1e-2, 1e-4], "hidden_layer_sizes": [(8,), (16,)]}
    search = GridSearchCV(ODENetRegressor(**TABLE), grid, cv=KFold(2)).fit(
        *[a[:60] for a in load_diabetes(return_X_y=True)]
    )
    search.best_estimator_.loss_curve_ = search.cv_results_["mean_test_score"]
    return search.best_estimator_


PENALTIES = {"kinetic_energy": 0.1, "jacobian_norm": 0.1, "local_error": 0.5, "steer": 0.2, "input_dropout": 0.2}

#: Fits that are those of one process but for rounding.
TO_ROUNDING = {
    "classifier": (classifier, {}),
    "early stopping": (classifier, {"early_stopping": True, "n_iter_no_change": 2, "alpha": 0.1}),
    "penalties": (classifier, PENALTIES | {"alpha": 0.1}),
    "images": (images, {}),
    "batches of one and two": (regressor, {"batch_size": 2, "alpha": 0.1, "max_iter": 2}),
    "batches of one": (regressor, {"batch_size": 1, "alpha": 0.1, "max_iter": 1}),
    "fixed steps": (regressor, {"method": "rk4", "alpha": 0.1}),
    "backprop": (regressor, {"adjoint": "backprop", "alpha": 0.1, "max_iter": 2}),
    "density": (density, {}),
    "estimates": (density, {"divergence": "hutchinson", "jacobian_norm": 0.1, "stacking": False}),
    "flow matching": (density, {"objective": "flow_matching", "stacking": False}),
    "matching first": (density, {"matching_iter": 2, "stacking": False, "contamination": 0.1}),
    "classifier in blocks": (classifier_in_blocks, {"batch_size": 7, "early_stopping": True, "max_iter": 2}),
    "density in blocks": (density_in_blocks, {"max_iter": 2, "stacking": False}),
    "latent": (latent, {}),
    "encoder with an ODE": (latent, {"encoder": "ode_rnn", "batch_size": 4, "max_iter": 2}),
    "several draws": (latent, {"bound": "iwae", "n_samples": 3, "max_iter": 2}),
    "events": (weighted_events, {}),
    "parts of a table": (lambda **own: partly(ODENetRegressor(**TABLE | own), *load_diabetes(return_X_y=True)), {}),
    "parts of samples": (lambda **own: partly(CNFDensityEstimator(**TABLE | own), wine()), {}),
    "parts of a panel": (lambda **own: partly(LatentODERegressor(**SERIES | own), *spirals()), {}),
    "search": (searched, {}),
}

#: Fits whose processes take steps of their own: those of one process but for the solver's errors.
TO_TOLERANCE = {
    "implicit": (regressor, {"method": "kvaerno5", "alpha": 0.1, "max_iter": 2, "rtol": 1e-6, "atol": 1e-6}),
    "continuous adjoint": (
        regressor,
        {"adjoint": "continuous", "alpha": 0.1, "max_iter": 2, "rtol": 1e-6, "atol": 1e-6},
    ),
}

#: Fits that differ from time to time, or that rounding decides, but that are the same in all processes.
NOT_REPEATED = {
    "diverging": (regressor, {"learning_rate_init": 1e3, "alpha": 0.1, "rtol": 1e-6}),
    "no seed": (classifier, {"random_state": None, "alpha": 0.1, "max_iter": 2}),
    "limited time": (density, {"max_time": 1.0, "max_iter": 1000}),
    "limited time, series": (latent, {"max_time": 1.5, "max_iter": 1000}),
}


def fitted(names, **parameters):
    """The numbers that fits of some names end with."""
    torch.set_num_threads(1)
    fits = TO_ROUNDING | TO_TOLERANCE | NOT_REPEATED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: numbers(fits[name][0](**fits[name][1], **parameters)) for name in names}


def fitted_on(device, names):
    """The same on a device."""
    return fitted(names, device=device)
