"""load_co2 against the weekly record of the Scripps Institution (statsmodels' src/maunaloa_c.dat)."""

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

from skode.datasets import load_co2


@pytest.fixture(scope="module")
def frame():
    return load_co2().frame


def test_missing_weeks_are_kept_as_nan(frame):
    # maunaloa_c.dat has 2,225 lines of data; 2,284 Saturdays lie between the first and the last.
    assert frame.shape == (2284, 2)
    assert frame["co2"].notna().sum() == 2225
    assert frame["co2"].isna().sum() == 59


def test_dates_are_every_saturday_from_first_to_last(frame):
    assert frame["date"].iloc[0] == pd.Timestamp("1958-03-29")
    assert frame["date"].iloc[-1] == pd.Timestamp("2001-12-29")
    assert (frame["date"].diff().dropna() == pd.Timedelta(days=7)).all()
    assert (frame["date"].dt.day_name() == "Saturday").all()


# Lines of maunaloa_c.dat, such as "MLO    580329   4    0         316.10".
@pytest.mark.parametrize(
    ("date", "ppmv"),
    [
        ("1958-03-29", 316.1),
        ("1958-04-26", 316.4),
        ("1958-05-17", 317.5),
        ("1958-11-08", 313.0),
        ("2001-12-22", 371.3),
        ("2001-12-29", 371.5),
    ],
)
def test_known_weeks(frame, date, ppmv):
    assert frame.set_index("date")["co2"][date] == ppmv


def test_weeks_absent_from_the_record_are_nan(frame):
    # maunaloa_c.dat goes from 580503 to 580517 and from 580524 to 580705.
    absent = ["1958-05-10", "1958-05-31", "1958-06-07", "1958-06-14", "1958-06-21", "1958-06-28"]
    assert frame.set_index("date")["co2"][absent].isna().all()


def test_yearly_cycle_peaks_in_may_and_bottoms_in_autumn(frame):
    # Dates shifted or parsed day-first would move the seasons.
    by_date = frame.set_index("date")["co2"]
    yearly_mean = by_date.groupby(by_date.index.year).transform("mean")
    by_month = (by_date - yearly_mean)["1970":].groupby(lambda date: date.month).mean()
    assert by_month.idxmax() == 5
    assert by_month.idxmin() in (9, 10)


def test_bunch_splits_the_frame(frame):
    dataset = load_co2()
    assert_frame_equal(dataset.data, frame[["date"]])
    assert_series_equal(dataset.target, frame["co2"])


def test_data_and_target_can_be_returned_alone():
    dataset = load_co2()
    X, y = load_co2(return_X_y=True)
    assert_frame_equal(X, dataset.data)
    assert_series_equal(y, dataset.target)
