"""Every public name stands in the API reference, and nothing else does."""

import importlib
import re
from pathlib import Path

import pytest

API = Path(__file__).parent.parent / "docs" / "api"
#: Each page and the package whose names it lists.
PACKAGES = {
    "estimators": "skode",
    "model_selection": "skode.model_selection",
    "identification": "skode.identification",
    "persistence": "skode.persistence",
    "io": "skode.io",
    "distributed": "skode.distributed",
    "inspection": "skode.inspection",
    "datasets": "skode.datasets",
    "solvers": "skode.solvers",
    "dynamics": "skode.dynamics",
}
ENTRIES = re.compile(r"^\.\. autosummary::\n(?:   :.*\n)+\n((?:   \w+\n)+)", flags=re.MULTILINE)
CONSTANTS = re.compile(r"^\.\. py:data:: (\w+)$", flags=re.MULTILINE)


def documented(text):
    """The names that a page lists."""
    return [name for entries in ENTRIES.findall(text) for name in entries.split()] + CONSTANTS.findall(text)


@pytest.mark.parametrize("page", PACKAGES)
def test_page_lists_the_public_names(page):
    text = (API / f"{page}.rst").read_text()
    package = importlib.import_module(PACKAGES[page])
    assert f".. currentmodule:: {package.__name__}\n" in text
    assert sorted(documented(text)) == sorted(package.__all__)


def test_the_index_lists_the_pages():
    listed = re.findall(r"^   (\w+)$", (API / "index.rst").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(PACKAGES) == sorted(path.stem for path in API.glob("*.rst") if path.stem != "index")


def test_every_public_object_has_a_docstring():
    for package in map(importlib.import_module, PACKAGES.values()):
        for name in package.__all__:
            public = getattr(package, name)
            assert not callable(public) or public.__doc__, f"{package.__name__}.{name}"
