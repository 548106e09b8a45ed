import pickle
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from skode import CNFDensityEstimator, ODENetClassifier
from skode.training import to_pandas
from tests.every_estimator import cases

da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
dask = pytest.importorskip("dask")

CASES = cases()
BY_ROW = ["ODENetClassifier", "ODENetRegressor", "CNFDensityEstimator"]
OF_SERIES = ["LatentODERegressor", "ODERegressor", "NeuralODERegressor"]
ANSWERS = {
    "ODENetClassifier": ["predict", "predict_proba", "predict_log_proba", "transform"],
    "ODENetRegressor": ["predict", "transform"],
    "CNFDensityEstimator": ["score_samples", "log_prob", "predict", "decision_function", "transform"],
}


@cache
def fitted(name):
    case = CASES[name]
    return clone(case.estimator).fit(*case.data[0])


def rows(name):
    return CASES[name].data[0][0]


def same(lazy, expected):
    """The dtype that was announced, and numbers that differ by no more than products of other numbers of rows do."""
    assert isinstance(lazy, da.Array)
    computed = lazy.compute()
    assert computed.dtype == lazy.dtype == expected.dtype
    np.testing.assert_allclose(computed, expected, rtol=1e-12, atol=1e-12)
    return True


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name in BY_ROW for answer in ANSWERS[name]])
def test_answers_to_arrays_are_lazy_and_the_same(name, answer):
    model, X = fitted(name), rows(name)
    expected = getattr(model, answer)(X)
    lazy = getattr(model, answer)(da.from_array(X, chunks=(11, 1)))
    assert lazy.shape == expected.shape
    assert lazy.chunks[0] == (11, 11, 8)
    assert same(lazy, expected)


@pytest.mark.parametrize("name", BY_ROW)
def test_answers_to_frames_have_their_partitions(name):
    model, frame = CASES[name].estimator, pd.DataFrame(rows(name), columns=["a", "b"])
    model = clone(model).fit(frame, *CASES[name].data[0][1:])
    lazy = dd.from_pandas(frame, npartitions=3)
    answer = CASES[name].answer(model, lazy)
    assert answer.npartitions == 3
    assert same(answer, CASES[name].answer(model, frame))
    with pytest.raises(ValueError, match="feature names"):  # at the call, not when it is computed
        model.predict(lazy.rename(columns={"a": "c"}))


def test_nothing_is_computed_before_it_is_asked_for():
    computed = []

    def noted(block):
        computed.append(len(block))
        return block

    X = da.from_array(rows("ODENetRegressor"), chunks=(10, 2)).map_blocks(noted, meta=np.empty((0, 2)))
    lazy = fitted("ODENetRegressor").predict(X)
    assert not computed
    lazy[:10].compute(scheduler="sync")
    assert computed == [10]


def test_several_answers_are_lazy_each():
    model, X = fitted("ODENetClassifier"), rows("ODENetClassifier")
    labels, depths = model.predict(X=da.from_array(X, chunks=(7, 2)), return_nfe=True)
    expected, expected_depths = model.predict(X, return_nfe=True)
    assert same(labels, expected)
    assert same(depths, expected_depths)


def test_labels_of_text_keep_their_dtype():
    X = rows("ODENetClassifier")
    labels = np.where(X[:, 0] > 0, "positive", "not")
    model = clone(CASES["ODENetClassifier"].estimator).fit(X, labels)
    lazy = model.predict(da.from_array(X, chunks=(7, 2)))
    assert lazy.dtype == model.classes_.dtype
    assert (lazy.compute() == model.predict(X)).all()


def test_columns_of_categories_and_missing_values():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"kind": pd.Categorical(rng.choice(["x", "y"], 40)), "size": rng.normal(size=40)})
    frame.loc[::5, "size"] = np.nan
    model = ODENetClassifier(hidden_layer_sizes=(4,), max_iter=2, alpha=1e-3, random_state=0)
    model.set_params(categorical_features="from_dtype").fit(frame, frame["kind"] == "x")
    assert same(model.predict_proba(dd.from_pandas(frame, npartitions=3)), model.predict_proba(frame))


