"""Times to come of series, and their covariates."""

import numpy as np
import pandas as pd
import pytest

from skode.timeseries.future import last_times, steps_ahead, usual_steps, with_covariates
from skode.timeseries.panel import Panel
from tests.timeseries.test_units import rows_of, units_of

NAN = np.nan


def panel(series, time, y):
    values = np.array(y, dtype=float)[:, None]
    return Panel.of(np.array(series), np.array(time, dtype=float), np.array(time, dtype=float)[:, None], values)


def test_usual_steps_are_between_observations():
    known = panel([0, 0, 0, 0, 1, 2, 2], [0, 1, 1, 4, 5, 7, 17], [1, 1, 2, NAN, 1, 1, 1])
    assert usual_steps(known).tolist() == [1.0, 5.5, 10.0]  # the second has the median of all gaps
    assert last_times(known).tolist() == [1.0, 5.0, 17.0]
    assert last_times(panel([0, 1], [3, 4], [NAN, 1])).tolist() == [3.0, 4.0]  # the first was never observed
    with pytest.raises(ValueError, match="No series was observed at two times"):
        usual_steps(panel([0, 0, 1], [1, 1, 2], [1, 2, 1]))


def test_steps_of_hours_take_no_notice_of_clocks():
    dates = pd.DataFrame({"id": [0, 1], "t": pd.to_datetime(["2024-03-30 12:00"] * 2).tz_localize("Europe/Berlin")})
    units, last = units_of([1.0, 2.0], dates), rows_of(dates).time
    times, codes = steps_ahead(last, np.array([43_200.0, 86_400.0]), np.array([2, 2]), units)
    assert codes.tolist() == [0, 0, 1, 1]
    assert ((times - last[0]) / 3600).tolist() == [12.0, 24.0, 23.0, 47.0]


def test_covariates_go_on():
    units = units_of()
    known = units.panel(rows_of(), np.zeros((5, 2)), None)
    rows = with_covariates(pd.Index([1, 1, 0, 9]), np.array([3.0, 8.0, 0.0, 1.0]), known, units, None)
    assert rows.series.tolist() == [1, 1, 0, 9]
    np.testing.assert_allclose(rows.covariates[:, 0], [2.0, 1.0, 2.0, 3.0])  # the last: the mean
    later = rows_of(pd.DataFrame({"id": [1], "t": [12.0], "u": [5.0]}))
    rows = with_covariates(pd.Index([1, 1]), np.array([8.0, 20.0]), known, units, later)
    np.testing.assert_allclose(rows.covariates[:, 0], [3.0, 5.0])
