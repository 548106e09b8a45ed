"""The same table as a frame of any library, of any dtypes: one internal form, and the same answers and messages."""

import subprocess
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.frames import read_rows, read_targets
from skode.inspection import DensityDisplay, SeriesForecastDisplay, ToleranceDisplay, TrajectoryDisplay
from skode.model_selection import ContinuationScorer, ForecastSplit, PrefixSplit
from skode.training import as_python, dataframes, to_pandas

pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")

#: What a pyarrow table, of which a column is a chunked array, is brought to.
FORMS = {
    "pandas with pyarrow's dtypes": lambda data: data.to_pandas(types_mapper=pd.ArrowDtype),
    "polars": pl.from_arrow,
    "pyarrow": lambda data: data,
}


def table(frame):
    return pa.Table.from_pandas(frame, preserve_index=False)


def in_form(form, data):
    """A pandas frame or series in another form."""
    frame = data if isinstance(data, pd.DataFrame) else data.to_frame()
    frame = FORMS[form](table(frame))
    return frame if isinstance(data, pd.DataFrame) else frame[data.name]


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


# One column

MIDNIGHTS = [datetime(2024, 3, 30), datetime(2024, 4, 1)]
COLUMNS = {
    "int64": (pa.int64(), [2**60 + 1, -3], "int64"),
    "uint8": (pa.uint8(), [1, 255], "uint8"),
    "float32": (pa.float32(), [1.5, -2.0], "float32"),
    "float16": (pa.float16(), [1.5, -2.0], "float16"),
    "bool": (pa.bool_(), [True, False], "bool"),
    "timestamp": (pa.timestamp("us"), MIDNIGHTS, "datetime64[us]"),
    "timestamp ns": (pa.timestamp("ns"), MIDNIGHTS, "datetime64[ns]"),
    "timestamp with a zone": (pa.timestamp("ms", "Europe/Berlin"), MIDNIGHTS, "datetime64[ms, Europe/Berlin]"),
    "timestamp with an offset": (pa.timestamp("us", "UTC"), MIDNIGHTS, "datetime64[us, UTC]"),
    "duration": (pa.duration("us"), [timedelta(1), timedelta(hours=-1)], "timedelta64[us]"),
    "string": (pa.string(), ["b", "a"], "str"),
    "large string": (pa.large_string(), ["b", ""], "str"),
    "string view": (pa.string_view(), ["b", "a longer one that is kept elsewhere"], "str"),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["b", "a"], "category"),
    "decimal": (pa.decimal128(38, 1), [Decimal("1.5"), Decimal(10) ** 30], object),
    "time of day": (pa.time64("us"), [time(1), time(2)], object),
    "bytes": (pa.binary(), [b"b", b"a"], object),
}


def column(name, missing, form):
    dtype, values, _ = COLUMNS[name]
    values = values[:1] + [None] * missing + values[1:]
    # In two pieces, the second with a dictionary of its own.
    chunks = pa.chunked_array([pa.array(values, dtype), pa.array(values[::-1], dtype)])
    return FORMS[form](pa.table({"c": chunks}))["c"], values + values[::-1]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_has_the_dtype_that_pandas_has_without_pyarrow(name, form):
    given, values = column(name, 0, form)
    found = to_pandas(given, "c")
    dtype = COLUMNS[name][2]
    assert found.dtype == dtype
    if "UTC" in str(found.dtype) or "Berlin" in str(found.dtype):  # pyarrow takes times without a zone for those of UTC
        values = [pd.Timestamp(value, tz="UTC") for value in values]
    assert found.tolist() == pd.Series(values, dtype=dtype).tolist()


@pytest.mark.parametrize("name", COLUMNS)
def test_what_is_missing_stays_missing_and_nothing_else_does(name, form):
    given, values = column(name, 1, form)
    found = to_pandas(given, "c")
    assert found.isna().tolist() == [value is None for value in values]
    present = [value for value in values if value is not None]
    if not name.startswith("timestamp"):
        np.testing.assert_array_equal(np.asarray(found.dropna().tolist()), np.asarray(pd.Series(present).tolist()))


