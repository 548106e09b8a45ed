"""Forecasts of series as they are drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.dates import date2num
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from skode import LatentODERegressor
from skode.inspection import SeriesForecastDisplay

SIZES = {
    "latent_size": 2,
    "hidden_layer_sizes": (4,),
    "encoder_size": 4,
    "n_draws": 4,
    "max_iter": 2,
    "noise": "white",  # which spares a search
    "rtol": 1e-2,
    "atol": 1e-2,
}
RNG = np.random.default_rng(0)
NAMES = ["ann", "bob", "eve", "joe", "tim"]
X = pd.DataFrame(
    {
        "who": np.repeat(NAMES, 8),
        "when": np.sort(RNG.uniform(0, 10, (5, 8)), axis=1).ravel(),
        "sex": np.repeat([0, 1, 0, 1, 1], 8),
        "dose": RNG.standard_normal(40),
    }
).sample(frac=1.0, random_state=0, ignore_index=True)
Y = pd.DataFrame({"a": np.sin(X["when"]) + X["dose"], "b": 100 * np.cos(X["when"])}).mask(RNG.random((40, 2)) < 0.1)
DAY = pd.Timedelta(1, "D")


def latent(X, y, **given):
    return LatentODERegressor("who", "when", random_state=0, **{**SIZES, **given}).fit(X, y)


def dated(zone=None):
    return X.assign(when=pd.Timestamp("2020-03-25", tz=zone).as_unit("us") + (X["when"] * 1e6).astype(int) * DAY / 1e6)


@pytest.fixture(scope="module")
def fitted():
    return latent(X, Y, noise="coloured")


@pytest.fixture(scope="module")
def fitted_to_dates():
    return latent(dated("Europe/Berlin"), Y["a"])


def band_edges(band):
    """Lower and upper edge of a filled band, from its polygon: first point, lower edge, upper edge backward."""
    vertices = band.get_paths()[0].vertices
    n = (len(vertices) - 3) // 2
    return vertices[1 : n + 1], vertices[n + 2 : -1][::-1]


def test_panels_are_outputs_by_series_and_hold_mean_and_band_of_predict(fitted):
    times = np.linspace(-1, 15, 30)
    display = SeriesForecastDisplay.from_estimator(fitted, X, Y, series=["eve", "ann"], times=times, level=0.8)
    assert display.axes_.shape == display.lines_.shape == (2, 2)
    for j, name in enumerate(["eve", "ann"]):
        rows = X[X["who"] == name].sort_values("when")
        query = pd.DataFrame({"who": name, "when": times, "sex": rows["sex"].iloc[0]})
        query["dose"] = np.interp(times, rows["when"], rows["dose"])
        mean, ends = fitted.predict(query), fitted.predict_interval(query, level=0.8)
        for i in range(2):
            line, band = display.lines_[i, j], display.bands_[i, j]
            assert line.axes is band.axes is display.axes_[i, j]
            assert_array_equal(line.get_xdata(), times)
            assert_array_equal(line.get_ydata(), mean[:, i])
            lower, upper = band_edges(band)
            assert_array_equal(lower[:, 0], times)
            assert_array_equal(lower[:, 1], ends[:, i, 0])
            assert_array_equal(upper[:, 1], ends[:, i, 1])
    assert [ax.get_title() for ax in display.axes_[0]] == ["eve", "ann"]
    assert [ax.get_ylabel() for ax in display.axes_[:, 0]] == ["a", "b"]


def test_the_band_is_one_of_observations_noise_included(fitted):
    display = SeriesForecastDisplay.from_estimator(fitted, X, Y, series="bob")
    for i in range(2):
        lower, upper = band_edges(display.bands_[i, 0])
        white = fitted.noise_std_[i] * np.sqrt(1.0 - fitted.noise_share_[i])
        assert (upper[:, 1] - lower[:, 1] >= 2 * norm.ppf(0.95) * white).all()


@pytest.mark.parametrize("as_positions", [False, True])
def test_points_are_the_rows_of_the_series_seen_and_held_out(fitted, as_positions):
    held_out = (X["when"] > 7).to_numpy()
    given = np.flatnonzero(held_out) if as_positions else held_out
    display = SeriesForecastDisplay.from_estimator(fitted, X, Y, held_out=given)
    for j, name in enumerate(pd.unique(X["who"])[:3]):
        for i, output in enumerate(Y):
            for points, kind in ((display.points_, ~held_out), (display.held_out_points_, held_out)):
                own = (X["who"] == name) & kind & Y[output].notna()
                assert own.any()
                assert_array_equal(points[i, j].get_offsets(), np.column_stack([X["when"], Y[output]])[own.to_numpy()])
    seen, other = display.points_[0, 0], display.held_out_points_[0, 0]
    assert seen.get_paths()[0].vertices.shape != other.get_paths()[0].vertices.shape


def test_what_was_not_observed_has_no_points(fitted):
    display = SeriesForecastDisplay.from_estimator(fitted, X, Y.where(X["who"] != "bob"), series=["bob"])
    assert display.points_[0, 0] is None
    assert display.held_out_points_[0, 0] is None


def test_the_grid_spans_the_rows_and_goes_on_beyond(fitted):
    display = SeriesForecastDisplay.from_estimator(fitted, X, Y, series=["joe"])
    own = X.loc[X["who"] == "joe", "when"]
    drawn = display.lines_[0, 0].get_xdata()
    assert drawn[0] == own.min()
    assert_allclose(drawn[-1], own.max() + 0.25 * np.ptp(own))


def test_the_grid_is_finer_where_there_are_cycles():
    model = latent(dated(), Y["a"], periods=["8h"])
    display = SeriesForecastDisplay.from_estimator(model, dated(), Y["a"], series=["joe"])
    drawn = display.lines_[0, 0].get_xdata()
    assert np.diff(drawn).max() <= np.timedelta64(21, "m")  # an eighth of the third harmonic


def test_the_grid_of_a_single_row_is_as_long_as_a_typical_series(fitted):
    row = X[X["who"] == "joe"].head(1)
    display = SeriesForecastDisplay.from_estimator(fitted, row, Y.loc[row.index])
    spans = X.groupby("who")["when"].agg(np.ptp)
    assert_allclose(np.ptp(display.lines_[0, 0].get_xdata()), spans.median())


def test_outputs_are_chosen_by_name_or_position(fitted):
    def names(outputs):
        display = SeriesForecastDisplay.from_estimator(fitted, X, Y, series="eve", outputs=outputs)
        return [ax.get_ylabel() for ax in display.axes_[:, 0]]

    assert names("b") == names(1) == names([-1]) == ["b"]
    assert names(["b", "a"]) == ["b", "a"]


def test_one_output_is_one_row(fitted_to_dates):
    display = SeriesForecastDisplay.from_estimator(fitted_to_dates, dated("Europe/Berlin"), Y["a"])
    assert display.axes_.shape == (1, 3)
    assert display.axes_[0, 0].get_ylabel() == "a"


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_dates_stay_dates_in_their_time_zone(zone, fitted_to_dates):
    rows = dated(zone)
    estimator = fitted_to_dates if zone else latent(rows, Y["a"])
    display = SeriesForecastDisplay.from_estimator(estimator, rows, Y["a"], series="eve")
    own = (rows["who"] == "eve") & Y["a"].notna()
    assert_allclose(display.points_[0, 0].get_offsets()[:, 0], date2num(rows.loc[own, "when"].to_numpy()), atol=1e-9)
    line = display.lines_[0, 0]
    assert pd.Timestamp(line.get_xdata()[0]) == rows.loc[rows["who"] == "eve", "when"].min()
    assert str(pd.Timestamp(line.get_xdata()[0]).tz) == str(zone)
    display.figure_.canvas.draw()
    labels = [label.get_text() for label in display.axes_[0, 0].get_xticklabels()]
    assert "Apr" in labels
    # Midnight where the dates are from, on both sides of the change to summer time.
    ticks = pd.to_datetime(display.axes_[0, 0].get_xticks(), unit="D", utc=True).tz_convert(zone or "UTC")
    assert (ticks.round("s").hour == 0).all()


def test_times_of_a_grid_may_be_dates(fitted_to_dates):
    times = pd.date_range("2020-04-06", "2020-03-30", freq="-1D", tz="Europe/Berlin")
    display = SeriesForecastDisplay.from_estimator(
        fitted_to_dates, dated("Europe/Berlin"), Y["a"], series="eve", times=times
    )
    assert list(display.lines_[0, 0].get_xdata()) == list(times[::-1])


def test_rows_may_carry_series_and_times_in_their_index(fitted_to_dates):
    rows = dated("Europe/Berlin")
    flat = SeriesForecastDisplay.from_estimator(fitted_to_dates, rows, Y["a"], series="eve")
    for index in (["who", "when"], ["when"], ["who"]):
        display = SeriesForecastDisplay.from_estimator(fitted_to_dates, rows.set_index(index), Y["a"], series="eve")
        assert_array_equal(display.lines_[0, 0].get_ydata(), flat.lines_[0, 0].get_ydata())
        assert display.axes_[0, 0].get_xlabel() == "when"
        assert display.axes_[0, 0].get_title() == "eve"


def test_time_differences_are_drawn_in_a_unit_that_the_label_names():
    rows = X.assign(when=X["when"] * pd.Timedelta(1, "h"))
    display = SeriesForecastDisplay.from_estimator(latent(rows, Y["a"]), rows, Y["a"], series="eve")
    assert display.axes_[0, 0].get_xlabel() == "when (hours)"
    own = (X["who"] == "eve") & Y["a"].notna()
    assert_allclose(display.points_[0, 0].get_offsets()[:, 0], X.loc[own, "when"], atol=1e-6)


def test_arrays_will_do():
    array = np.column_stack([X["when"], pd.factorize(X["who"], sort=True)[0], X["dose"]])
    estimator = LatentODERegressor(series=1, time=0, random_state=0, **SIZES).fit(array, Y["a"].to_numpy())
    times = np.linspace(0, 12, 9)
    display = SeriesForecastDisplay.from_estimator(estimator, array, Y["a"].to_numpy(), series=[4.0, 0.0], times=times)
    own = array[array[:, 1] == 4.0]
    own = own[np.argsort(own[:, 0])]
    query = np.column_stack([times, np.full(9, 4.0), np.interp(times, own[:, 0], own[:, 2])])
    assert_array_equal(display.lines_[0, 0].get_ydata(), estimator.predict(query))
    assert display.axes_[0, 0].get_title() == "series 4.0"
    assert display.axes_[0, 0].get_xlabel() == "time"


def test_a_single_series_needs_no_title():
    one = X.loc[X["who"] == "eve", ["when"]]
    estimator = LatentODERegressor(random_state=0, **SIZES).fit(one, Y.loc[one.index, "a"])
    display = SeriesForecastDisplay.from_estimator(estimator, one, Y.loc[one.index, "a"])
    assert display.axes_.shape == (1, 1)
    assert display.axes_[0, 0].get_title() == ""
    assert len(display.points_[0, 0].get_offsets()) == Y.loc[one.index, "a"].notna().sum()


def test_a_series_never_seen_is_answered_from_the_prior_and_says_so(fitted):
    rows = X.assign(who=X["who"].replace("eve", "zoe"))
    display = SeriesForecastDisplay.from_estimator(fitted, rows, Y, series=["zoe", "ann"])
    assert [ax.get_title() for ax in display.axes_[0]] == ["zoe, never seen: prior", "ann"]


def test_or_from_those_of_its_rows_that_are_not_held_out(fitted):
    rows = X.assign(who=X["who"].replace("eve", "zoe"))
    held_out = rows["when"] > 5
    context = fitted.context_
    display = SeriesForecastDisplay.from_estimator(
        fitted, rows, Y, series=["zoe", "ann"], times=[2.0, 8.0], held_out=held_out, condition=True
    )
    assert [ax.get_title() for ax in display.axes_[0]] == ["zoe", "ann"]
    told = (rows["who"] == "zoe") & ~held_out
    own = rows[rows["who"] == "zoe"].sort_values("when")
    query = own.head(2).assign(when=[2.0, 8.0], dose=np.interp([2.0, 8.0], own["when"], own["dose"]))
    mean = fitted.condition(rows[told], Y[told]).predict(query)
    assert_array_equal(display.lines_[0, 0].get_ydata(), mean[:, 0])
    # What was known before is not told a second time, and the estimator stays as it is.
    without = SeriesForecastDisplay.from_estimator(fitted, rows, Y, series=["zoe", "ann"], times=[2.0, 8.0])
    assert_array_equal(display.lines_[0, 1].get_ydata(), without.lines_[0, 1].get_ydata())
    assert (display.lines_[0, 0].get_ydata() != without.lines_[0, 0].get_ydata()).all()
    assert fitted.context_ is context


def test_counts_have_a_band_above_0_and_binary_values_have_none():
    counts = (X["when"] > 5).astype(int)
    display = SeriesForecastDisplay.from_estimator(
        poisson := latent(X, counts, likelihood="poisson"), X, counts, series="eve", times=[1.0, 4.0, 9.0]
    )
    rows = X[X["who"] == "eve"].sort_values("when")
    query = rows.head(3).assign(when=[1.0, 4.0, 9.0])
    ends = poisson.predict_interval(query.assign(dose=np.interp(query["when"], rows["when"], rows["dose"])))
    lower, upper = band_edges(display.bands_[0, 0])
    assert_array_equal(lower[:, 1], ends[:, 0])
    assert_array_equal(upper[:, 1], ends[:, 1])
    assert (lower[:, 1] >= 0).all()

    binary = latent(X, counts, likelihood="bernoulli")
    display = SeriesForecastDisplay.from_estimator(binary, X, counts, series="eve", times=[1.0, 4.0, 9.0])
    assert display.bands_[0, 0] is None
    mean, std = binary.predict(query, return_std=True)
    assert_allclose(std, np.sqrt(mean * (1 - mean)), rtol=1e-6)  # which is why


def test_a_display_is_drawn_again_on_other_axes(fitted):
    display = SeriesForecastDisplay.from_estimator(fitted, X, Y, series=["eve", "ann"], outputs="a")
    mean = display.lines_[0, 1].get_ydata()
    figure, axes = plt.subplots(2, 1)
    assert display.plot(axes, line_kw={"color": "red"}, points_kw={"s": 50}) is display
    assert display.figure_ is figure
    assert display.lines_[0, 1].axes is axes[1]
    assert_array_equal(display.lines_[0, 1].get_ydata(), mean)
    assert display.lines_[0, 0].get_color() == "red"
    assert display.points_[0, 0].get_sizes() == [50]
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert legend == ["mean", "90 % band", "observed"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"series": "max"}, "series='max' must name series of X, but X has no row of 'max'"),
        ({"series": ["eve", 3]}, r"series=\['eve', 3\] must name series of X, but X has no row of 3"),
        ({"series": []}, r"series=\[\] must name series of X, but it names none"),
        ({"times": [pd.Timestamp("2020-01-01")]}, "times holds a date, but the time column of X a number"),
        ({"times": 5.0}, "times must have one dimension .* got 5.0"),
        ({"times": []}, r"times must have one dimension and hold one time at least; got \[\]"),
        ({"level": 90}, "level must be a probability between 0 and 1; got 90"),
        ({"level": "wide"}, "level must be a probability between 0 and 1; got 'wide'"),
        ({"outputs": ["a", "c"]}, r"outputs=\['a', 'c'\] holds 'c', but the outputs are \['a', 'b'\]"),
        ({"outputs": 2}, "outputs=2 holds 2, but the outputs are"),
        ({"outputs": []}, r"outputs=\[\] must name one output at least"),
        ({"held_out": [True, False]}, "held_out must be a mask of the 40 rows of X, or positions of rows"),
        ({"held_out": [40]}, r"held_out must be a mask of the 40 rows of X, or positions of rows; got \[40\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused(fitted, given, message):
    with pytest.raises(ValueError, match=message):
        SeriesForecastDisplay.from_estimator(fitted, X, Y, **given)
    assert plt.get_fignums() == []


def test_axes_must_be_as_many_as_panels(fitted):
    with pytest.raises(ValueError, match="axes must be 6, one for each panel; got 1"):
        SeriesForecastDisplay.from_estimator(fitted, X, Y, axes=plt.subplots()[1])


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match=r"estimator must be a LatentODERegressor; got LinearRegression\(\)"):
        SeriesForecastDisplay.from_estimator(LinearRegression(), X, Y)
    with pytest.raises(NotFittedError):
        SeriesForecastDisplay.from_estimator(LatentODERegressor("who", "when"), X, Y)


def test_numbers_are_titled_by_what_they_number():
    rows = X.assign(who=X["who"].map(NAMES.index))
    display = SeriesForecastDisplay.from_estimator(latent(rows, Y["a"]), rows, Y["a"], series=[2, 4])
    assert [ax.get_title() for ax in display.axes_[0]] == ["who 2", "who 4"]


def test_the_legend_is_below_the_panels_and_names_what_any_of_them_holds(fitted):
    held_out = (X["who"] == "ann").to_numpy()
    display = SeriesForecastDisplay.from_estimator(fitted, X, Y, series=["eve", "ann"], held_out=held_out)
    assert [text.get_text() for text in display.legend_.get_texts()] == ["mean", "90 % band", "observed", "held out"]
    display.figure_.canvas.draw()
    legend = display.legend_.get_window_extent()
    assert all(ax.get_tightbbox().y0 > legend.y1 for ax in display.axes_.flat)
    assert display.figure_.bbox.x0 <= legend.x0 < legend.x1 <= display.figure_.bbox.x1
    _, axes = plt.subplots(2, 2)
    assert display.plot(axes).legend_ is axes[0, 0].get_legend()
    assert len(display.legend_.get_texts()) == 4


def test_the_legend_of_a_single_panel_fits_its_figure(fitted):
    display = SeriesForecastDisplay.from_estimator(fitted, X, Y, series="eve", outputs="a", held_out=X["when"] > 5)
    display.figure_.canvas.draw()
    legend = display.legend_.get_window_extent()
    assert display.figure_.bbox.x0 <= legend.x0 < legend.x1 <= display.figure_.bbox.x1


def test_ids_of_another_type_are_warned_of_but_where_they_are_taken_in(fitted):
    rows = X.assign(who=X["who"].map(NAMES.index))
    with pytest.warns(UserWarning, match="ids are integer here, but were string in fit"):
        SeriesForecastDisplay.from_estimator(fitted, rows, Y, series=2)
    display = SeriesForecastDisplay.from_estimator(fitted, rows, Y, series=2, condition=True)  # warnings are errors
    assert display.axes_[0, 0].get_title() == "who 2"
