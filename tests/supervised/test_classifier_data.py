import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Parallel, cpu_count, delayed
from sklearn import config_context
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skode import ODENetClassifier
from skode.solvers import SolverError
from skode.supervised import fitted as supervised_fitted
from skode.supervised.classifier import check_label_types
from tests.supervised.tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

# Refusals


@pytest.fixture
def small():
    return make_classification(20, 4, random_state=0)


@pytest.mark.parametrize(
    ("bad", "message"), [(np.inf, "Input X contains infinity"), (-np.inf, "Input X contains infin")]
)
def test_infinite_features_are_refused(small, fitted, bad, message):
    X, y = small
    X[3, 1] = bad
    with pytest.raises(ValueError, match=message):
        ODENetClassifier(**TINY).fit(X, y)
    with pytest.raises(ValueError, match=message):
        fitted.predict(X[:, :2])


def test_one_class_is_refused(small):
    with pytest.raises(ValueError, match="at least 2 classes in y, but the data contains only one class: 7"):
        ODENetClassifier(**TINY).fit(small[0], np.full(20, 7))


def test_one_sample_is_refused(small):
    with pytest.raises(ValueError, match=r"only one class|1 sample"):
        ODENetClassifier(**TINY).fit(small[0][:1], small[1][:1])


def test_another_number_of_features_is_refused(fitted):
    with pytest.raises(ValueError, match="X has 3 features, but ODENetClassifier is expecting 2 features"):
        fitted.predict(np.zeros((4, 3)))


def test_a_one_dimensional_X_is_refused(small, fitted):
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        ODENetClassifier(**TINY).fit(small[0][:, 0], small[1])
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        fitted.predict([0.0, 1.0])


def test_a_y_of_another_length_is_refused(small):
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[20, 19\]"):
        ODENetClassifier(**TINY).fit(small[0], small[1][:-1])


def test_a_missing_y_is_refused(small):
    with pytest.raises(ValueError, match="requires y"):
        ODENetClassifier(**TINY).fit(small[0], None)


def test_a_missing_label_is_refused(small):
    X, y = small
    with pytest.raises(ValueError, match="Input y contains NaN"):
        ODENetClassifier(**TINY).fit(X, np.where(np.arange(20) == 3, np.nan, y))


def test_a_continuous_y_is_refused(small):
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        ODENetClassifier(**TINY).fit(small[0], np.linspace(0, 1, 20))


def test_several_outputs_of_several_classes_are_refused(small):
    with pytest.raises(ValueError, match="'multiclass-multioutput' is not supported"):
        ODENetClassifier(**TINY).fit(small[0], np.column_stack([small[1], 2 * small[1]]))


def test_strings_as_features_are_refused(small):
    with pytest.raises(ValueError, match="could not convert string to float"):
        ODENetClassifier(**TINY).fit([["a", "b"]] * 20, small[1])


@pytest.mark.parametrize(
    ("parameter", "bad"),
    [
        ("method", "dopri9"),
        ("method", None),
        ("rtol", -1e-3),
        ("rtol", "small"),
        ("atol", 0.0),
        ("atol", -1.0),
        ("adjoint", "exact"),
        ("activation", "gelu"),
        ("hidden_layer_sizes", 0),
        ("hidden_layer_sizes", (8, -1)),
        ("hidden_layer_sizes", (8, 2.5)),
        ("hidden_layer_sizes", ("a",)),
        ("hidden_layer_sizes", "64"),
        ("state_size", 0),
        ("state_size", 2.5),
        ("time_dependent", "yes"),
        ("device", "no such device"),
        ("device", 0),
        ("dtype", "float16"),
        ("max_iter", 0),
        ("max_iter", 1.5),
        ("n_iter_no_change", 0),
        ("tol", -1.0),
        ("alpha", -1e-4),
        ("batch_size", 0),
        ("batch_size", "all"),
        ("learning_rate_init", 0.0),
        ("validation_fraction", 1.0),
        ("validation_fraction", 0.0),
        ("step_size", 0.0),
        ("input_dropout", 1.0),
        ("input_dropout", -0.1),
        ("random_state", "seed"),
        ("early_stopping", "sometimes"),
        ("warm_start", 2),
        ("shuffle", None),
    ],
)
def test_a_bad_parameter_is_refused_by_name(small, parameter, bad):
    with pytest.raises(ValueError, match=parameter):
        ODENetClassifier(**{**TINY, parameter: bad}).fit(*small)


