"""load_theophylline against R's Theoph."""

import pytest

from skode.datasets import load_theophylline


@pytest.fixture(scope="module")
def frame():
    return load_theophylline().frame


# Rows 1, 61 and 132 of R's data frame.
@pytest.mark.parametrize(
    ("subject", "hour", "weight", "dose", "concentration"),
    [(1, 0.0, 79.6, 4.02, 0.74), (6, 3.57, 80.0, 4.0, 5.53), (12, 24.15, 60.5, 5.3, 1.17)],
)
def test_known_samples(frame, subject, hour, weight, dose, concentration):
    row = frame[(frame["subject"] == subject) & (frame["hour"] == hour)].squeeze()
    assert (row["weight"], row["dose"], row["concentration"]) == (weight, dose, concentration)


def test_eleven_samples_of_twelve_subjects_in_order(frame):
    assert frame["subject"].tolist() == [subject for subject in range(1, 13) for _ in range(11)]
    assert frame.groupby("subject")["hour"].is_monotonic_increasing.all()
    assert (frame.groupby("subject")[["weight", "dose"]].nunique() == 1).all(axis=None)
    assert frame.notna().all(axis=None)


def test_total_doses_are_about_the_same(frame):
    # The doses by weight come from tablets of about 320 mg.
    total = frame["weight"] * frame["dose"]
    assert total.between(267, 321).all()


def test_samples_at_hour_zero_that_the_description_names(frame):
    at_start = frame[frame["hour"] == 0.0].set_index("subject")["concentration"]
    assert at_start[at_start > 0.0].to_dict() == {1: 0.74, 7: 0.15, 10: 0.24}
