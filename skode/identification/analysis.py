"""Fixed points of a vector field with their stability, and Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.integrate import solve_ivp
from scipy.sparse.csgraph import connected_components

from skode.training import warn_caller

#: Newton steps, and the largest change (in units of the observed spread) of a point that has converged.
MAX_STEPS, CONVERGED = 60, 1e-9
#: Points nearer than this share of the observed spread are one.
SAME = 1e-5
#: Real parts of eigenvalues below this share of the largest modulus count as 0.
NEUTRAL = 1e-6
#: Singular values of the Jacobian below this share of the largest count as 0: along such directions Newton's method
#: does not move, for what it would divide is rounding. So do rates of a state relative to those of others.
SINGULAR = 1e-8
#: A fixed point is not isolated where the field at this distance along a null direction, in units of the observed
#: spread, is below this share of the observed rates; two of them are of one curve where it is so small between them.
NEARBY, VANISHES, VANISHES_BETWEEN = 1e-2, 1e-7, 1e-3
#: Observed states beside which Newton's method starts.
MOST_STARTS = 200


class FieldAnalysis:
    """Analysis of an autonomous vector field.

    Parameters
    ----------
    vector_field, jacobian : callable
        Derivatives (n, n_states) and their Jacobian matrices (n, n_states, n_states) at states (n, n_states).
    observed : ndarray of shape (n, n_states)
        States that were observed, about which is searched.
    names : sequence of str
        Names of the states.

    Examples
    --------
    >>> import numpy as np
    >>> from skode.identification import FieldAnalysis
    >>> A = np.array([[-1.0, 2.0], [-2.0, -1.0]])
    >>> analysis = FieldAnalysis(lambda Y: Y @ A.T, lambda Y: np.tile(A, (len(Y), 1, 1)), np.eye(2), ["x", "y"])
    >>> analysis.fixed_points()["stability"].tolist()
    ['stable focus']
    """

    def __init__(
        self,
        vector_field: Callable[[np.ndarray], np.ndarray],
        jacobian: Callable[[np.ndarray], np.ndarray],
        observed: np.ndarray,
        names: Sequence[str],
    ) -> None:
        self.vector_field, self.jacobian, self.names = vector_field, jacobian, list(names)
        self.observed = observed
        spread = observed.std(axis=0)
        self._spread = np.where(spread > 0.0, spread, 1.0)

    def fixed_points(self, bounds: Any = None, n_starts: int = 100, random_state: int = 0) -> pd.DataFrame:
        """States at which the field vanishes, by Newton's method from many starts.

        Parameters
        ----------
        bounds : array-like of shape (2, n_states), default=None
            Lowest and highest states to search; None: a box that is half as large again as that of the observed ones.
        n_starts : int, default=100
            Number of starts at random within the bounds, beside those that were observed.
        random_state : int, default=0
            Seed of the starts.

        Returns
        -------
        DataFrame
            A row for each: the states, ``stability`` (such as "stable node", "saddle" or "unstable focus"), and
            ``eigenvalues``, those of the Jacobian matrix, the largest real part first. Where fixed points are not
            isolated but fill a curve or more, the one nearest to the mean of the observed states stands for all.

        Warns
        -----
        UserWarning
            If some are not isolated.

        Raises
        ------
        ValueError
            Where bounds are not as described.
        """
        low, high = self._box(bounds)
        rng = np.random.default_rng(random_state)
        starts = low + rng.uniform(size=(n_starts, len(low))) * (high - low)
        own = self.observed[rng.permutation(len(self.observed))[:MOST_STARTS]]
        points = self._newton(np.concatenate([starts, own]))
        points = points[((points >= low) & (points <= high)).all(axis=1)]
        differ: list[np.ndarray] = []
        for point in points[np.lexsort(points.T[::-1])]:
            if all((np.abs(point - other) > SAME * self._spread).any() for other in differ):
                differ.append(point)
        kept = self._one_of_each_curve(np.reshape(differ, (-1, len(self.names))))
        rows = []
        for point, matrix in zip(kept, self.jacobian(kept) if len(kept) else [], strict=True):
            eigenvalues = np.linalg.eigvals(matrix)
            eigenvalues = eigenvalues[np.lexsort((-eigenvalues.imag, -eigenvalues.real))]
            states = dict(zip(self.names, point, strict=True))
            rows.append({**states, "stability": stability(eigenvalues), "eigenvalues": eigenvalues})
        return pd.DataFrame(rows, columns=[*self.names, "stability", "eigenvalues"])

    def _box(self, bounds: Any) -> tuple[np.ndarray, np.ndarray]:
        if bounds is None:
            low, high = self.observed.min(axis=0), self.observed.max(axis=0)
            margin = 0.25 * np.where(high > low, high - low, 1.0)
            return low - margin, high + margin
        box = np.asarray(bounds, dtype=np.float64)
        if box.shape != (2, len(self.names)) or not (box[0] < box[1]).all():
            raise ValueError(
                f"bounds must be lowest and highest states, of shape (2, {len(self.names)}); got {bounds}."
            )
        return box[0], box[1]

    def _newton(self, points: np.ndarray) -> np.ndarray:
        """Points at which Newton's method has converged, with steps that are halved while the field grows."""
        with np.errstate(all="ignore"):
            for _ in range(MAX_STEPS):
                value, matrices = self.vector_field(points), self.jacobian(points)
                good = np.isfinite(value).all(axis=1) & np.isfinite(matrices).all(axis=(1, 2))
                points, value, matrices = points[good], value[good], matrices[good]
                if not len(points):
                    return points
                steps = self._steps(value, matrices)
                size = np.linalg.norm(value / self._spread, axis=1)
                share = np.ones(len(points))
                for _ in range(8):
                    new = np.linalg.norm(self.vector_field(points + share[:, None] * steps) / self._spread, axis=1)
                    grown = ~(new <= size)
                    if not grown.any():
                        break
                    share = np.where(grown, 0.5 * share, share)
                points = points + share[:, None] * steps
                if (np.abs(steps) <= CONVERGED * self._spread).all():
                    break
            value, matrices = self.vector_field(points), self.jacobian(points)
            left = np.abs(self._steps(value, matrices))
            small = (np.abs(value) <= 1e-6 * self._rates()).all(axis=1)
            return points[(left <= 1e-6 * self._spread).all(axis=1) & small]

    def _steps(self, value: np.ndarray, matrices: np.ndarray) -> np.ndarray:
        """Newton's steps, in units of the states; none along directions in which the Jacobian is singular."""
        scaled = matrices * self._spread / self._spread[:, None]
        return -(np.linalg.pinv(scaled, rcond=SINGULAR) @ (value / self._spread)[..., None])[..., 0] * self._spread

    def _rates(self) -> np.ndarray:
        """The largest rate of each state that was observed; of one that never moves a rounding of the others'."""
        rates = np.abs(self.vector_field(self.observed)).max(axis=0) / self._spread
        return np.maximum(rates, SINGULAR * rates.max()) * self._spread + 1e-300

    def _one_of_each_curve(self, points: np.ndarray) -> np.ndarray:
        """Isolated fixed points, and of those that fill a curve or more the one nearest to the observed mean."""
        if not len(points):
            return points
        scaled = self.jacobian(points) * self._spread / self._spread[:, None]
        _, sizes, directions = np.linalg.svd(scaled)
        filling = np.zeros(len(points), dtype=bool)
        for k in range(len(self.names)):
            null = sizes[:, k] <= np.sqrt(SINGULAR) * sizes[:, 0]
            for side in (-NEARBY, NEARBY):
                values = self.vector_field(points + side * directions[:, k] * self._spread)
                filling |= null & (np.abs(values) <= VANISHES * self._rates()).all(axis=1)
        own = points[filling]
        if len(own) < 2:
            return points
        between = self.vector_field((0.5 * (own[:, None] + own)).reshape(-1, len(self.names)))
        joined = (np.abs(between) <= VANISHES_BETWEEN * self._rates()).all(axis=1).reshape(len(own), len(own))
        n_curves, curve = connected_components(joined, directed=False)
        warn_caller(
            "The field vanishes along whole curves, so that its fixed points are not isolated: one of each curve "
            "stands for all.",
            UserWarning,
        )
        far = (((own - self.observed.mean(axis=0)) / self._spread) ** 2).sum(axis=1)
        chosen = [np.flatnonzero(curve == i)[np.argmin(far[curve == i])] for i in range(n_curves)]
        kept = np.concatenate([points[~filling], own[chosen]])
        return kept[np.lexsort(kept.T[::-1])]

    def lyapunov_exponents(
        self, time: float, y0: Any = None, *, n_intervals: int = 200, transient: float = 0.1
    ) -> np.ndarray:
        """Mean rates at which small differences along a trajectory grow.

        The variational equation is solved beside the states, its directions made orthonormal at the end of each
        interval, and the logarithms of their growth averaged (G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn,
        "Lyapunov characteristic exponents for smooth dynamical systems", Meccanica 15, 1980).

        Parameters
        ----------
        time : float
            Duration, in units of time.
        y0 : array-like of shape (n_states,), default=None
            Where the trajectory starts; None: at the last state that was observed.
        n_intervals : int, default=200
            Number of intervals.
        transient : float, default=0.1
            Share of the duration that is not averaged over.

        Returns
        -------
        ndarray of shape (n_states,)
            The exponents, largest first, per unit of time.

        Raises
        ------
        ValueError
            Where the trajectory can't be followed for so long.
        """
        n = len(self.names)
        state = np.array(self.observed[-1] if y0 is None else y0, dtype=np.float64)
        if state.shape != (n,) or not np.isfinite(state).all():
            raise ValueError(f"y0 must be {n} finite numbers, for {self.names}; got {y0!r}.")
        if not time > 0.0:
            raise ValueError(f"time must be positive, got {time!r}.")

        def derivative(t: float, known: np.ndarray) -> np.ndarray:
            y = known[None, :n]
            growth = self.jacobian(y)[0] @ known[n:].reshape(n, n)
            return np.concatenate([self.vector_field(y)[0], growth.ravel()])

        directions, length = np.eye(n), time / n_intervals
        first, growths = int(transient * n_intervals), np.zeros(n)
        for k in range(n_intervals):
            start = np.concatenate([state, directions.ravel()])
            with np.errstate(all="ignore"):
                found = solve_ivp(derivative, (0.0, length), start, "DOP853", rtol=1e-7, atol=1e-9 * self._spread.min())
            end = found.y[:, -1]
            if not found.success or not np.isfinite(end).all():
                raise ValueError(f"The trajectory from y0 can't be followed beyond {k * length:g} of {time:g}.")
            state = end[:n]
            directions, upper = np.linalg.qr(end[n:].reshape(n, n))
            if k >= first:
                growths += np.log(np.abs(np.diagonal(upper)))
        return np.sort(growths / (length * (n_intervals - first)))[::-1]


def stability(eigenvalues: np.ndarray) -> str:
    """The kind of a fixed point by the eigenvalues of its Jacobian matrix."""
    size = np.abs(eigenvalues).max(initial=0.0)
    real = np.where(np.abs(eigenvalues.real) <= NEUTRAL * size, 0.0, eigenvalues.real)
    turning = (np.abs(eigenvalues.imag) > NEUTRAL * size).any()
    if (real > 0.0).any() and (real < 0.0).any():
        return "saddle focus" if turning else "saddle"
    if (real == 0.0).any():
        return "centre" if turning and (real == 0.0).all() else "neutral"
    kind = "focus" if turning else "node"
    return f"stable {kind}" if (real < 0.0).all() else f"unstable {kind}"