@pytest.mark.parametrize(("parameter", "bad"), [("rtol", -1.0), ("rtol", np.nan), ("atol", -1.0), ("method", "dopri9")])
def test_a_bad_parameter_set_after_fitting_is_refused_by_name_when_predicting(fitted, moons, parameter, bad):
    other = pickle.loads(pickle.dumps(fitted)).set_params(**{parameter: bad})
    with pytest.raises(ValueError, match=parameter):
        other.predict(moons[0])


# scikit-learn's manners


def test_html_shows_the_parameters_that_were_set():
    html = ODENetClassifier(rtol=0.0123)._repr_html_()
    assert "ODENetClassifier" in html
    assert "0.0123" in html


def test_sample_weights_are_routed_through_pipelines_and_searches(moons):
    X, y = moons
    weights = np.where(X[:, 0] > 0, 0.0, 1.0)
    expected = ODENetClassifier(**TINY).fit(X[weights > 0], y[weights > 0]).predict_proba(X)
    with config_context(enable_metadata_routing=True):
        clf = ODENetClassifier(**TINY).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(make_pipeline(clf), {"odenetclassifier__rtol": [1e-3]}, cv=2)
        found = search.fit(X, y, sample_weight=weights).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_workers_of_a_search_share_the_cores():
    counts = Parallel(n_jobs=2, backend="loky")(delayed(torch.get_num_threads)() for _ in range(4))
    assert max(counts) <= max(1, cpu_count() // 2)


# Common mistakes


def test_labels_of_which_some_are_missing_are_counted(small):
    X, _ = small
    with pytest.raises(ValueError, match=rf"y has missing labels \(None or NaN\), 1 of {len(X)}: drop those samples"):
        ODENetClassifier(**TINY).fit(X, np.array([None, *["a", "b"] * len(X)][: len(X)], dtype=object))


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["no"] * 20 + ["maybe"] * 19 + ["yes"], "'yes'"),
        ([0] * 38 + [5, 9], "5, 9"),
        ([True] + [False] * 39, "True"),
    ],
    ids=["text", "numbers", "booleans"],
)
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_classes_of_one_sample_are_named_where_some_are_to_be_set_aside(labels, shown, fraction):
    X = np.random.default_rng(0).normal(size=(40, 2))
    clf = ODENetClassifier(**TINY, early_stopping=True, validation_fraction=fraction)
    message = rf"set aside validation_fraction={fraction} of 40 samples: .* one sample only of \[{shown}\]"
    with pytest.raises(ValueError, match=message) as caught:
        clf.fit(X, np.array(labels))
    assert "raise validation_fraction" not in str(caught.value)
    clf.set_params(early_stopping=False).fit(X, np.array(labels))  # which is what it says


def test_samples_without_weight_do_not_count_among_those_of_a_class():
    X = np.random.default_rng(0).normal(size=(40, 2))
    weights = np.ones(40)
    weights[1] = 0.0
    with pytest.raises(ValueError, match=r"of 39 samples: .* one sample only of \['a'\]"):
        ODENetClassifier(**TINY, early_stopping=True).fit(X, np.array(["a"] * 2 + ["b"] * 38), weights)


@pytest.mark.parametrize(
    ("n", "fraction", "advice"),
    [
        (30, 0.01, "early_stopping=False, or raise validation_fraction to 0.08 or more"),
        (30, 0.99, "early_stopping=False, or lower validation_fraction to 0.88 or less"),
        (6, 0.2, "early_stopping=False, or raise validation_fraction to 0.4 or more"),
    ],
)
def test_what_is_advised_where_none_can_be_set_aside_does_help(n, fraction, advice):
    X, y = np.random.default_rng(0).normal(size=(n, 2)), np.arange(n) % 3
    clf = ODENetClassifier(**TINY, early_stopping=True, validation_fraction=fraction)
    with pytest.raises(ValueError, match=rf"of {n} samples: .*\. Set {advice}\."):
        clf.fit(X, y)
    clf.set_params(validation_fraction=float(advice.split()[-3])).fit(X, y)