@pytest.mark.filterwarnings("error:Computing mixed collections")
def test_densities_of_text_and_of_numbers_that_may_be_missing():
    rng = np.random.default_rng(0)
    text, whole = rng.choice(["u", "v"], 40), pd.array(rng.permutation(40), dtype="Int64")
    frame = pd.DataFrame({"a": rng.normal(size=40), "text": text, "whole": whole})
    settings = {"hidden_layer_sizes": (4,), "max_iter": 1, "stacking": False, "random_state": 0}
    settings |= {"rtol": 1e-2, "atol": 1e-2}
    model = CNFDensityEstimator(**settings, categorical_features=["text"]).fit(frame)
    lazy = dd.from_pandas(frame, npartitions=2)
    assert same(model.score_samples(lazy), model.score_samples(frame))
    assert model.score(lazy, lazy["a"]) == pytest.approx(model.score(frame), abs=1e-12)


def test_partitions_without_rows():
    X = rows("CNFDensityEstimator")
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = clone(CASES["CNFDensityEstimator"].estimator).fit(frame)
    lazy = dd.from_pandas(frame, npartitions=5)
    some = lazy[lazy["a"] > np.sort(X[:, 0])[-3]]
    assert (some.map_partitions(len).compute() == 0).any()
    densities = model.score_samples(some)
    np.testing.assert_allclose(densities.compute(), model.score_samples(some.compute()), rtol=1e-12)
    assert np.isnan(densities.shape[0])
    model = fitted("CNFDensityEstimator")
    array = da.from_array(X, chunks=(10, 2))
    blocks = da.concatenate([array[:0], array])
    assert same(model.score_samples(blocks), model.score_samples(X))


def test_the_answers_are_those_of_the_model_at_the_call():
    case = CASES["ODENetRegressor"]
    model = clone(case.estimator).fit(*case.data[0])
    X = case.data[0][0]
    before, lazy = model.predict(X), model.predict(da.from_array(X, chunks=(10, 2)))
    model.fit(*case.data[1])
    assert not np.allclose(model.predict(X), before)
    assert same(lazy, before)


@pytest.mark.parametrize("name", BY_ROW)
def test_scores_are_of_answers_by_partition(name):
    model, (X, *y) = fitted(name), CASES[name].data[0]
    largest = []

    def noted(block):
        largest.append(len(block))
        return block

    weights = np.linspace(0.5, 2.0, len(X))
    lazy = da.from_array(X, chunks=(10, 2)).map_blocks(noted, meta=np.empty((0, 2)))
    columns = [da.from_array(values, chunks=10) for values in y]
    given = model.score(lazy, *columns, sample_weight=da.from_array(weights, chunks=10))
    assert given == pytest.approx(model.score(X, *y, sample_weight=weights), abs=1e-12)
    assert max(largest) == 10


def test_a_threshold_is_computed_once(monkeypatch):
    model = clone(CASES["CNFDensityEstimator"].estimator).fit(rows("CNFDensityEstimator"))
    drawn, draw = [], type(model)._drawn

    def counted(self, *args):
        drawn.append(args)
        return draw(self, *args)

    monkeypatch.setattr(type(model), "_drawn", counted)
    X = da.from_array(rows("CNFDensityEstimator"), chunks=(10, 2))
    model.predict(X).compute()
    assert len(drawn) == 1


def test_frames_by_set_output_are_refused():
    model = clone(CASES["ODENetRegressor"].estimator).fit(*CASES["ODENetRegressor"].data[0])
    model.set_output(transform="pandas")
    with pytest.raises(ValueError, match="set_output"):
        model.transform(da.from_array(rows("ODENetRegressor"), chunks=(10, 2)))


def by_series(name, **partitions):
    return dd.from_pandas(rows(name).set_index("series"), **partitions)


@pytest.mark.parametrize("name", OF_SERIES)
def test_series_that_are_whole_in_partitions(name):
    model = fitted(name)
    frame = by_series(name, npartitions=3)
    assert frame.npartitions == 3
    mean, std = model.predict(frame, return_std=True)
    expected_mean, expected_std = model.predict(rows(name), return_std=True)
    assert same(mean, expected_mean)
    assert same(std, expected_std)
    # A column of ids, where no divisions tell.
    column = dd.concat([dd.from_pandas(part, npartitions=1) for _, part in rows(name).groupby("series")])
    assert same(model.predict(column), expected_mean)


