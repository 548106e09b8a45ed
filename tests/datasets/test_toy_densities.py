"""The toy densities against quadrature, their own samples, and closed forms."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.special import entr
from scipy.stats import chisquare, rice
from sklearn.datasets import make_circles, make_moons

from skode.datasets import TOY_DENSITIES, make_toy_density, toy_log_density

# A square [-reach, reach]^2 that holds all but 1e-4 of the density, and the side of the cells that divide it.
SQUARES = {
    "two_circles": (1.5, 0.3),
    "two_moons": (3.0, 0.5),
    "eight_gaussians": (5.0, 1.0),
    "pinwheel": (5.1, 0.3),
    "checkerboard": (5.0, 1.0),
    "two_spirals": (4.2, 0.6),
    "twenty_five_gaussians": (4.8, 0.3),
}
# Its own nodes of Gauss-Legendre for each cell's integral.
NODES_A_SIDE = 6


@functools.cache
def integrals(name):
    """The integrals of the density over the cells, of shape (n, n), and its entropy, by quadrature."""
    reach, side = SQUARES[name]
    corners = side * np.arange(round(2 * reach / side)) - reach
    nodes, weights = np.polynomial.legendre.leggauss(NODES_A_SIDE)
    x = (corners[:, None] + side * (nodes + 1) / 2).ravel()
    density = np.exp(toy_log_density(name, np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)))
    by_cell = density.reshape(len(corners), NODES_A_SIDE, len(corners), NODES_A_SIDE)
    area = np.outer(weights, weights) * side**2 / 4
    cells = np.einsum("aibj,ij->ab", by_cell, area)
    return cells, np.einsum("aibj,ij->", entr(by_cell), area)


def pvalue(name, X):
    """Of the counts in the cells, those that expect few points together with the outside."""
    cells, _ = integrals(name)
    reach, side = SQUARES[name]
    edges = side * np.arange(len(cells) + 1) - reach
    counts = np.histogram2d(*X.T, bins=[edges, edges])[0]
    enough = cells * len(X) > 10
    expected = np.append(cells[enough], 1 - cells[enough].sum()) * len(X)
    observed = np.append(counts[enough], len(X) - counts[enough].sum())
    kept = expected > 1e-6  # of the checkerboard nothing is left
    assert not observed[~kept].any()
    return chisquare(observed[kept], expected[kept] * observed.sum() / expected[kept].sum()).pvalue


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_densities_integrate_to_1(name):
    cells, _ = integrals(name)
    assert_allclose(cells.sum(), 1, atol=2e-4)


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_samples_fall_where_the_density_is(name):
    X = make_toy_density(name, 20_000, random_state=0)
    assert X.shape == (20_000, 2)
    assert X.dtype == np.float64
    assert pvalue(name, X) > 0.01


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_the_mean_score_of_samples_is_the_entropy(name):
    _, entropy = integrals(name)
    scores = toy_log_density(name, make_toy_density(name, 5000, random_state=1))
    assert -scores.mean() == pytest.approx(entropy, abs=4 * scores.std() / np.sqrt(5000) + 1e-3)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("two_circles", lambda: make_circles(20_000, noise=0.06, factor=0.5, random_state=0)),
        ("two_moons", lambda: make_moons(20_000, noise=0.1, random_state=0)),
    ],
)
def test_circles_and_moons_are_those_of_scikit_learn(name, make):
    # its angles are evenly spaced, so that the counts vary less than those of independent points
    assert pvalue(name, make()[0]) > 0.01


def test_entropy_of_two_circles():
    # the distance of a ring's point from the origin is a Rice variable
    def radial(rho):
        return sum(rice.pdf(rho, radius / 0.06, scale=0.06) for radius in (1, 0.5)) / 2

    truth, _ = quad(lambda rho: entr(radial(rho)) + radial(rho) * np.log(2 * np.pi * rho), 0.05, 1.6, points=[0.5, 1])
    assert truth == pytest.approx(0.7876, abs=1e-4)
    assert integrals("two_circles")[1] == pytest.approx(truth, abs=1e-3)


def test_entropies_of_densities_without_overlap():
    normal = 1 + np.log(2 * np.pi)
    assert integrals("twenty_five_gaussians")[1] == pytest.approx(np.log(25) + normal + 2 * np.log(0.1), abs=2e-3)
    assert integrals("checkerboard")[1] == pytest.approx(np.log(32), abs=1e-12)


def test_a_lone_normal_is_recovered_far_from_the_others():
    X = np.array([[5.0, 0.0]])
    centre, sd = 4 / 1.414, 0.5 / 1.414
    truth = -0.5 * ((5 - centre) / sd) ** 2 - np.log(2 * np.pi * sd**2) - np.log(8)
    assert_allclose(toy_log_density("eight_gaussians", X), truth, rtol=1e-3)


def test_the_checkerboard_has_eight_squares():
    middles = np.stack(np.meshgrid([-5, -3, -1, 1, 3, 5], [-5, -3, -1, 1, 3, 5], indexing="ij"), -1).reshape(-1, 2)
    log_density = toy_log_density("checkerboard", middles)
    inside = np.isfinite(log_density)
    assert inside.sum() == 8
    assert_allclose(log_density[inside], -np.log(32))
    assert np.isneginf(log_density[~inside]).all()
    assert np.abs(middles[inside]).max() == 3
    assert inside[np.flatnonzero((middles == [1, 1]).all(1))]


def test_spirals_are_symmetric_about_the_origin():
    X = make_toy_density("two_spirals", 200, random_state=0)
    assert_allclose(toy_log_density("two_spirals", X), toy_log_density("two_spirals", -X), rtol=1e-12)


def test_the_pinwheel_has_five_equal_arms():
    X = make_toy_density("pinwheel", 200, random_state=0)
    cos, sin = np.cos(2 * np.pi / 5), np.sin(2 * np.pi / 5)
    turned = X @ np.array([[cos, sin], [-sin, cos]])
    assert_allclose(toy_log_density("pinwheel", X), toy_log_density("pinwheel", turned), rtol=1e-9, atol=1e-9)


def brute_force_pinwheel(x):
    """The density by a fine grid over the circle through ``x``: every crossing is a preimage."""
    rho, psi = np.hypot(*x) / 2, np.arctan2(x[1], x[0])
    alpha = np.linspace(-np.pi, np.pi, 2_000_001)
    in_arms = (alpha - 0.25 * np.exp(rho * np.cos(alpha)) - psi) / (2 * np.pi / 5)
    crossings = np.flatnonzero(np.diff(np.floor(in_arms)))
    a, b = rho * np.cos(alpha[crossings]), rho * np.sin(alpha[crossings])
    normal = np.exp(-0.5 * (((a - 1) / 0.3) ** 2 + (b / 0.1) ** 2)) / (2 * np.pi * 0.3 * 0.1)
    return len(crossings), (normal / np.abs(1 + 0.25 * b * np.exp(a))).sum() / 5 / 4


@pytest.mark.parametrize(("distance", "n_preimages"), [(0.5, 5), (2.0, 5), (4.0, 5), (8.0, 20)])
def test_all_preimages_of_the_pinwheel_are_found(distance, n_preimages):
    angles = np.linspace(0, 6, 5)
    X = distance * np.column_stack([np.cos(angles), np.sin(angles)])
    counts, density = zip(*map(brute_force_pinwheel, X), strict=True)
    assert min(counts) >= n_preimages
    assert_allclose(toy_log_density("pinwheel", X), np.log(density), atol=2e-3)


def test_the_mean_over_a_circle_takes_over_where_the_pinwheel_winds_often():
    angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    near, far = (toy_log_density("pinwheel", distance * circle) for distance in (16.0, 16.0001))
    assert np.quantile(np.abs(near - far), 0.95) < 2
    assert np.log(np.exp(near - far).mean()) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("name", [name for name in TOY_DENSITIES if name != "checkerboard"])
def test_log_densities_stay_finite_far_away_and_at_the_origin(name):
    log_density = toy_log_density(name, [[0.0, 0.0], [30.0, -40.0], [1e4, 1e4]])
    assert np.isfinite(log_density).all()
    assert (np.diff(log_density) < 0).all()


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_rows_are_by_themselves(name):
    X = make_toy_density(name, 600, random_state=0)
    log_density = toy_log_density(name, X)
    assert log_density.shape == (600,)
    assert_allclose(log_density[[3, 300, 599]], toy_log_density(name, X[[3, 300, 599]]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_same_seed_gives_identical_data(name):
    X = make_toy_density(name, random_state=3)
    assert X.shape == (1000, 2)
    assert_array_equal(X, make_toy_density(name, random_state=np.random.RandomState(3)))
    assert not np.allclose(X, make_toy_density(name, random_state=4))


@pytest.mark.parametrize("call", [lambda: make_toy_density("rings"), lambda: toy_log_density("rings", [[0.0, 0.0]])])
def test_unknown_names_are_refused_with_those_known(call):
    with pytest.raises(ValueError, match="'rings'") as caught:
        call()
    assert all(name in str(caught.value) for name in TOY_DENSITIES)


@pytest.mark.parametrize(("name", "value"), [("n_samples", 0), ("n_samples", 2.5), ("random_state", "seed")])
def test_bad_parameters_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"'{name}'.*{value}"):
        make_toy_density("pinwheel", **{name: value})


@pytest.mark.parametrize(
    ("X", "message"), [([[0.0, 0.0, 0.0]], "X must have 2 columns, not 3"), ([[0.0, np.nan]], "X contains NaN")]
)
def test_points_that_are_none_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        toy_log_density("pinwheel", X)