@pytest.mark.parametrize("method", ["fit", "predict"])
def test_images_in_four_dimensions_are_shown_how_to_be_rows(fitted, method):
    images = np.zeros((6, 1, 4, 4))
    call = fitted.predict if method == "predict" else lambda X: ODENetClassifier(**TINY).fit(X, [0, 1] * 3)
    with pytest.raises(ValueError, match=r"X has shape \(6, 1, 4, 4\).*X\.reshape\(len\(X\), -1\).*image_shape="):
        call(images)


def test_a_column_of_labels_is_warned_of_at_the_callers_line(small):
    X, y = small
    with pytest.warns(DataConversionWarning, match="column-vector y") as caught:
        ODENetClassifier(**TINY).fit(X, y[:, None])
    assert caught[0].filename == __file__


def test_text_among_the_features_is_named(small):
    X, y = small
    frame = pd.DataFrame(X).assign(colour="red").rename(columns=str)
    with pytest.raises(ValueError, match=r"X has columns that hold no numbers: {'colour': '.*ODENetClassifier"):
        ODENetClassifier(**TINY).fit(frame, y)


# Answers are given in blocks


@pytest.mark.parametrize("image_shape", [None, (1, 8, 8)])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_answers_do_not_depend_on_the_blocks_that_they_are_given_in(monkeypatch, image_shape, method):
    X, y = load_digits(return_X_y=True)
    X, y = X[:130], y[:130]
    images = {} if image_shape is None else {"image_shape": image_shape, "state_size": 4}
    clf = ODENetClassifier((16,), method=method, max_iter=2, early_stopping=True, random_state=0, **images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clf.fit(X, y)

    def answers():
        proba, (labels, nfe) = clf.predict_proba(X), clf.predict(X, return_nfe=True)
        return [proba, labels, nfe, clf.transform(X), clf.trajectory(X, [0.0, 0.5, 1.0]), np.array(clf.score(X, y))]

    expected = answers()
    monkeypatch.setattr(supervised_fitted, "BLOCK", 16 * 7 if image_shape is None else 4 * 64 * 7)
    for found, right in zip(answers(), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-6)


def test_an_error_names_the_sample_among_all(monkeypatch):
    class Explodes(torch.nn.Module):
        def forward(self, t, z):
            return torch.where(z[:, :1] > 2.5, torch.inf, 0.0) * z.abs() + 0.0 * z if not self.training else -z

    X = np.random.default_rng(0).normal(size=(60, 2))
    X[:, 0].clip(-1.0, 1.0, out=X[:, 0])
    clf = ODENetClassifier(state_size=None, field=Explodes(), max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clf.fit(X, (X[:, 1] > 0).astype(int))
    X[41, 0] = 100.0
    monkeypatch.setattr(supervised_fitted, "BLOCK", 64 * 10)
    with pytest.raises(SolverError, match="sample 41"):
        clf.predict(X)


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        ([1, "a"], r"1 \(int\) and 'a' \(str\)"),
        (["a", 2.5], r"'a' \(str\) and 2.5 \(float\)"),
        ([True, "a"], r"True \(bool\) and 'a' \(str\)"),
        (["a", b"b"], r"'a' \(str\) and b'b' \(bytes\)"),
        ([np.int64(1), np.str_("a")], r"\(int64\) and .*\(str_\)"),
    ],
)
def test_labels_of_several_types_are_named(labels, kinds):
    y = np.array(labels * 10, dtype=object)
    for fit in (ODENetClassifier().fit, lambda X, y: ODENetClassifier().partial_fit(X, y, classes=[0, 1])):
        with pytest.raises(ValueError, match=f"y mixes labels of several types, such as .*{kinds}"):
            fit(np.zeros((20, 1)), y)


@pytest.mark.parametrize("labels", [[1, 2.5], [True, 2], ["a", np.str_("b")], [np.int64(1), 0]])
def test_labels_that_have_an_order_are_not_mixed(labels):
    check_label_types(np.array(labels, dtype=object))


@pytest.mark.parametrize("y", [[[1], [2, 3]] * 5, [[1]] * 9 + [[2, 3]]])
def test_errors_about_labels_name_them(y):
    with pytest.raises(ValueError, match=r"\by\b"):
        ODENetClassifier().fit(np.zeros((10, 1)), y)
