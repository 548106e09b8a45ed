"""load_tumour_growth against the files of chi-drm 1.0.3 and their documentation."""

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

from skode.datasets import load_tumour_growth

# The days on which volumes were measured, the same in all four lxf_*.csv files.
MEASUREMENT_DAYS = [0, 2, 4, 7, 9, 11, 14, 16, 18, 21, 23, 25, 28, 30]


@pytest.fixture(scope="module")
def frame():
    return load_tumour_growth().frame


def test_frame_has_every_measured_volume(frame):
    # Rows "Tumour volume" with a value: control 102, low 107, medium 112, high 76.
    assert frame.groupby("group").size().to_dict() == {"control": 102, "low": 107, "medium": 112, "high": 76}
    assert frame.columns.tolist() == ["mouse", "group", "dose", "day", "weight", "volume"]
    assert frame.notna().all(axis=None)


def test_groups_have_the_number_of_mice_in_the_documentation(frame):
    # Docstrings of chi.library.DataLibrary: 8, 8, 8 and 6 mice.
    mice = frame.groupby("group")["mouse"].nunique().to_dict()
    assert mice == {"control": 8, "low": 8, "medium": 8, "high": 6}
    assert frame["mouse"].nunique() == 30


def test_mouse_determines_group_and_group_determines_dose(frame):
    assert (frame.groupby("mouse")["group"].nunique() == 1).all()
    doses = frame.groupby("group")["dose"].unique()
    assert {group: dose.tolist() for group, dose in doses.items()} == {
        "control": [0.0],
        "low": [6.25],
        "medium": [25.0],
        "high": [100.0],
    }


# Lines of the raw files, "Tumour volume" and "Body weight" of the same mouse and day.
@pytest.mark.parametrize(
    ("mouse", "group", "day", "weight", "volume"),
    [
        ("m040", "control", 0, 26.8, 0.191808),  # lxf_control_growth.csv:2 and :104
        ("m170", "control", 30, 27.5, 0.6206265),  # lxf_control_growth.csv:103 and :205
        ("m031", "low", 23, 27.7, 2.056392),  # lxf_low_erlotinib_dose.csv:14 and :249
        ("m162", "low", 30, 25.9, 0.6517665),  # lxf_low_erlotinib_dose.csv:124 and :359
        ("m034", "medium", 0, 27.7, 0.165292),  # lxf_medium_erlotinib_dose.csv:2 and :194
        ("m167", "medium", 30, 28.9, 2.083401),  # lxf_medium_erlotinib_dose.csv:129 and :321
        ("m028", "high", 18, 22.1, 5e-05),  # lxf_high_erlotinib_dose.csv:32 and :142
        ("m134", "high", 30, 24.1, 0.342216),  # lxf_high_erlotinib_dose.csv:82 and :192
    ],
)
def test_known_measurements(frame, mouse, group, day, weight, volume):
    row = frame[(frame["mouse"] == mouse) & (frame["day"] == day)].squeeze()
    assert (row["group"], row["weight"], row["volume"]) == (group, weight, volume)


def test_each_mouse_is_measured_on_consecutive_days_of_the_plan(frame):
    for _, days in frame.groupby("mouse")["day"]:
        assert days.tolist() == MEASUREMENT_DAYS[: len(days)]


def test_one_row_per_mouse_and_day_in_one_block_per_mouse(frame):
    assert not frame.duplicated(["mouse", "day"]).any()
    blocks = (frame["mouse"] != frame["mouse"].shift()).sum()
    assert blocks == 30


def test_dtypes_suit_a_string_id_and_a_float_time(frame):
    assert pd.api.types.is_string_dtype(frame["mouse"])
    assert all(frame[column].dtype == np.float64 for column in ["dose", "day", "weight", "volume"])


def test_volumes_and_weights_are_physical(frame):
    assert frame["volume"].between(0, 2.5, inclusive="neither").all()  # cm^3
    assert frame["weight"].between(15, 35).all()  # g


def test_high_dose_shrinks_the_tumour_while_controls_grow(frame):
    # The finding the study exists for; it fails if the groups are swapped.
    volume = frame.pivot(index="mouse", columns="day", values="volume")
    growth = volume[9.0] / volume[2.0]
    group = frame.groupby("mouse")["group"].first()
    assert (growth[group == "high"] < 1).all()
    assert (growth[group == "control"] > 1).all()


def test_bunch_splits_the_frame(frame):
    dataset = load_tumour_growth()
    assert_frame_equal(dataset.data, frame[["mouse", "day", "dose"]])
    assert_series_equal(dataset.target, frame["volume"])


def test_data_and_target_can_be_returned_alone():
    dataset = load_tumour_growth()
    X, y = load_tumour_growth(return_X_y=True)
    assert_frame_equal(X, dataset.data)
    assert_series_equal(y, dataset.target)
