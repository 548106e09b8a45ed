"""The two-dimensional densities that papers on flows draw, with their exact log densities."""

from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import i0e, log_ndtr, logsumexp
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from skode.datasets._pinwheel import pinwheel_log_density, sample_pinwheel

# Rows whose densities are computed together, so that a quadrature's table stays in the cache.
_ROWS_AT_ONCE = 256

_RADII = np.array([1.0, 0.5])
_CIRCLES_SD = 0.06

_MOONS_SD = 0.1
# A moon is turned into the other by x -> (1, 1/2) - x.
_MOONS_CENTRE = np.array([1.0, 0.5])

_EIGHTHS = np.arange(8) * np.pi / 4
_EIGHT_CENTRES = 4 / 1.414 * np.column_stack([np.cos(_EIGHTHS), np.sin(_EIGHTHS)])
_EIGHT_SD = 0.5 / 1.414

_GRID = np.linspace(-4, 4, 5)
_GRID_CENTRES = np.column_stack([np.repeat(_GRID, 5), np.tile(_GRID, 5)])
_GRID_SD = 0.1

_SPIRALS_END = 3 * np.pi  # 540 degrees
_SPIRALS_SCALE = 1 / 3
_SPIRALS_BOX = 0.5 * _SPIRALS_SCALE
_SPIRALS_SD = 0.1


class _Density(NamedTuple):
    """A density: how to draw points of it, and its log."""

    sample: Callable[[int, np.random.RandomState], NDArray[np.float64]]
    log_density: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _on_circle(angle: NDArray) -> NDArray:
    """Points of the unit circle, of shape (n, 2)."""
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _log_mixture(squared_distances: NDArray, sd: float, weights: NDArray | float) -> NDArray:
    """Log density of a mixture of isotropic normals, from the squared distances to their centres."""
    exponents = -squared_distances / (2 * sd**2)
    return logsumexp(exponents, axis=1, b=weights) - np.log(2 * np.pi * sd**2)