@pytest.mark.parametrize("dtype", [pa.date32(), pa.date64()], ids=str)
def test_days_are_dates(dtype, form):
    days = [date(1970, 1, 3), None, date(2999, 12, 31)]
    found = to_pandas(FORMS[form](pa.table({"c": pa.array(days, dtype)}))["c"])
    assert found.dtype.kind == "M"
    assert found.tolist() == [pd.Timestamp(days[0]), pd.NaT, pd.Timestamp(days[2])]


def test_instants_are_not_moved_by_their_zone(form):
    instants = (
        pd.date_range("2024-03-30 22:00", periods=8, freq="h", tz="UTC").tz_convert("Europe/Berlin").as_unit("us")
    )
    found = to_pandas(in_form(form, pd.Series(instants, name="c")))
    assert found.dt.tz is not None
    assert found.tolist() == instants.tolist()


def test_what_numpy_has_no_dtype_for_is_an_object():
    wide = pl.Series("c", [2**100, None], dtype=pl.Int128)
    assert to_pandas(wide).tolist() == [2**100, None]
    assert to_pandas(pl.Series("c", [[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2))).tolist() == [[1, 2], [3, 4]]
    assert to_pandas(pl.Series("c", [{"a": 1}, {"a": 2}])).tolist() == [{"a": 1}, {"a": 2}]
    assert to_pandas(pl.Series("c", [None, None])).isna().all()


def test_numbers_of_a_dictionary_are_categories_of_numbers():
    numbers = pa.chunked_array([pa.array([7, None]).dictionary_encode(), pa.array([5, 7]).dictionary_encode()])
    for given in (numbers, pd.Series(pd.arrays.ArrowExtensionArray(numbers))):
        found = to_pandas(given)
        assert found.dtype.categories.dtype == np.int64
        np.testing.assert_array_equal(found.astype(float), [7, np.nan, 5, 7])


def test_categories_of_pyarrows_dtypes_are_categories_of_numpys():
    given = pd.Series(pd.date_range("2024-01-01", periods=3)).astype("timestamp[us][pyarrow]").astype("category")
    found = to_pandas(given)
    assert found.dtype.categories.dtype == "datetime64[us]"
    assert found.tolist() == given.tolist()


# Whole frames


def test_a_frame_keeps_its_names_their_order_and_its_length(form):
    frame = pd.DataFrame({"b": [1, 2, 3], "a": ["x", "y", "z"], "x y": [True, False, True]})
    pd.testing.assert_frame_equal(to_pandas(in_form(form, frame)), frame)
    assert to_pandas(in_form(form, frame.iloc[:0])).shape == (0, 3)


def test_what_is_pandas_with_numpys_dtypes_or_no_frame_at_all_is_not_touched():
    frame = pd.DataFrame({"a": [1.0], "b": ["x"], "c": pd.Categorical(["y"]), "d": pd.array([1], "Int64")})
    for same in (frame, frame["a"], np.eye(2), [[1.0]], None, "auto", 3):
        assert to_pandas(same) is same


def test_columns_are_replaced_in_a_copy():
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}, index=[7, 7]).astype({"a": "int64[pyarrow]"})
    found = to_pandas(frame)
    assert frame["a"].dtype == "int64[pyarrow]"
    pd.testing.assert_frame_equal(found, pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}, index=[7, 7]))


@pytest.mark.parametrize("by", ["id", ["id", "t"], ["t", "n"]], ids=str)
def test_levels_of_the_index_are_brought_to_numpys_dtypes_as_columns_are(by):
    frame = pd.DataFrame({"id": ["b", "a", "b"], "t": pd.date_range("2024-01-01", periods=3), "n": [1, 2, 3]})
    arrow = in_form("pandas with pyarrow's dtypes", frame)
    found = to_pandas(arrow.set_index(by))
    pd.testing.assert_frame_equal(found.reset_index()[["id", "t", "n"]], frame, check_dtype=True)


