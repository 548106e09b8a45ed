"""Sparse features are the dense ones of which only those that are not 0 are kept."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skode import ODENetClassifier, ODENetRegressor
from skode.training import SparseFeatures, distinct, fitted_on, fitted_scaler
from skode.training.sparse import row_hashes

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

RNG = np.random.RandomState(0)
X = RNG.normal(size=(60, 6)) * (RNG.uniform(size=(60, 6)) < 0.4)
X[:, 5] = 0.0
Y = np.where(X[:, 0] + X[:, 1] > 0, "up", "down")
WEIGHTS = RNG.randint(0, 4, 60).astype(float)

# Without shuffling samples are trained on in the order in which they are given, and so in the same one.
SMALL = {"hidden_layer_sizes": (4,), "state_size": 3, "max_iter": 3, "shuffle": False, "random_state": 0}
MODELS = {
    "classifier": (ODENetClassifier(**SMALL), Y),
    "regressor": (ODENetRegressor(**SMALL), X[:, :2].sum(1)),
}


@pytest.fixture(params=MODELS)
def case(request):
    estimator, y = MODELS[request.param]
    return clone(estimator), y


def answers(estimator, X):
    methods = ("predict_proba", "transform", "predict_log_proba") if hasattr(estimator, "classes_") else ("predict",)
    return np.concatenate([np.reshape(getattr(estimator, method)(X), (X.shape[0], -1)) for method in methods], axis=1)


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # to rounding, after training in float32


@pytest.mark.parametrize("container", ["csr_matrix", "csc_matrix", "csr_array", "csc_array", "coo_array", "lil_array"])
def test_every_format_gives_what_the_dense_features_give(case, container):
    estimator, y = case
    expected = clone(estimator).fit(X, y)
    given = getattr(sparse, container)(X)
    fitted = estimator.fit(given, y)
    same(answers(fitted, given), answers(expected, X))
    same(answers(fitted, X), answers(expected, X))
    assert given.shape == X.shape
    assert fitted.n_features_in_ == 6


@pytest.mark.parametrize(
    "changed",
    [
        {"early_stopping": True},
        {"batch_size": 7, "input_dropout": 0.2},
        {"state_size": None, "augment_dim": 1},
        {"image_shape": (1, 2, 3), "state_size": 4, "hidden_layer_sizes": (2,)},
        {"dtype": "float64", "kinetic_energy": 0.1},
    ],
    ids=["early stopping", "batches", "no embedding", "images", "float64"],
)
def test_whatever_the_parameters(case, changed):
    estimator, y = case
    estimator.set_params(**changed)
    dense, fitted = (clone(estimator).fit(given, y, sample_weight=WEIGHTS) for given in (X, sparse.csr_array(X)))
    same(answers(fitted, sparse.csc_array(X)), answers(dense, X))
    np.testing.assert_allclose(fitted.loss_curve_, dense.loss_curve_, rtol=1e-4)


def test_classes_may_be_weighed_too():
    model = ODENetClassifier(**SMALL, class_weight="balanced", early_stopping=True)
    dense, fitted = (clone(model).fit(given, Y, WEIGHTS) for given in (X, sparse.csr_matrix(X)))
    same(answers(fitted, X), answers(dense, X))
    assert fitted.validation_scores_ == dense.validation_scores_


def test_partial_fit_may_mix_sparse_and_dense_parts(case):
    estimator, y = case
    options = {"classes": np.unique(y)} if isinstance(estimator, ODENetClassifier) else {}
    dense, mixed = clone(estimator), clone(estimator)
    for part in (slice(0, 20), slice(20, 40), slice(40, 60)):
        dense.partial_fit(X[part], y[part], sample_weight=WEIGHTS[part] + 1.0, **options)
    for part, container in (
        (slice(0, 20), sparse.csr_array),
        (slice(20, 40), np.array),
        (slice(40, 60), sparse.csc_array),
    ):
        mixed.partial_fit(container(X[part]), y[part], sample_weight=WEIGHTS[part] + 1.0, **options)
    same(answers(mixed, X), answers(dense, X))


def test_weights_are_repeated_samples(case):
    estimator, y = case
    estimator.set_params(shuffle=True)
    rows = RNG.permutation(np.repeat(np.arange(60), WEIGHTS.astype(int)))
    weighted = clone(estimator).fit(sparse.csr_array(X), y, sample_weight=WEIGHTS)
    repeated = clone(estimator).fit(sparse.csr_array(X[rows]), y[rows])
    np.testing.assert_allclose(answers(weighted, X), answers(repeated, X), rtol=1e-6)


def test_zeros_that_are_kept_and_entries_in_parts_change_nothing(case):
    estimator, y = case
    neat = sparse.csr_array(X)
    kept = sparse.csr_array(
        (np.append(neat.data, 0.0), np.append(neat.indices, 5), np.append(neat.indptr[:-1], neat.nnz + 1))
    )
    parts = sparse.coo_array((np.tile(neat.data / 2, 2), tuple(np.tile(i, 2) for i in neat.nonzero())), shape=X.shape)
    expected = answers(clone(estimator).fit(neat, y), neat)
    for given in (kept, parts):
        assert (given.shape, abs(given.tocsr() - neat).max()) == (X.shape, 0.0)
        same(answers(clone(estimator).fit(given, y), given), expected)


def test_a_frame_of_sparse_columns_is_taken(case):
    estimator, y = case
    frame = pd.DataFrame.sparse.from_spmatrix(sparse.csr_array(X), columns=list("abcdef"))
    fitted = clone(estimator).fit(frame, y)
    same(answers(fitted, frame), answers(estimator.fit(X, y), X))
    assert fitted.feature_names_in_.tolist() == list("abcdef")


def test_text_is_classified_in_a_pipeline_and_a_search():
    words = np.array(["solver", "step", "stage", "cat", "dog", "bird"])
    labels = np.repeat(["code", "pets"], 20)
    texts = [" ".join(RNG.choice(words[:3] if label == "code" else words[3:], 5)) for label in labels]
    model = ODENetClassifier((8,), state_size=8, max_iter=30, learning_rate_init=3e-2, random_state=0)
    search = GridSearchCV(make_pipeline(TfidfVectorizer(), model), {"odenetclassifier__alpha": [0.1]}, cv=2)
    assert search.fit(texts, labels).best_score_ == 1.0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_missing_values_are_refused(case, wrong):
    estimator, y = case
    given = sparse.csr_array(X)
    given.data[3] = wrong
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        estimator.fit(given, y)


def test_the_wrong_number_of_columns_is_refused(case):
    estimator, y = case
    fitted = estimator.fit(sparse.csr_array(X), y)
    with pytest.raises(ValueError, match="X has 5 features, but"):
        fitted.predict(sparse.csr_array(X[:, :5]))


def test_features_are_dense_where_they_are_looked_at():
    features = SparseFeatures(sparse.csr_array(X), lambda x: 2.0 * x, torch.float64, torch.device("cpu"))
    np.testing.assert_array_equal(features[torch.tensor([3, 1])], 2.0 * X[[3, 1]])
    np.testing.assert_array_equal(features[50:70], 2.0 * X[50:])
    assert len(features) == 60


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_scaler_is_that_of_the_dense_features(weights):
    dense, found = (fitted_scaler(given, weights) for given in (X, sparse.csr_array(X)))
    for name in ("mean_", "var_", "scale_"):
        np.testing.assert_allclose(getattr(found, name), getattr(dense, name), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.transform(X), dense.transform(X), rtol=1e-9, atol=1e-12)
    both = fitted_on(fitted_on(clone(found), sparse.csr_array(X[:30]), None), X[30:], None)
    np.testing.assert_allclose(both.scale_, fitted_scaler(X).scale_, rtol=1e-12)


def test_rows_have_one_hash_if_and_only_if_their_values_are_the_same():
    rows = RNG.permutation(np.repeat(np.arange(60), 2))
    hashes = row_hashes(sparse.csr_array(X[rows]))
    values = [tuple(row) for row in X[rows]]
    assert len(set(zip(values, hashes.tolist(), strict=True))) == len(set(values)) == len(set(hashes.tolist()))


def test_equal_sparse_samples_become_one_with_the_weights_added():
    rows = np.repeat(np.arange(60), 2)
    chosen, weights = distinct(sparse.csr_array(X[rows]), np.tile([0, 1], 60), np.tile([1.0, 2.0], 60))
    dense, expected = distinct(X[rows], np.tile([0, 1], 60), np.tile([1.0, 2.0], 60))
    assert dict(zip(chosen, weights, strict=True)) == dict(zip(dense, expected, strict=True))


def test_dense_they_would_not_fit():
    script = """
import resource, warnings
import numpy as np
from scipy import sparse
from skode import ODENetClassifier
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = sparse.random_array((1500, 40000), density=2e-4, format="csr", rng=rng)  # dense: 480 MB, and more in copies
y = (X[:, :4000].sum(axis=1) > 0).astype(int)
model = ODENetClassifier((8,), state_size=8, alpha=1.0, max_iter=1, batch_size=50, random_state=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.fit(X, y).predict(X[:50])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=200)
    assert float(out.stdout) < 300.0
