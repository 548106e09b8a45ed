"""Small real data sets, packaged with their licences, and generators of synthetic ones."""

from skode.datasets._co2 import load_co2
from skode.datasets._hare_lynx import load_hare_lynx
from skode.datasets._influenza import load_influenza
from skode.datasets._lotka_volterra import make_lotka_volterra
from skode.datasets._pendulum import make_damped_pendulum
from skode.datasets._spirals import make_spirals
from skode.datasets._theophylline import load_theophylline
from skode.datasets._toy_densities import TOY_DENSITIES, make_toy_density, toy_log_density
from skode.datasets._tumour_growth import load_tumour_growth

__all__ = [
    "TOY_DENSITIES",
    "load_co2",
    "load_hare_lynx",
    "load_influenza",
    "load_theophylline",
    "load_tumour_growth",
    "make_damped_pendulum",
    "make_lotka_volterra",
    "make_spirals",
    "make_toy_density",
    "toy_log_density",
]