def test_columns_of_one_name_stay_two():
    given = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    frame = to_pandas(given)
    assert frame.columns.tolist() == ["a", "a"]
    assert frame.to_numpy().tolist() == [[1, 2]]


def test_batches_of_records_and_flat_arrays_of_pyarrow_are_read():
    assert to_pandas(pa.RecordBatch.from_pydict({"a": [1, 2]})).to_dict("list") == {"a": [1, 2]}
    assert to_pandas(pa.array([1, None])).isna().tolist() == [False, True]


def test_an_index_that_pandas_left_in_a_table_is_a_column_there():
    frame = pd.DataFrame({"dose": [1.0, 2.0]}, index=pd.Index(["a", "b"], name="id"))
    assert to_pandas(pa.Table.from_pandas(frame)).columns.tolist() == ["dose", "id"]


def test_lazy_frames_are_told_to_be_collected():
    with pytest.raises(TypeError, match=r"X is a lazy frame, which has no rows yet: pass X\.collect\(\)"):
        ODENetRegressor().fit(pl.LazyFrame({"a": [1.0]}), [1.0])
    with pytest.raises(TypeError, match="sample_weight is a lazy frame"):
        ODENetRegressor().fit([[1.0]], [1.0], pl.LazyFrame({"a": [1.0]}))


def test_polars_is_read_where_there_is_no_pyarrow():
    code = """
import sys
sys.modules["pyarrow"] = None
import importlib.util
spec = importlib.util.spec_from_file_location("dataframes", sys.argv[1])
dataframes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dataframes)
import polars as pl
from datetime import date, datetime, timedelta
frame = pl.DataFrame({
    "id": ["a", "b"], "day": [date(2024, 1, 1)] * 2, "when": [datetime(2024, 1, 1)] * 2, "n": [1, None],
    "since": [timedelta(1)] * 2, "kind": pl.Series(["x", None], dtype=pl.Categorical), "on": [True, False],
    "price": pl.Series(["1.5", "2"]).str.to_decimal(scale=1),
})
frame = frame.with_columns(local=pl.col("when").dt.replace_time_zone("Europe/Berlin"))
print(dataframes.to_pandas(frame).dtypes.astype(str).tolist())
"""
    command = [sys.executable, "-c", code, str(Path(dataframes.__file__))]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    of_dates = "'datetime64[s]', 'datetime64[us]', 'float64', 'timedelta64[us]', 'category', 'bool', 'object'"
    assert out.strip() == f"['str', {of_dates}, 'datetime64[us, Europe/Berlin]']"


# The estimators

N_SERIES, N_ROWS = 5, 8
QUICK = {"hidden_layer_sizes": (4,), "max_iter": 1, "random_state": 0}
QUICK_SERIES = {
    **QUICK,
    "latent_size": 2,
    "encoder_size": 4,
    "posterior": "encoder",
    "n_draws": 2,
    "early_stopping": False,
}


@pytest.fixture(scope="module")
def panel():
    """Series with dates, a covariate that is true or false and one of decimals, and two outputs of which some miss."""
    rng = np.random.default_rng(0)
    n = N_SERIES * N_ROWS
    hours = np.tile(np.arange(N_ROWS) * 6, N_SERIES) + rng.integers(0, 5, n)
    X = pd.DataFrame(
        {
            "site": np.repeat(list("edcba"), N_ROWS),
            "when": pd.Timestamp("2024-03-30") + pd.to_timedelta(hours, unit="h"),
            "open": rng.random(n) < 0.5,
            "dose": [Decimal(int(k)) / 4 for k in rng.integers(0, 9, n)],
        }
    )
    y = pd.DataFrame({"level": np.sin(hours / 9), "flow": np.cos(hours / 9)})
    y.loc[rng.random(n) < 0.2, "flow"] = np.nan
    return X, y


@pytest.fixture(scope="module")
def series_model(panel):
    return LatentODERegressor("site", "when", **QUICK_SERIES).fit(*panel)


