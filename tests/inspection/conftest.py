"""Pictures are drawn without a screen, and closed after each test; a flow and equations to draw."""

import matplotlib as mpl
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

from skode import CNFDensityEstimator, ODERegressor
from tests.inspection.moons import MOONS
from tests.inspection.spirals import spring, springs


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def flow():
    """A flow fitted to MOONS; tests must not change it."""
    return CNFDensityEstimator((8,), max_iter=2, random_state=0).fit(MOONS)


@pytest.fixture(scope="session")
def spring_model():
    """Equations fitted to the springs of ``spirals.springs``; tests must not change it."""
    params = {"stiffness": (1.0, 0, None), "damping": (0.2, 0, None)}
    return ODERegressor(spring, params, series="who", time="when").fit(*springs())
