"""How much of the noise has a memory: rows linear in the initial states, and the likelihood of what is left.

About the posterior's mode a row is linear in its series' initial state, which is then integrated out in closed form
(Lindstrom, Bates, "Nonlinear mixed effects models for repeated measures data", Biometrics 46, 1990). Whether there is a
memory at all is decided by the Bayesian information criterion (Schwarz, "Estimating the dimension of a model", Annals
of Statistics 6, 1978).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from skode.timeseries.noise.ornstein_uhlenbeck import repeated_log_density
from skode.timeseries.panel import Panel

#: Of the variance, this much at most has a memory: repeated measurements never agree to the last bit.
LARGEST_SHARE = 0.99

#: Shortest and longest memory that is looked for, and where the search starts, in the latent dynamics' time.
SHORTEST, LONGEST, STARTS = 0.01, 100.0, (0.3, 3.0)

#: Fewer series than this, or values of an output, can't tell a memory from dynamics.
FEWEST_SERIES, FEWEST_VALUES = 5, 40

#: The search looks at so many rows in a line of each series at most.
MOST_ROWS = 64


def may_have_memory(panel: Panel) -> bool:
    """Whether some output was seen often enough, and in enough series, to tell noise with a memory from dynamics."""
    seen = ~np.isnan(panel.y)
    n_values = panel.row_weights() @ seen
    n_series = [len(np.unique(panel.codes[column])) for column in seen.T]
    return bool(((n_values >= FEWEST_VALUES) & (np.array(n_series) >= FEWEST_SERIES)).any())


class LinearisedRows:
    """Rows of some series, linear in the deviation of their initial states from the mode.

    Parameters
    ----------
    time : Tensor of shape (n_series, n_slots), float64
        Times in ascending order; NaN in empty slots.
    residual : Tensor of shape (n_series, n_slots, n_outputs)
        Residuals of the observations for the initial state 0; NaN where nothing was observed.
    slopes : Tensor of shape (latent_size, n_series, n_slots, n_outputs)
        Derivatives of the outputs by the initial state, whose prior is a standard normal.
    weights : Tensor of shape (n_series, n_slots), default=None
        How often each row was observed; None: all of them once.
    """

    def __init__(self, time: Tensor, residual: Tensor, slopes: Tensor, weights: Tensor | None = None) -> None:
        self.time, self.residual, self.slopes = time, residual, slopes
        self.weights = torch.ones_like(time) if weights is None else weights

    @classmethod
    def joined(cls, parts: Iterable[LinearisedRows]) -> LinearisedRows:
        """Of parts with different numbers of slots."""
        parts = list(parts)
        n_slots = max(part.time.shape[1] for part in parts)

        def filled(values: Tensor, axis: int) -> Tensor:
            missing = (*values.shape[:axis], n_slots - values.shape[axis], *values.shape[axis + 1 :])
            return torch.cat([values, values.new_full(missing, math.nan)], dim=axis)

        return cls(
            torch.cat([filled(part.time, 1) for part in parts]),
            torch.cat([filled(part.residual, 1) for part in parts]),
            torch.cat([filled(part.slopes, 2) for part in parts], dim=1),
            torch.cat([filled(part.weights, 1) for part in parts]),
        )

    def shortened(self) -> LinearisedRows:
        """At most :data:`MOST_ROWS` rows in a line of each series, from beginnings, middles and ends in turn."""
        n_slots = self.time.shape[1]
        if n_slots <= MOST_ROWS:
            return self
        spare = ((~torch.isnan(self.time)).sum(1) - MOST_ROWS).clamp_min(0)
        # Multiples of the golden ratio, modulo 1, are spread evenly however many there are.
        share = torch.arange(len(spare), device=spare.device) * 0.6180339887 % 1.0
        slots = (spare * share).long()[:, None] + torch.arange(MOST_ROWS, device=spare.device)
        series = torch.arange(len(spare), device=spare.device)[:, None]
        return LinearisedRows(
            self.time[series, slots],
            self.residual[series, slots],
            self.slopes[:, series, slots],
            self.weights[series, slots],
        )

    def likeliest_noise(self) -> list[tuple[float, float] | None]:
        """Share of the variance that has a memory, and that memory, of each output's noise; None where it is white.

        They make the output's rows most likely. White it is where white noise does as well, by the criterion
        above, and where there are too few values to tell.
        """
        return [_likeliest(self._of(output)) for output in range(self.residual.shape[2])]

    def _of(self, output: int) -> _Rows:
        return _Rows(self.time, self.residual[..., output], self.slopes[..., output], self.weights)


class _Rows:
    """:class:`LinearisedRows` of one output; series without any are left out."""

    def __init__(self, time: Tensor, residual: Tensor, slopes: Tensor, weights: Tensor) -> None:
        some = (~torch.isnan(residual)).any(1)
        time, residual, slopes, weights = _packed(time[some], residual[some], slopes[:, some], weights[some])
        self.observed = ~torch.isnan(residual)
        self.weights = torch.where(self.observed, weights, 1.0)
        #: How many values were observed, a row of weight two counting twice.
        self.n_values = float(self.weights[self.observed].sum())
        columns = torch.where(self.observed, torch.cat([residual[None], slopes]), 0.0)
        #: Of shape (n_series, n_slots, 1 + latent_size): residuals beside slopes.
        self.columns = columns.permute(1, 2, 0)
        self.distance = torch.nan_to_num((time[:, None] - time[:, :, None]).abs())

    def log_likelihood(self, white: Tensor, coloured: Tensor, memory: Tensor) -> Tensor:
        """Of all rows, with initial states integrated out."""
        mask = self.observed.to(self.distance)
        covariance = coloured**2 * torch.exp(-self.distance / memory) * mask[..., None] * mask[..., None, :]
        covariance = covariance + torch.diag_embed(torch.where(self.observed, white**2 / self.weights, 1.0))
        factor = torch.linalg.cholesky(covariance)
        whitened = torch.linalg.solve_triangular(factor, self.columns, upper=False)
        residual, slopes = whitened[..., :1], whitened[..., 1:]
        # By Woodbury's formula and the determinant lemma, with the states' information as the small matrix.
        information = slopes.mT @ slopes + torch.eye(slopes.shape[2], dtype=slopes.dtype)
        small = torch.linalg.cholesky(information)
        explained = torch.linalg.solve_triangular(small, slopes.mT @ residual, upper=False)
        logs = sum(torch.log(torch.diagonal(x, dim1=-2, dim2=-1)).sum() for x in (factor, small))
        squares = (residual**2).sum() - (explained**2).sum()
        beyond = repeated_log_density(white, self.weights)[self.observed].sum()
        return beyond - 0.5 * squares - logs - 0.5 * math.log(2.0 * math.pi) * int(self.observed.sum())

    def maximised(self, start: list[float]) -> tuple[float, np.ndarray]:
        """Greatest log-likelihood from a start, by L-BFGS, and where it is."""
        n_values = self.n_values

        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            leaf = torch.from_numpy(x.copy()).requires_grad_()
            sigma, share, memory = _unpacked(leaf)
            value = -self.log_likelihood(sigma * (1.0 - share).sqrt(), sigma * share.sqrt(), memory) / n_values
            (gradient,) = torch.autograd.grad(value, leaf)
            return float(value.detach()), gradient.numpy()

        bounds = [(-7.0, 3.0), (-6.0, 6.0), (math.log(SHORTEST), math.log(LONGEST))][: len(start)]
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 50})
        return -float(found.fun) * n_values, found.x


def _packed(time: Tensor, residual: Tensor, slopes: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """The same with each series' observed slots first, in their order, and no more slots than the most of any series.

    Where outputs are seen at times of their own, matrices of all slots would be mostly empty.
    """
    observed = ~torch.isnan(residual)
    most = int(observed.sum(1).max()) if len(observed) else 0
    slots = torch.argsort(~observed, dim=1, stable=True)[:, :most]
    series = torch.arange(len(slots), device=slots.device)[:, None]
    return time[series, slots], residual[series, slots], slopes[:, series, slots], weights[series, slots]


def _likeliest(rows: _Rows) -> tuple[float, float] | None:
    n_values = rows.n_values
    if n_values < FEWEST_VALUES or len(rows.observed) < FEWEST_SERIES:
        return None
    try:
        white, _ = rows.maximised([-0.5])
        coloured, found = max((rows.maximised([-0.5, 0.0, math.log(t)]) for t in STARTS), key=lambda pair: pair[0])
    except torch.linalg.LinAlgError:  # slopes of dynamics that explode
        return None
    if not coloured - white > math.log(n_values):  # two parameters more; nor where it is NaN
        return None
    _, share, memory = _unpacked(torch.from_numpy(found))
    return float(share), float(memory)


def _unpacked(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviation, coloured share and memory from numbers without bounds; all white if there is only one."""
    sigma = torch.exp(x[0])
    if len(x) == 1:
        return sigma, torch.zeros_like(sigma), torch.ones_like(sigma)
    return sigma, LARGEST_SHARE * torch.sigmoid(x[1]), torch.exp(x[2])