def test_a_latent_ode_answers_alike(form, panel, series_model):
    X, y = (in_form(form, part) for part in panel)
    model = clone(series_model).fit(X, y)
    assert model.feature_names_in_.tolist() == ["site", "when", "open", "dose"]
    assert model.latent_states().index.tolist() == series_model.latent_states().index.tolist()
    assert model.score(X, y) == series_model.score(*panel)
    np.testing.assert_array_equal(model.predict(X), series_model.predict(panel[0]))
    np.testing.assert_array_equal(model.score_samples(X, y), series_model.score_samples(*panel))
    np.testing.assert_array_equal(model.transform(X), series_model.transform(panel[0]))
    np.testing.assert_array_equal(model.sample_y(X, 2), series_model.sample_y(panel[0], 2))
    pd.testing.assert_frame_equal(
        model.sample(1, times=X["when"][:3], random_state=0),
        series_model.sample(1, panel[0]["when"][:3], random_state=0),
    )


def test_what_was_fitted_to_one_form_takes_another(form, panel, series_model):
    X, y = (in_form(form, part) for part in panel)
    new = panel[0].assign(site="z"), panel[1]
    expected = series_model.condition(*new).predict(new[0])
    conditioned = series_model.condition(*(in_form(form, part) for part in new))
    np.testing.assert_array_equal(conditioned.predict(in_form(form, new[0])), expected)
    np.testing.assert_array_equal(series_model.predict(X), series_model.predict(panel[0]))
    assert series_model.score(X, panel[1]) == series_model.score(panel[0], y)


@pytest.mark.parametrize("ids", ["categories", "days", "instants", "decimals", "bytes"])
def test_ids_of_any_kind_name_the_same_series(ids, form, panel, series_model):
    codes = pd.Series(np.repeat(np.arange(N_SERIES), N_ROWS), name="site")
    kinds = {
        "categories": codes.astype(str).astype("category"),
        "days": pd.Timestamp("2024-01-01") + pd.to_timedelta(codes, unit="D"),
        "instants": pd.Timestamp("2024-01-01", tz="Europe/Berlin") + pd.to_timedelta(codes, unit="D"),
        "decimals": pd.Series([Decimal(10**25 + int(k)) for k in codes], name="site"),  # equal, as float64
        "bytes": pd.Series([b"%d" % k for k in codes], name="site"),
    }
    X = pd.DataFrame({"site": kinds[ids], "when": panel[0]["when"]})
    rows, others = (
        read_rows(clone(series_model), part, series="site", time="when", reset=True) for part in (X, in_form(form, X))
    )
    assert pd.factorize(rows.series)[0].tolist() == pd.factorize(others.series)[0].tolist() == codes.tolist()
    assert (pd.Index(pd.unique(rows.series)).get_indexer(pd.Index(others.series)) == codes).all()


TIMES = {
    "instants": pd.date_range("2024-03-30", periods=6, freq="7h", tz="Europe/Berlin"),
    "differences": pd.to_timedelta(np.arange(6.0) * 1.5, unit="h"),
    "days": [date(2024, 1, day) for day in range(1, 7)],
    "decimals": [Decimal(k) / 2 for k in range(6)],
    "integers": np.arange(6) * 2,
    "far": np.array(["0800-01-01", "3000-01-01"] * 3, dtype="datetime64[s]"),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_any_kind_are_the_same_times(kind, form, series_model):
    X = pd.DataFrame({"site": list("aabbbb"), "when": TIMES[kind]})
    rows, others = (
        read_rows(clone(series_model), part, series="site", time="when", reset=True) for part in (X, in_form(form, X))
    )
    assert rows.time.tolist() == others.time.tolist()
    assert rows.time_kind == others.time_kind


SPLITTERS = {
    "horizon": ForecastSplit(2, series="site", time="when", horizon=timedelta(hours=9)),
    "fraction": ForecastSplit(3, series="site", time="when", gap=np.timedelta64(1, "h")),
    "prefix": PrefixSplit(2, series=0, time=1),
}


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_splitters_part_rows_alike(splitter, form, panel):
    folds, others = (list(SPLITTERS[splitter].split(X)) for X in (panel[0], in_form(form, panel[0])))
    for fold, other in zip(folds, others, strict=True):
        np.testing.assert_array_equal(np.concatenate(fold), np.concatenate(other))


def test_cross_validation_scores_alike(form, panel, series_model):
    model = clone(series_model)
    scoring = ContinuationScorer(0.4, scoring="neg_mean_absolute_error")
    data = [tuple(in_form(form, part) for part in panel), panel]
    scores = [cross_val_score(model, *each, cv=SPLITTERS["prefix"], scoring=scoring) for each in data]
    np.testing.assert_array_equal(*scores)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.normal(size=(40, 3)), columns=["a", "b", "c"])
    return X.assign(count=rng.integers(0, 1000, 40), price=[Decimal(int(k)) / 4 for k in rng.integers(0, 900, 40)])


