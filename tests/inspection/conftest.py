"""Pictures are drawn without a screen, and closed after each test; a flow to draw."""

import matplotlib as mpl
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from skode import CNFDensityEstimator
from tests.inspection.moons import MOONS


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def flow():
    """A flow fitted to MOONS; tests must not change it."""
    return CNFDensityEstimator((8,), max_iter=2, random_state=0).fit(MOONS)
