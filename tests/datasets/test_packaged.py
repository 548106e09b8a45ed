"""The packaged files travel with their description and licence."""

from importlib.resources import files

import pytest

import skode.datasets
from skode.datasets import load_co2, load_tumour_growth


def test_public_names_are_the_loaders_and_the_generators():
    generators = [
        "TOY_DENSITIES",
        "make_damped_pendulum",
        "make_lotka_volterra",
        "make_spirals",
        "make_toy_density",
        "toy_log_density",
    ]
    assert sorted(skode.datasets.__all__) == sorted(["load_co2", "load_tumour_growth", *generators])


@pytest.mark.parametrize(
    ("loader", "heading", "licence"),
    [(load_co2, "co2.csv", "Public domain"), (load_tumour_growth, "tumour_growth.csv", "BSD-3-Clause")],
)
def test_description_is_the_readme_section_of_the_file_with_its_licence(loader, heading, licence):
    description = loader().DESCR
    assert description.startswith(heading)
    assert licence in description
    assert "Citation" in description
    assert "\n## " not in description


def test_chi_licence_text_is_packaged():
    # BSD-3-Clause asks that redistributions retain the notice.
    text = files("skode.datasets").joinpath("data", "LICENSE-chi-drm.md").read_text(encoding="utf-8")
    assert "Copyright (c) 2025, David Augustin" in text
    assert "Redistributions of source code must retain the above copyright notice" in text


@pytest.mark.parametrize("loader", [load_co2, load_tumour_growth])
def test_bunch_names_a_file_that_exists_and_the_columns_it_split(loader):
    dataset = loader()
    with open(dataset.filename) as file:
        assert file.readline().strip().split(",") == dataset.frame.columns.tolist()
    assert dataset.feature_names == dataset.data.columns.tolist()
    assert dataset.target_names == [dataset.target.name]


@pytest.mark.parametrize("loader", [load_co2, load_tumour_growth])
def test_a_bad_parameter_is_refused_by_name_and_value(loader):
    with pytest.raises(ValueError, match=r"'return_X_y'.*'yes'"):
        loader(return_X_y="yes")