LABELS = {
    "text": lambda X: pd.Series(np.where(X["a"] > 0, "yes", "no"), name="y"),
    "booleans": lambda X: (X["a"] > 0).rename("y"),
    "integers": lambda X: (X["a"] > 0).astype(int).rename("y"),
    "categories": lambda X: pd.Series(np.where(X["a"] > 0, "yes", "no"), name="y", dtype="category"),
    "several": lambda X: (X[["a", "b"]] > 0).astype(int),
}


@pytest.mark.parametrize("labels", LABELS)
def test_a_classifier_answers_alike(labels, form, samples):
    y = LABELS[labels](samples)
    X, own_y = in_form(form, samples), in_form(form, y)
    expected, model = ODENetClassifier(**QUICK).fit(samples, y), ODENetClassifier(**QUICK).fit(X, own_y)
    assert model.classes_.tolist() == expected.classes_.tolist()
    assert model.classes_.dtype == expected.classes_.dtype
    assert model.feature_names_in_.tolist() == samples.columns.tolist()
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(samples))
    np.testing.assert_array_equal(model.predict(X), expected.predict(samples))


def test_a_regressor_answers_alike(form, samples):
    X, y, weights = (in_form(form, part) for part in (samples, samples["a"], samples["count"]))
    expected = ODENetRegressor(**QUICK, learning_rate="cosine").fit(samples, samples["a"], samples["count"])
    model = ODENetRegressor(**QUICK, learning_rate="cosine").fit(X, y, weights)
    np.testing.assert_array_equal(model.predict(X), expected.predict(samples))
    assert model.score(X, y, weights) == expected.score(samples, samples["a"], samples["count"])


def test_a_density_answers_alike(form, samples):
    X = in_form(form, samples)
    expected, model = CNFDensityEstimator(**QUICK).fit(samples), CNFDensityEstimator(**QUICK).fit(X)
    assert model.score(X) == expected.score(samples)
    base = pd.DataFrame(expected.transform(samples), columns=[f"z{k}" for k in range(5)])
    np.testing.assert_array_equal(model.inverse_transform(in_form(form, base)), expected.inverse_transform(base))


def test_single_precision_stays_single(form, samples):
    X = samples[["a", "b"]].astype(np.float32)
    expected = ODENetRegressor(**QUICK, learning_rate="cosine").fit(X, X["a"])
    model = ODENetRegressor(**QUICK, learning_rate="cosine").fit(in_form(form, X), in_form(form, X["a"]))
    assert model.predict(in_form(form, X)).dtype == np.float32 == expected.predict(X).dtype
    np.testing.assert_array_equal(model.predict(in_form(form, X)), expected.predict(X))


@pytest.mark.parametrize("container", ["polars", "pandas"])
def test_answers_come_in_the_frames_that_set_output_names(container, form, panel, series_model, samples):
    frame_type = {"polars": pl.DataFrame, "pandas": pd.DataFrame}[container]
    for model, X in (
        (clone(series_model).fit(*panel), panel[0]),
        (CNFDensityEstimator(**QUICK).fit(samples), samples),
        (ODENetRegressor(**QUICK, learning_rate="cosine").fit(samples, samples["a"]), samples),
    ):
        answer = model.set_output(transform=container).transform(in_form(form, X))
        assert isinstance(answer, frame_type)
        assert list(answer.columns) == model.get_feature_names_out().tolist()