@pytest.mark.parametrize("name", OF_SERIES)
def test_a_series_that_is_cut_is_named(name):
    model = fitted(name)
    cut = dd.from_pandas(rows(name), npartitions=3)
    with pytest.raises(ValueError, match=r"Series 'b' has rows in .* of X \(0, 1\) \(and so have 1 other"):
        model.predict(cut)
    assert same(model.predict(cut.repartition(npartitions=1)), model.predict(rows(name)))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_series_of_an_array_have_no_name():
    model, X = fitted("LatentODERegressor"), rows("LatentODERegressor").to_numpy()
    with pytest.raises(ValueError) as expected:
        model.predict(X)
    with pytest.raises(ValueError, match=re.escape(str(expected.value)[:40])):
        model.predict(da.from_array(X, chunks=(20, -1)))


def test_rows_of_one_series_are_refused_in_several_partitions():
    model = clone(CASES["LatentODERegressor"].estimator).set_params(series=None)
    X, y = CASES["LatentODERegressor"].data[0]
    X, y = X.loc[X["series"] == "a", ["t"]], y[:8]
    model.fit(X, y)
    with pytest.raises(ValueError, match="series=None"):
        model.predict(dd.from_pandas(X, npartitions=2))


def test_a_frame_of_states_stays_one():
    model = fitted("ODERegressor")
    states = model.predict_states(by_series("ODERegressor", npartitions=3))
    assert isinstance(states, dd.DataFrame)
    pd.testing.assert_frame_equal(
        states.compute().reset_index(drop=True), model.predict_states(rows("ODERegressor")).reset_index(drop=True)
    )


def test_targets_go_along_with_rows():
    model, (X, y) = fitted("LatentODERegressor"), CASES["LatentODERegressor"].data[0]
    frame = dd.from_pandas(X.assign(y=y).set_index("series"), npartitions=3)
    assert same(model.score_samples(frame[["t"]], frame["y"]), model.score_samples(X, y))
    assert same(model.predict_interval(frame[["t"]], level=0.5), model.predict_interval(X, level=0.5))
    with pytest.raises(ValueError, match="y has 1 partitions, but X has 3"):
        model.score_samples(frame[["t"]], frame["y"].repartition(npartitions=1))


@pytest.mark.parametrize("name", OF_SERIES)
def test_series_are_gathered_for_a_fit(name):
    case = CASES[name]
    X, y = case.data[0]
    frame = dd.from_pandas(X.assign(y=y), npartitions=3)
    model = clone(case.estimator).fit(frame[["series", "t"]], frame["y"])
    # Repeated fits of equations may differ by rounding.
    np.testing.assert_allclose(model.predict(X), fitted(name).predict(X), rtol=1e-9)
    assert model.score(frame[["series", "t"]], frame["y"]) == pytest.approx(model.score(X, y), abs=1e-14)


def test_models_are_one_node_of_the_graph():
    model, X = fitted("CNFDensityEstimator"), rows("CNFDensityEstimator")
    few, many = (
        len(pickle.dumps(dict(model.score_samples(da.from_array(X, chunks=(n, 2))).__dask_graph__()))) for n in (30, 1)
    )
    size = len(pickle.dumps(model))
    assert few > size
    assert many < few + 15 * size


def test_nothing_of_dask_is_imported_without_need():
    code = (
        "import sys, numpy as np; from skode import CNFDensityEstimator;"
        "X = np.random.default_rng(0).normal(size=(40, 2));"
        "CNFDensityEstimator(hidden_layer_sizes=(4,), max_iter=1, stacking=False).fit(X).score_samples(X);"
        "sys.exit(any(name.partition('.')[0] in ('dask', 'distributed') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_what_needs_rows_says_how_to_have_them():
    with pytest.raises(TypeError, match=r"pass X.compute\(\)"):
        to_pandas(dd.from_pandas(pd.DataFrame({"a": [1.0, 2.0]}), npartitions=1))


def test_an_estimator_that_is_not_fitted_says_so():
    with pytest.raises(ValueError, match="not fitted"):
        CNFDensityEstimator().score_samples(da.zeros((4, 2)))
