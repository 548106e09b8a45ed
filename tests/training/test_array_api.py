"""Tensors as inputs; under scikit-learn's array API dispatch as answers too."""

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skode import CNFDensityEstimator, CNFRegressor, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.inspection import DensityDisplay, SeriesForecastDisplay, TrajectoryDisplay, tolerance_curve
from skode.model_selection import ContinuationScorer

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

X, LABELS = make_moons(30, noise=0.1, random_state=0)
WEIGHTS = np.linspace(0.5, 2.0, 30)
SMALL = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}

#: Each with its targets, and what it answers with.
ESTIMATORS = {
    "classifier": (
        ODENetClassifier(state_size=3, **SMALL),
        LABELS,
        ["predict", "predict_proba", "predict_log_proba", "transform"],
    ),
    "regressor": (ODENetRegressor(state_size=3, **SMALL), X[:, 0] * X[:, 1], ["predict", "transform"]),
    "density": (CNFDensityEstimator(**SMALL), None, ["score_samples", "log_prob", "transform", "inverse_transform"]),
    "conditional": (CNFRegressor(**SMALL), X[:, 0] * X[:, 1], ["predict", "predict_interval", "sample_y"]),
    "series": (
        LatentODERegressor(latent_size=2, encoder_size=4, n_draws=4, rtol=1e-2, atol=1e-2, **SMALL),
        X[:, 1],
        ["predict", "transform", "sample_y", "latent_trajectory"],
    ),
}


@pytest.fixture(params=ESTIMATORS)
def case(request):
    estimator, y, methods = ESTIMATORS[request.param]
    X_of = X[:, :1] if request.param == "series" else X
    return clone(estimator), X_of, y, methods


@pytest.fixture
def dispatch(monkeypatch):
    # scikit-learn wants it set before SciPy is imported, which sees no tensor here.
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True):
        yield


def tensor(values):
    return None if values is None else torch.from_numpy(np.array(values))


def answers(estimator, X, methods):
    return {method: getattr(estimator, method)(X) for method in methods}


def test_tensors_are_taken_as_arrays(case):
    estimator, X, y, methods = case
    expected = answers(clone(estimator).fit(X, y), X, methods)
    found = answers(estimator.fit(tensor(X), tensor(y)), tensor(X), methods)
    for method in methods:
        assert type(found[method]) is np.ndarray
        np.testing.assert_array_equal(found[method], expected[method])


def test_under_dispatch_answers_are_tensors_of_the_same_values(case, dispatch):
    estimator, X, y, methods = case
    with sklearn.config_context(array_api_dispatch=False):
        fitted = clone(estimator).fit(X, y)
        expected, score = answers(fitted, X, methods), fitted.score(X, y)
    found = answers(estimator.fit(tensor(X), tensor(y)), tensor(X), methods)
    for method in methods:
        assert isinstance(found[method], torch.Tensor)
        assert found[method].device == torch.device("cpu")
        np.testing.assert_array_equal(found[method].numpy(), expected[method])
    given = estimator.score(tensor(X), tensor(y))
    assert type(given) is float
    assert given == pytest.approx(score, rel=1e-12)


def test_under_dispatch_arrays_are_answered_by_arrays(case, dispatch):
    estimator, X, y, methods = case
    estimator.fit(tensor(X), tensor(y))
    for answer in answers(estimator, X, methods).values():
        assert type(answer) is np.ndarray


