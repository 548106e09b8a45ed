"""load_hare_lynx against the listing in Carpenter's case study."""

import pytest

from skode.datasets import load_hare_lynx


@pytest.mark.parametrize(("year", "hare", "lynx"), [(1900, 30.0, 4.0), (1904, 36.3, 59.4), (1920, 24.7, 8.6)])
def test_known_years(year, hare, lynx):
    row = load_hare_lynx().frame.set_index("year").loc[year]
    assert (row["hare"], row["lynx"]) == (hare, lynx)


def test_years_follow_each_other_and_lynxes_peak_after_hares():
    frame = load_hare_lynx().frame
    assert frame["year"].tolist() == list(range(1900, 1921))
    by_year = frame.set_index("year")
    assert by_year.loc[:1910].idxmax().to_dict() == {"hare": 1903, "lynx": 1904}
    assert by_year.loc[1911:].idxmax().to_dict() == {"hare": 1913, "lynx": 1915}