def test_steps_in_front_of_a_latent_ode_may_answer_in_polars(panel, series_model):
    X, y = panel
    numbers = pd.DataFrame({"t": np.tile(np.arange(8.0), N_SERIES), "dose": X["dose"].astype(float)})
    model = LatentODERegressor(None, "t", **QUICK_SERIES)
    pipelines = [
        make_pipeline(StandardScaler().set_output(transform=form), clone(model)) for form in ("pandas", "polars")
    ]
    expected, found = (pipeline.fit(numbers, y).predict(numbers) for pipeline in pipelines)
    np.testing.assert_array_equal(found, expected)


# Displays


@pytest.fixture
def pyplot():
    matplotlib.use("Agg")
    yield matplotlib.pyplot
    matplotlib.pyplot.close("all")


@pytest.mark.usefixtures("pyplot")
def test_forecasts_are_drawn_alike(form, panel, series_model):
    X, y = (in_form(form, part) for part in panel)
    aside = pd.Series(np.arange(len(panel[0])) % 8 == 7, name="aside")
    settings = {"series": ["c", "a"], "times": panel[0]["when"][:8]}
    own = {"series": in_form(form, pd.Series(["c", "a"], name="s")), "times": in_form(form, panel[0]["when"][:8])}
    expected = SeriesForecastDisplay.from_estimator(series_model, *panel, held_out=aside, **settings)
    found = SeriesForecastDisplay.from_estimator(series_model, X, y, held_out=in_form(form, aside), **own)
    for ours, theirs in zip(found.forecasts, expected.forecasts, strict=True):
        assert ours.series == theirs.series
        np.testing.assert_array_equal(ours.mean, theirs.mean)
        np.testing.assert_array_equal(ours.times, theirs.times)
        np.testing.assert_array_equal(ours.held_out, theirs.held_out)
    assert (found.time_name, found.series_name, found.output_names) == ("when", "site", ["level", "flow"])


@pytest.mark.usefixtures("pyplot")
def test_paths_densities_and_tolerances_are_drawn_alike(form, panel, series_model, samples):
    X, table = in_form(form, panel[0]), in_form(form, samples)
    paths = [TrajectoryDisplay.from_estimator(series_model, x, c=x["site"]) for x in (panel[0], X)]
    assert [list(path.c) for path in paths] == [list("edcba")] * 2
    np.testing.assert_array_equal(paths[0].states[1], paths[1].states[1])
    density = CNFDensityEstimator(**QUICK).fit(samples)
    grids = [
        DensityDisplay.from_estimator(density, x, columns=["a", "count"], fixed={"price": 9}, grid_resolution=5)
        for x in (samples, table)
    ]
    np.testing.assert_array_equal(grids[0].log_density, grids[1].log_density)
    assert grids[1].xlabel == "a"
    regressor = ODENetRegressor(**QUICK, learning_rate="cosine").fit(samples, samples["a"])
    curves = [
        ToleranceDisplay.from_estimator(regressor, x, x["a"], tolerances=[1e-1, 1e-3]).curve["score"]
        for x in (samples, table)
    ]
    np.testing.assert_array_equal(*curves)