@pytest.mark.parametrize("dispatching", [False, True])
@pytest.mark.parametrize("argument", ["X", "y", "sample_weight"])
def test_a_tensor_that_requires_grad_is_refused_by_name(argument, dispatching, case, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    estimator, X, y, _ = case
    given = {"X": tensor(X), "y": tensor(np.ones(30) if y is None else y), "sample_weight": tensor(np.ones(30))}
    given[argument] = given[argument].double().requires_grad_()
    message = rf"{argument} is a tensor that requires grad.*pass {argument}\.detach\(\)"
    with sklearn.config_context(array_api_dispatch=dispatching):
        with pytest.raises(ValueError, match=message):
            estimator.fit(**given)
        assert not hasattr(estimator, "module_")


def test_a_tensor_that_requires_grad_is_refused_in_answers(case):
    estimator, X, y, methods = case
    estimator.fit(X, y)
    for method in [*methods, "score"]:
        arguments = [tensor(X).requires_grad_(), *([tensor(X[:, 0])] if method == "score" else [])]
        with pytest.raises(ValueError, match="X is a tensor that requires grad"):
            getattr(estimator, method)(*arguments)


def test_times_and_depths_may_be_tensors(dispatch):
    estimator, y, _ = ESTIMATORS["classifier"]
    fitted = clone(estimator).fit(X, y)
    along = fitted.trajectory(tensor(X), torch.tensor([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(along.numpy(), fitted.trajectory(X, [0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="t is a tensor that requires grad"):
        fitted.trajectory(X, torch.ones(1, requires_grad=True))


def test_all_answers_of_a_call_are_tensors(dispatch):
    fitted = clone(ESTIMATORS["classifier"][0]).fit(X, LABELS)
    labels, nfe = fitted.predict(tensor(X), return_nfe=True)
    assert (labels.dtype, nfe.dtype) == (torch.int64, torch.int64)
    series = clone(ESTIMATORS["series"][0]).fit(X[:, :1], X[:, 1])
    mean, std = series.predict(tensor(X[:, :1]), return_std=True)
    assert isinstance(mean, torch.Tensor)
    assert bool((std > 0.0).all())


def test_tensors_are_scored_and_drawn_under_dispatch_too(dispatch):
    panel = np.column_stack([np.repeat(np.arange(3), 10), np.tile(np.arange(10.0), 3)])
    given, observed = tensor(panel), tensor(X[:, 1])
    series = clone(ESTIMATORS["series"][0]).set_params(series=0, time=1).fit(panel, X[:, 1])
    for scoring in (None, "neg_mean_absolute_error", "log_density"):
        scorer = ContinuationScorer(prefix=0.4, scoring=scoring)
        assert scorer(series, given, observed) == scorer(series, panel, X[:, 1])
    times, held_out = torch.linspace(0.0, 12.0, 5), given[:, 1] > 7
    forecast = SeriesForecastDisplay.from_estimator(series, given, observed, times=times, held_out=held_out)
    assert forecast.forecasts[0].mean.shape == (5, 1)
    fitted = clone(ESTIMATORS["classifier"][0]).fit(X, LABELS)
    columns = ["score", "nfe"]
    found = tolerance_curve(fitted, tensor(X), tensor(LABELS), tolerances=[1e-2])[columns]
    pd.testing.assert_frame_equal(found, tolerance_curve(fitted, X, LABELS, tolerances=[1e-2])[columns])
    drawn = TrajectoryDisplay.from_estimator(fitted, tensor(X), t=torch.tensor([0.0, 1.0]), c=tensor(LABELS))
    assert isinstance(drawn.states, np.ndarray)
    DensityDisplay.from_estimator(clone(ESTIMATORS["density"][0]).fit(X), tensor(X), grid_resolution=5)


def test_labels_that_tensors_can_not_hold_stay_in_numpy(dispatch):
    names = np.array(["no", "yes"])[LABELS]
    fitted = clone(ESTIMATORS["classifier"][0]).fit(tensor(X), names)
    assert set(fitted.predict(tensor(X))) <= {"no", "yes"}
    assert isinstance(fitted.predict_proba(tensor(X)), torch.Tensor)
    assert fitted.score(tensor(X), names) == np.mean(fitted.predict(X) == names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32, torch.bool])
def test_dtypes_of_tensors_become_the_nearest_that_are_computed_in(dtype):
    given = (10.0 * tensor(X)).to(dtype)
    given[0] = 0  # of booleans the first is not to be like all others
    as_array = given.float().numpy() if dtype == torch.bfloat16 else given.numpy()
    estimator = ESTIMATORS["regressor"][0]
    expected = clone(estimator).fit(as_array, X[:, 0]).predict(as_array)
    np.testing.assert_array_equal(clone(estimator).fit(given, tensor(X[:, 0])).predict(given), expected)


def test_views_and_weights_are_taken_too(case):
    estimator, X, y, methods = case
    wide = torch.from_numpy(np.repeat(X, 2, axis=1))[:, ::2]
    expected = answers(clone(estimator).fit(X, y, sample_weight=WEIGHTS), X, methods)
    found = answers(estimator.fit(wide, tensor(y), sample_weight=tensor(WEIGHTS)), wide, methods)
    for method in methods:
        np.testing.assert_allclose(found[method], expected[method], rtol=1e-6)


def test_a_sparse_tensor_is_refused(case):
    estimator, X, y, _ = case
    with pytest.raises(ValueError, match=r"X is a tensor of the layout torch.sparse_coo.*X\.to_dense\(\)"):
        estimator.fit(tensor(X).to_sparse(), y)


def test_a_tensor_that_is_fitted_to_is_not_changed(case):
    estimator, X, y, _ = case
    given = tensor(X)
    estimator.fit(given, tensor(y))
    np.testing.assert_array_equal(given.numpy(), X)


def test_the_wrong_number_of_columns_is_still_told(dispatch):
    fitted = clone(ESTIMATORS["density"][0]).fit(tensor(X))
    with pytest.raises(ValueError, match="X has 1 features, but CNFDensityEstimator is expecting 2 features"):
        fitted.score_samples(tensor(X[:, :1]))


def test_partial_fit_takes_tensors_with_classes():
    fitted = clone(ESTIMATORS["classifier"][0]).partial_fit(tensor(X), tensor(LABELS), classes=torch.tensor([0, 1]))
    expected = clone(ESTIMATORS["classifier"][0]).partial_fit(X, LABELS, classes=[0, 1])
    np.testing.assert_array_equal(fitted.predict_proba(X), expected.predict_proba(X))


def test_in_a_pipeline_dispatch_goes_all_the_way(dispatch):
    model = make_pipeline(StandardScaler(), clone(ESTIMATORS["regressor"][0]))
    predicted = model.fit(tensor(X), tensor(X[:, 0])).predict(tensor(X))
    assert isinstance(predicted, torch.Tensor)
    with sklearn.config_context(array_api_dispatch=False):
        expected = clone(model).fit(X, X[:, 0]).predict(X)
    np.testing.assert_allclose(predicted.numpy(), expected, rtol=1e-5)


def test_a_search_takes_tensors():
    search = GridSearchCV(clone(ESTIMATORS["classifier"][0]), {"alpha": [0.1, 1.0]}, cv=2, error_score="raise")
    found = search.fit(tensor(X), tensor(LABELS)).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found, clone(search).fit(X, LABELS).cv_results_["mean_test_score"])


def test_frames_are_frames_under_dispatch(dispatch):
    frame = pd.DataFrame(X, columns=["a", "b"])
    fitted = clone(ESTIMATORS["density"][0]).fit(frame)
    assert type(fitted.score_samples(frame)) is np.ndarray
    assert fitted.feature_names_in_.tolist() == ["a", "b"]
