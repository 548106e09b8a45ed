"""The packaged files travel with their description and licence."""

from importlib.resources import files

import pandas as pd
import pytest

import skode.datasets
from skode.datasets import load_co2, load_hare_lynx, load_influenza, load_theophylline, load_tumour_growth

LOADERS = [load_co2, load_hare_lynx, load_influenza, load_theophylline, load_tumour_growth]


def test_public_names_are_the_loaders_and_the_generators():
    generators = [
        "TOY_DENSITIES",
        "make_damped_pendulum",
        "make_lotka_volterra",
        "make_spirals",
        "make_toy_density",
        "toy_log_density",
    ]
    assert sorted(skode.datasets.__all__) == sorted([*(loader.__name__ for loader in LOADERS), *generators])


@pytest.mark.parametrize(
    ("loader", "heading", "licence"),
    [
        (load_co2, "co2.csv", "Public domain"),
        (load_hare_lynx, "hare_lynx.csv", "BSD-3-Clause"),
        (load_influenza, "influenza.csv", "MIT"),
        (load_theophylline, "theophylline.csv", "MIT"),
        (load_tumour_growth, "tumour_growth.csv", "BSD-3-Clause"),
    ],
)
def test_description_is_the_readme_section_of_the_file_with_its_licence(loader, heading, licence):
    description = loader().DESCR
    assert description.startswith(heading)
    assert licence in description
    assert "Citation" in description
    assert "\n## " not in description


@pytest.mark.parametrize(
    ("source", "holder", "condition"),
    [
        ("chi-drm", "2025, David Augustin", "Redistributions of source code must retain the above copyright notice"),
        ("posteriordb", "2011-2024, Stan Developers", "Redistributions of source code must retain"),
        ("medicaldata", "2021 medicaldata authors", "this permission notice shall be included"),
        ("outbreaks", "2022 outbreaks authors", "this permission notice shall be included"),
    ],
)
def test_licence_texts_are_packaged(source, holder, condition):
    # Both licences ask that redistributions retain the notice.
    text = files("skode.datasets").joinpath("data", f"LICENSE-{source}.md").read_text(encoding="utf-8")
    assert f"Copyright (c) {holder}" in text
    assert condition in text


@pytest.mark.parametrize("loader", LOADERS)
def test_bunch_names_a_file_that_exists_and_the_columns_it_split(loader):
    dataset = loader()
    with open(dataset.filename) as file:
        assert file.readline().strip().split(",") == dataset.frame.columns.tolist()
    assert dataset.feature_names == dataset.data.columns.tolist()
    assert dataset.target_names == dataset.frame[dataset.target_names].columns.tolist()
    pd.testing.assert_frame_equal(pd.DataFrame(dataset.target), dataset.frame[dataset.target_names])
    X, y = loader(return_X_y=True)
    assert X.equals(dataset.data)
    assert y.equals(dataset.target)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_bad_parameter_is_refused_by_name_and_value(loader):
    with pytest.raises(ValueError, match=r"'return_X_y'.*'yes'"):
        loader(return_X_y="yes")