def _quadrature(n_nodes: int, end: float) -> tuple[NDArray, NDArray]:
    """Nodes and weights of Gauss and Legendre on [0, end]."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    return (nodes + 1) * end / 2, weights * end / 2


def _sample_two_circles(n_samples: int, rng: np.random.RandomState) -> NDArray:
    radius = _RADII[rng.randint(2, size=n_samples)]
    circle = radius[:, None] * _on_circle(rng.uniform(0, 2 * np.pi, n_samples))
    return circle + _CIRCLES_SD * rng.standard_normal((n_samples, 2))


def _two_circles_log_density(X: NDArray) -> NDArray:
    """The angle is integrated out: a Bessel function, here divided by its exponential growth."""
    rho = np.hypot(*X.T)[:, None]
    bessel = i0e(rho * _RADII / _CIRCLES_SD**2)
    return _log_mixture((rho - _RADII) ** 2, _CIRCLES_SD, bessel / 2)


def _sample_two_moons(n_samples: int, rng: np.random.RandomState) -> NDArray:
    moon = _on_circle(rng.uniform(0, np.pi, n_samples))
    turned = rng.randint(2, size=(n_samples, 1)) == 1
    return np.where(turned, _MOONS_CENTRE - moon, moon) + _MOONS_SD * rng.standard_normal((n_samples, 2))


def _two_moons_log_density(X: NDArray) -> NDArray:
    angles, weights = _quadrature(256, np.pi)
    moons = (X, _MOONS_CENTRE - X)
    halves = [
        _log_mixture(euclidean_distances(Y, _on_circle(angles), squared=True), _MOONS_SD, weights / np.pi)
        for Y in moons
    ]
    return np.logaddexp(*halves) - np.log(2)


def _normals(centres: NDArray, sd: float) -> _Density:
    """Equally probable isotropic normals."""

    def sample(n_samples: int, rng: np.random.RandomState) -> NDArray:
        return centres[rng.randint(len(centres), size=n_samples)] + sd * rng.standard_normal((n_samples, 2))

    def log_density(X: NDArray) -> NDArray:
        return _log_mixture(euclidean_distances(X, centres, squared=True), sd, 1 / len(centres))

    return _Density(sample, log_density)


def _sample_checkerboard(n_samples: int, rng: np.random.RandomState) -> NDArray:
    column, pair = rng.randint(4, size=n_samples), rng.randint(2, size=n_samples)
    square = np.column_stack([column, 2 * pair + column % 2])
    return 2 * (square + rng.uniform(size=(n_samples, 2))) - 4


def _checkerboard_log_density(X: NDArray) -> NDArray:
    inside = (X >= -4).all(1) & (X < 4).all(1)
    dark = np.floor(X / 2).sum(1) % 2 == 0
    return np.where(inside & dark, -np.log(32), -np.inf)


def _spiral(angle: NDArray) -> NDArray:
    """The arm, without its box and noise."""
    return _SPIRALS_SCALE * np.column_stack([-np.cos(angle) * angle, np.sin(angle) * angle])


def _sample_two_spirals(n_samples: int, rng: np.random.RandomState) -> NDArray:
    arm = _spiral(np.sqrt(rng.uniform(size=n_samples)) * _SPIRALS_END)
    arm += _SPIRALS_BOX * rng.uniform(size=(n_samples, 2))
    sign = 2 * rng.randint(2, size=(n_samples, 1)) - 1
    return sign * arm + _SPIRALS_SD * rng.standard_normal((n_samples, 2))


def _two_spirals_log_density(X: NDArray) -> NDArray:
    """By quadrature over the angle, whose density is ``2 angle / end^2``."""
    angles, weights = _quadrature(512, _SPIRALS_END)
    weights = weights * 2 * angles / _SPIRALS_END**2
    middles = _spiral(angles) + _SPIRALS_BOX / 2
    arms = [
        logsumexp(_log_blurred_box(Y[:, None] - middles, _SPIRALS_BOX, _SPIRALS_SD).sum(2), axis=1, b=weights)
        for Y in (X, -X)
    ]
    return np.logaddexp(*arms) - np.log(2)


def _log_blurred_box(x: NDArray, width: float, sd: float) -> NDArray:
    """Log density of a uniform variable on ``[-width / 2, width / 2]`` plus a normal one."""
    # The far side's tail is the smaller one, so that their difference keeps its digits.
    near, far = (log_ndtr((side * width / 2 - np.abs(x)) / sd) for side in (1, -1))
    return near + np.log1p(-np.exp(far - near)) - np.log(width)


_DENSITIES = {
    "two_circles": _Density(_sample_two_circles, _two_circles_log_density),
    "two_moons": _Density(_sample_two_moons, _two_moons_log_density),
    "eight_gaussians": _normals(_EIGHT_CENTRES, _EIGHT_SD),
    "pinwheel": _Density(sample_pinwheel, pinwheel_log_density),
    "checkerboard": _Density(_sample_checkerboard, _checkerboard_log_density),
    "two_spirals": _Density(_sample_two_spirals, _two_spirals_log_density),
    "twenty_five_gaussians": _normals(_GRID_CENTRES, _GRID_SD),
}

#: The densities that :func:`make_toy_density` and :func:`toy_log_density` know.
TOY_DENSITIES = tuple(_DENSITIES)


@validate_params(
    {
        "name": [StrOptions(set(TOY_DENSITIES))],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_toy_density(
    name: str, n_samples: int = 1000, *, random_state: int | np.random.RandomState | None = None
) -> NDArray[np.float64]:
    """Draw independent points of a two-dimensional density whose exact log density is known.

    ============================ ======================================================================
    name                         density
    ============================ ======================================================================
    ``"two_circles"``            circles of radius 1 and 1/2, with noise of standard deviation 0.06
    ``"two_moons"``              half circles of radius 1 that interlock, with noise of 0.1
    ``"eight_gaussians"``        normals of standard deviation 0.35 around 8 points of a circle of 2.83
    ``"pinwheel"``               5 normals, 0.6 by 0.2, twisted around the origin
    ``"checkerboard"``           uniform on 8 of the 16 squares of side 2 in [-4, 4) x [-4, 4)
    ``"two_spirals"``            two spirals of 1.5 turns, with a box of side 1/6 and noise of 0.1
    ``"twenty_five_gaussians"``  normals of standard deviation 0.1 on a 5 x 5 grid of spacing 2
    ============================ ======================================================================

    Parameters
    ----------
    name : str
        A name in ``TOY_DENSITIES``.
    n_samples : int, default=1000
        Number of points.
    random_state : int, RandomState instance or None, default=None
        Determines the points. Pass an int for reproducible data.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        The points.

    Raises
    ------
    ValueError
        If the name is unknown or a parameter has a wrong type or lies outside its range.

    See Also
    --------
    toy_log_density : The log density of the points.

    Notes
    -----
    The circles and moons are those of scikit-learn's ``make_circles(factor=0.5)`` and ``make_moons``, with random
    angles where those are evenly spaced. The others follow the experiments of [1]_; the grid of normals is frequent
    in work on generative models, with various spreads.

    References
    ----------
    .. [1] Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD: Free-form Continuous Dynamics for Scalable
       Reversible Generative Models", ICLR 2019, section 4.1 and https://github.com/rtqichen/ffjord.

    Examples
    --------
    >>> from skode.datasets import make_toy_density
    >>> make_toy_density("pinwheel", 500, random_state=0).shape
    (500, 2)

    """
    return _DENSITIES[name].sample(n_samples, check_random_state(random_state))


@validate_params(
    {"name": [StrOptions(set(TOY_DENSITIES))], "X": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def toy_log_density(name: str, X: ArrayLike) -> NDArray[np.float64]:
    """Exact log density, in nats, of :func:`make_toy_density`'s points.

    Parameters
    ----------
    name : str
        A name in ``TOY_DENSITIES``.
    X : array-like of shape (n_samples, 2)
        Points.

    Returns
    -------
    log_density : ndarray of shape (n_samples,)
        Its natural logarithm at the points: -inf off the checkerboard's squares, finite for the others.

    Raises
    ------
    ValueError
        If the name is unknown, or ``X`` has not two columns of finite numbers.

    Notes
    -----
    Normals and squares have closed forms. A circle with normal noise has one with a Bessel function, and a moon and a
    spiral are integrals over an angle, by Gauss-Legendre quadrature. The pinwheel's is the sum over all points that
    its twist sends to the same place, which are found by bisection. All are exact to about ten digits or better where
    points lie.

    Examples
    --------
    The mean over points of the density is minus its entropy, the best score that a model of it can expect:

    >>> from skode.datasets import make_toy_density, toy_log_density
    >>> X = make_toy_density("two_circles", 10_000, random_state=0)
    >>> print(f"{toy_log_density('two_circles', X).mean():.1f}")
    -0.8

    """
    points: NDArray[np.float64] = check_array(X, dtype=np.float64, input_name="X")
    if points.shape[1] != 2:
        raise ValueError(f"X must have 2 columns, not {points.shape[1]}.")
    log_density = _DENSITIES[name].log_density
    starts = range(0, len(points), _ROWS_AT_ONCE)
    return np.concatenate([log_density(points[i : i + _ROWS_AT_ONCE]) for i in starts])