# Messages


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("dose", ["low", "high"], r"The covariate 'dose' holds str; covariates must be numbers\. One-hot encode it"),
        ("dose", [1.0, None], r"The covariate 'dose' has missing values \(NaN\)"),
        ("dose", [1.0, np.inf], "The covariate 'dose' contains infinity"),
        ("dose", pd.to_datetime(["2024-01-01", "2024-01-02"]), r"The covariate 'dose' holds datetime64\[us\]"),
        ("dose", pd.Categorical(["low", "high"]), "The covariate 'dose' holds categories of str"),
        ("dose", [time(1), time(2)], r"The covariate 'dose' holds object \(time\)"),
        ("when", ["2024-01-01", "2024-01-02"], r"The time column 'when' holds str; .*pd.to_datetime turns strings"),
        ("when", pd.to_datetime(["2024-01-01", None]), r"The time column 'when' has missing values \(NaN\) in 1 of 2"),
        ("when", [True, False], "The time column 'when' holds bool"),
        ("site", ["a", None], "The series column 'site' has missing values in 1 of 2 rows"),
        ("site", pd.Categorical(["a", None]), "The series column 'site' has missing values in 1 of 2 rows"),
    ],
)
def test_messages_about_columns_of_a_long_frame_are_the_same(column, values, message, form):
    X = pd.DataFrame({"site": ["a", "a"], "when": [0.0, 1.0], "dose": [1.0, 2.0]}).assign(**{column: values})
    for x in (X, in_form(form, X)):
        with pytest.raises(ValueError, match=message):
            LatentODERegressor("site", "when").fit(x, [1.0, 2.0])


def test_messages_about_names_of_columns_are_the_same(form, panel, series_model):
    for X in (panel[0], in_form(form, panel[0])):
        with pytest.raises(
            ValueError, match=r"time='day' is not a column of X; its columns are \['site', 'when', 'open'"
        ):
            LatentODERegressor("site", "day").fit(X, panel[1])
        with pytest.raises(ValueError, match=r"series='day' is not a column of X; its columns are \['site', 'when'"):
            next(PrefixSplit(2, series="day").split(X))
    turned = panel[0][["when", "site", "open", "dose"]]
    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
        series_model.predict(in_form(form, turned))
    with pytest.raises(ValueError, match=r"y has the columns \['flow', 'level'\], but in fit they were"):
        series_model.score(panel[0], in_form(form, panel[1][["flow", "level"]]))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["x", "y"], "str"),
        (pd.Categorical(["x", "y"]), "category"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), r"datetime64\[us\]"),
        (pd.to_timedelta([1, 2], unit="s").as_unit("us"), r"timedelta64\[us\]"),
    ],
    ids=["text", "category", "date", "difference"],
)
def test_columns_that_hold_no_numbers_are_named_alike(values, kind, form):
    X = pd.DataFrame({"a": [1.0, 2.0], "c": values})
    for x in (X, in_form(form, X)):
        for model, y in (
            (ODENetClassifier(categorical_features=None), ["u", "v"]),
            (ODENetRegressor(categorical_features=None), [1.0, 2.0]),
            (CNFDensityEstimator(categorical_features=None), None),
        ):
            with pytest.raises(ValueError, match=rf"X has columns that hold no numbers: {{'c': '{kind}'}}"):
                model.fit(x, y)


def test_targets_that_are_text_or_miss_are_told_alike(form):
    X = pd.DataFrame({"site": ["a", "a"], "when": [0.0, 1.0]})
    text, missing = pd.Series(["low", "high"], name="y"), pd.Series([1.0, None], name="y")
    for t, m in ((text, missing), (in_form(form, text), in_form(form, missing))):
        with pytest.raises(ValueError, match=r"y holds text \('low'\); it must hold numbers"):
            read_targets(t, 2)
        with pytest.raises(ValueError, match=r"y holds text \(such as 'low'\), but ODENetRegressor predicts numbers"):
            ODENetRegressor().fit(X[["when"]], t)
        np.testing.assert_array_equal(read_targets(m, 2), [[1.0], [np.nan]])
        with pytest.raises(ValueError, match="Input y contains NaN"):
            ODENetRegressor().fit(X[["when"]], m)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.str_("yes"), "'yes'"),
        (np.int64(7), "7"),
        (np.float32(0.5), "0.5"),
        (np.bool_(True), "True"),
        (np.bytes_(b"a"), "b'a'"),
        (np.datetime64("2024-01-01T12:00", "ns"), "'2024-01-01T12:00:00.000000000'"),
        (("a", 1), "('a', 1)"),
    ],
    ids=str,
)
def test_a_message_shows_a_scalar_of_numpy_as_python_writes_it(value, shown):
    assert repr(as_python(value)) == shown
