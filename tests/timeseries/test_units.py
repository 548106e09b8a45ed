"""Units of the user against those of the model."""

import numpy as np
import pandas as pd
import pytest
import torch

from skode.frames import take_apart
from skode.timeseries.latent_ode import HORIZON, LEAD
from skode.timeseries.units import Units

FRAME = pd.DataFrame(
    {"id": [1, 0, 1, 0, 2], "t": [4.0, 1.0, 2.0, 3.0, 0.5], "u": [1.0, 2.0, 3.0, 4.0, 5.0]},
)
Y = pd.DataFrame({"a": [1.0, 2.0, np.nan, 4.0, 5.0], "b": [0.0, 10.0, 20.0, 30.0, 40.0]})


def rows_of(frame=FRAME):
    return take_apart(frame, series="id", time="t")


def units_of(y=Y, frame=FRAME, standardise=True):
    rows = rows_of(frame)
    return Units.learned(rows, np.asarray(y, dtype=float).reshape(len(rows), -1), None, y, standardise=standardise)


def test_time_counts_in_parts_of_the_median_span():
    assert units_of().time_scale == pytest.approx(2.0 / HORIZON)  # of the series that have a span
    assert units_of(frame=FRAME.assign(t=1.0)).time_scale == 1.0


def test_where_each_series_was_seen_once_time_counts_in_parts_of_all_times():
    once = FRAME.assign(id=range(5))
    assert units_of(frame=once).time_scale == pytest.approx(3.5 / HORIZON)
    dates = once.assign(t=pd.Timestamp("2024-03-01") + pd.to_timedelta(once["t"], unit="D"))
    assert units_of(frame=dates).time_scale == pytest.approx(3.5 * 86_400 / HORIZON)
    assert units_of(frame=dates.assign(t=dates["t"][0])).time_scale == 86_400.0


def test_outputs_go_there_and_back():
    units = units_of()
    scaled = units.standardised(Y.to_numpy())
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(units.original(scaled), Y.to_numpy(), rtol=1e-12)


def test_outputs_that_are_not_standardised_stay():
    units = units_of(standardise=False)
    np.testing.assert_array_equal(units.standardised(Y.to_numpy()), Y.to_numpy())
    assert (units.y_scale, units.y_shift) == (1.0, 0.0)


def test_values_beyond_the_dtype_are_refused():
    with pytest.raises(ValueError, match="y holds values too large to standardise"):
        units_of(1e-5 * Y).standardised(np.full((1, 2), 1e308))


def test_the_shape_is_that_of_y():
    values = np.ones((5, 1, 3))
    assert units_of(Y["b"]).in_shape_of_y(values).shape == (5, 3)
    assert units_of(Y[["b"]]).in_shape_of_y(values).shape == (5, 1, 3)


def test_a_panel_is_in_the_units_of_the_model_and_starts_before_its_first_rows():
    units = units_of()
    panel = units.panel(rows_of(), Y.to_numpy(), None)
    np.testing.assert_allclose(panel.windows()[:, 0], LEAD * units.time_scale)
    np.testing.assert_allclose(panel.covariates.mean(), 0.0, atol=1e-12)
    tensors = units.observed_tensors(panel, torch.zeros((), dtype=torch.float32))
    assert tensors.y.dtype == torch.float32
    np.testing.assert_allclose(tensors.time[:, 0], LEAD)


def test_targets_of_another_kind_are_refused():
    units = units_of()
    np.testing.assert_array_equal(units.read_targets(Y, rows_of(), "t"), Y.to_numpy())
    with pytest.raises(ValueError, match="y has 1 outputs, but the model was fitted to 2"):
        units.read_targets(Y["a"], rows_of(), "t")
    with pytest.raises(ValueError, match=r"in fit they were \['a', 'b'\]"):
        units.read_targets(Y[["b", "a"]], rows_of(), "t")
    dates = FRAME.assign(t=pd.to_datetime(FRAME["t"], unit="D"))
    with pytest.raises(ValueError, match="time='t' holds a date, but held a number in fit"):
        units.read_targets(Y, rows_of(dates), "t")


def test_covariates_of_new_series_broadcast_and_are_the_means_by_default():
    units = units_of()
    assert not units.read_covariates(None, 2, 3).any()
    given = units.read_covariates([[[3.0], [4.0], [5.0]]], 2, 3)
    np.testing.assert_allclose(given, np.broadcast_to([[[0.0], [1.0], [2.0]]] / FRAME["u"].std(ddof=0), (2, 3, 1)))
    with pytest.raises(ValueError, match=r"must broadcast to \(n_series, n_times, n_covariates\) = \(2, 3, 1\)"):
        units.read_covariates(np.zeros(2), 2, 3)
    with pytest.raises(ValueError, match="fitted without any"):
        units_of(frame=FRAME[["id", "t"]]).read_covariates(0.0, 2, 3)


def test_a_frame_is_in_the_units_of_the_user():
    units = units_of()
    panel = units.new_panel(2, np.array([5.0, 6.0]), units.read_covariates([4.0], 2, 2))
    assert panel.origins == pytest.approx(5.0 - LEAD * units.time_scale)
    frame = units.frame({"id": panel.codes}, panel, ["u"], np.zeros((4, 2)))
    assert list(frame) == ["id", "u", "a", "b"]
    assert frame["id"].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(frame["u"], 4.0)
    np.testing.assert_allclose(frame[["a", "b"]], np.broadcast_to(Y.mean(), (4, 2)))


def test_the_clock_of_a_time_zone():
    zone = "Europe/Berlin"
    written = pd.to_datetime(["2024-03-30 06:00", "2024-03-31 06:00", "2024-10-27 06:00", "2024-10-28 06:00"])
    frame = pd.DataFrame({"id": 0, "t": written.tz_localize(zone)})
    rows = rows_of(frame)
    units = units_of(np.arange(4.0), frame)
    assert (np.diff(rows.time) / 3600).tolist() == [23, 210 * 24 + 1, 24]
    local = units.local(rows.time)
    np.testing.assert_array_equal(local % 86_400, 6 * 3600)
    np.testing.assert_array_equal(units.from_local(local), rows.time)
    # Two o'clock comes twice in autumn, and in spring not at all.
    autumn, spring = pd.to_datetime(["2024-10-27 02:30", "2024-03-31 02:30"])
    expected = pd.to_datetime(["2024-10-27 00:30", "2024-03-31 01:00"])  # UTC
    seconds = (pd.DatetimeIndex([autumn, spring]) - pd.Timestamp(0)).total_seconds().to_numpy()
    np.testing.assert_array_equal(units.from_local(seconds), (expected - pd.Timestamp(0)).total_seconds().to_numpy())
    plain = units_of(np.arange(4.0), frame.assign(t=written))
    assert plain.time_zone is None
    np.testing.assert_array_equal(plain.local(local), local)
