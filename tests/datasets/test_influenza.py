"""load_influenza against the counts in Grinsztajn et al. (2021), Statistics in Medicine 40."""

import pandas as pd

from skode.datasets import load_influenza


def test_counts_in_bed_day_by_day():
    frame = load_influenza().frame
    assert frame["in_bed"].tolist() == [3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4]
    assert frame["date"].tolist() == list(pd.date_range("1978-01-22", "1978-02-04"))
    assert frame["day"].tolist() == list(range(1, 15))


def test_convalescent_boys_follow_those_in_bed():
    frame = load_influenza().frame.set_index("day")
    assert frame["in_bed"].idxmax() == 6
    assert frame["convalescent"].idxmax() == 9
