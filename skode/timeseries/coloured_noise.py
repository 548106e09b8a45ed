r"""What the dynamics leave of a series: noise with a memory, beside noise without.

The residual of each output is :math:`u(t) + e`, where :math:`u` is an Ornstein-Uhlenbeck process, of covariance
:math:`s^2 \exp(-|t - t'| / \tau)`, and :math:`e` is white noise. Such errors are usual in mixed models of irregularly
timed series: Jones, Boadi-Boateng, "Unequally spaced longitudinal data with AR(1) serial correlation", Biometrics 47,
1991. As :math:`u` is a Markov process, what it says costs a pass over the rows: Kalman's filter (1960), and the
smoother of Rauch, Tung, Striebel, "Maximum likelihood estimates of linear dynamic systems", AIAA Journal 3, 1965.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

#: Of the variance, this much at most has a memory: repeated measurements never agree to the last bit.
LARGEST_SHARE = 0.99

#: Shortest and longest memory that is looked for, and where the search starts, in the latent dynamics' time.
SHORTEST, LONGEST, STARTS = 0.01, 100.0, (0.3, 3.0)

#: Fewer series than this can't tell a memory from dynamics.
FEWEST_SERIES = 5

#: The search looks at the first rows of each series, up to so many, and at series that together make covariances of
#: no more than so many elements.
MOST_ROWS, MOST_ELEMENTS = 64, 1_000_000


class ColouredNoise:
    """Residuals of series at the times of slots, observed in some of them.

    Parameters
    ----------
    time : Tensor of shape (n_series, n_slots), float64
        Times in ascending order; NaN in empty slots, which are the last ones.
    observed : Tensor of bool, of shape (n_series, n_slots, n_outputs)
        Where residuals are known.
    white, coloured, memory : Tensor of shape (n_outputs,)
        Standard deviations of both kinds of noise, and the time in which correlations fall by a factor of e.
    """

    def __init__(self, time: Tensor, observed: Tensor, white: Tensor, coloured: Tensor, memory: Tensor) -> None:
        self.observed = observed
        self.white, self.variance = white.double(), coloured.double() ** 2
        gaps = torch.nan_to_num(torch.diff(time, dim=1), nan=math.inf)
        #: Correlations of u with that of the slot before; 0 where there is none.
        self.kept = torch.zeros(*time.shape, len(white), dtype=torch.float64, device=time.device)
        self.kept[:, 1:] = torch.exp(-gaps[..., None] / memory.double())
        self.n_slots = time.shape[1]
        before, gains, innovations, after = [], [], [], []
        known = torch.zeros_like(self.variance).expand(len(time), -1)
        for slot in range(self.n_slots):
            kept = self.kept[:, slot] ** 2
            expected = kept * known + (1.0 - kept) * self.variance
            total = expected + self.white**2
            gain = torch.where(observed[:, slot], expected / total, 0.0)
            known = expected * (1.0 - gain)
            before.append(expected)
            gains.append(gain)
            innovations.append(torch.where(observed[:, slot], total, 1.0))
            after.append(known)
        #: Variances of u given the slots before, its gains, those of the innovations, and of u given the slots so far.
        self.before, self.gains, self.innovations, self.after = (
            torch.stack(parts, dim=1) for parts in (before, gains, innovations, after)
        )

    def whitened(self, residual: Tensor) -> Tensor:
        """Innovations in their standard deviations, of shape (n_copies, n_series, n_slots, n_outputs) as residuals.

        Linear in the residuals; 0 where these are not known.
        """
        return torch.where(self.observed, (residual - self._filtered(residual)[0]) / self.innovations.sqrt(), 0.0)

    def log_prob(self, residual: Tensor) -> Tensor:
        """Log-density of each series' residuals, of shape (n_copies, n_series)."""
        constant = torch.where(self.observed, 0.5 * torch.log(2.0 * math.pi * self.innovations), 0.0)
        return -(0.5 * self.whitened(residual) ** 2 + constant).sum((-1, -2))

    def smoothed(self, residual: Tensor) -> Tensor:
        """Mean of u in each slot, given all residuals."""
        ahead, mean = self._filtered(residual)
        means = [mean[:, :, -1]]
        for slot in range(self.n_slots - 2, -1, -1):
            means.append(mean[:, :, slot] + self._back[:, slot] * (means[-1] - ahead[:, :, slot + 1]))
        return torch.stack(means[::-1], dim=2)

    @cached_property
    def smoothed_variance(self) -> Tensor:
        """Variance of u in each slot given all residuals, of shape (n_series, n_slots, n_outputs)."""
        variances = [self.after[:, -1]]
        for slot in range(self.n_slots - 2, -1, -1):
            change = variances[-1] - self.before[:, slot + 1]
            variances.append(self.after[:, slot] + self._back[:, slot] ** 2 * change)
        return torch.stack(variances[::-1], dim=1).clamp_min(0.0)

    def drawn(self, residual: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of u in each slot, given all residuals, one for each copy.

        A path without conditions is corrected by what its own residuals would have led to (Matheron's rule).
        """
        shape = (2, *residual.shape)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(residual.device)
        path = torch.zeros_like(noise[0, :, :, 0])
        paths = []
        for slot in range(self.n_slots):
            kept = self.kept[:, slot]
            path = kept * path + ((1.0 - kept**2) * self.variance).sqrt() * noise[0, :, :, slot]
            paths.append(path)
        prior = torch.stack(paths, dim=2)
        return prior + self.smoothed(residual - prior - self.white * noise[1])

    def _filtered(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Means of u in each slot, given the residuals of those before, and of those so far."""
        ahead, so_far = [], []
        mean = torch.zeros_like(residual[:, :, 0])
        for slot in range(self.n_slots):
            expected = self.kept[:, slot] * mean
            known = torch.where(self.observed[:, slot], residual[:, :, slot], 0.0)
            mean = expected + self.gains[:, slot] * (known - expected)
            ahead.append(expected)
            so_far.append(mean)
        return torch.stack(ahead, dim=2), torch.stack(so_far, dim=2)

    @cached_property
    def _back(self) -> Tensor:
        """What each slot's mean learns from the next one's."""
        return self.kept[:, 1:] * self.after[:, :-1] / self.before[:, 1:].clamp_min(torch.finfo(torch.float64).tiny)


class LinearisedRows:
    """Rows of some series, linear in the deviation of their initial states from the mode.

    Parameters
    ----------
    time : Tensor of shape (n_series, n_slots), float64
        Times in ascending order; NaN in empty slots.
    residual : Tensor of shape (n_series, n_slots, n_outputs)
        What the initial state 0 leaves of the observations; NaN where nothing was observed.
    slopes : Tensor of shape (latent_size, n_series, n_slots, n_outputs)
        Derivatives of the outputs by the initial state, whose prior is a standard normal.
    """

    def __init__(self, time: Tensor, residual: Tensor, slopes: Tensor) -> None:
        self.observed = ~torch.isnan(residual)
        residual = torch.where(self.observed, residual, 0.0)[None]
        slopes = torch.where(self.observed, slopes, 0.0)
        #: Of shape (n_series, n_outputs, n_slots, 1 + latent_size): residuals beside slopes.
        self.columns = torch.cat([residual, slopes]).permute(1, 3, 2, 0)
        self.distance = torch.nan_to_num((time[:, None] - time[:, :, None]).abs())
        self.mask = self.observed.permute(0, 2, 1)

    @classmethod
    def joined(cls, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> LinearisedRows:
        """Of parts with different numbers of slots, of which the first ones are taken."""
        parts = list(parts)
        n_slots = min(max(time.shape[1] for time, _, _ in parts), MOST_ROWS)

        def cut(values: Tensor, axis: int) -> Tensor:
            values = values.narrow(axis, 0, min(values.shape[axis], n_slots)).movedim(axis, -1)
            filled = torch.nn.functional.pad(values, (0, n_slots - values.shape[-1]), value=math.nan)
            return filled.movedim(-1, axis)

        times, residuals, slopes = zip(*parts, strict=True)
        time = torch.cat([cut(part, 1) for part in times])
        residual = torch.cat([cut(part, 1) for part in residuals])
        slope = torch.cat([cut(part, 2) for part in slopes], dim=1)
        most = max(MOST_ELEMENTS // (n_slots**2 * residual.shape[2]), FEWEST_SERIES)
        some = torch.from_numpy(np.unique(np.linspace(0, len(time) - 1, min(most, len(time))).astype(int)))
        return cls(time[some], residual[some], slope[:, some])

    def log_likelihood(self, white: Tensor, coloured: Tensor, memory: Tensor) -> Tensor:
        """Of all rows, with initial states integrated out."""
        covariance = coloured[:, None, None] ** 2 * torch.exp(-self.distance[:, None] / memory[:, None, None])
        mask = self.mask.to(covariance)
        covariance = covariance * mask[..., None] * mask[..., None, :]
        covariance = covariance + torch.diag_embed(torch.where(self.mask, white[:, None] ** 2, 1.0))
        factor = torch.linalg.cholesky(covariance)
        whitened = torch.linalg.solve_triangular(factor, self.columns, upper=False).flatten(1, 2)
        residual, slopes = whitened[..., :1], whitened[..., 1:]
        # By Woodbury's formula and the determinant lemma, with the states' information as the small matrix.
        information = slopes.mT @ slopes + torch.eye(slopes.shape[2], dtype=slopes.dtype)
        small = torch.linalg.cholesky(information)
        explained = torch.linalg.solve_triangular(small, slopes.mT @ residual, upper=False)
        logs = sum(torch.log(torch.diagonal(x, dim1=-2, dim2=-1)).sum() for x in (factor, small))
        squares = (residual**2).sum() - (explained**2).sum()
        return -0.5 * squares - logs - 0.5 * math.log(2.0 * math.pi) * int(self.observed.sum())

    def most_likely_noise(self, total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Standard deviations and memory of the noise that make the rows most likely.

        Parameters
        ----------
        total : ndarray of shape (n_outputs,)
            Standard deviations to start the search from.

        Returns
        -------
        tuple of ndarray of shape (n_outputs,) or None
            White, coloured, memory; None where white noise alone does as well, by the Bayesian information criterion
            (Schwarz 1978), or the series are too few to tell.
        """
        n_outputs, n_values = len(total), int(self.observed.sum())
        if len(self.distance) < FEWEST_SERIES:
            return None
        starts = [np.concatenate([np.log(total), np.zeros(n_outputs), np.full(n_outputs, np.log(t))]) for t in STARTS]
        white, _ = self._maximised(starts[0][:n_outputs])
        coloured, found = max((self._maximised(start) for start in starts), key=lambda answer: answer[0])
        if coloured - white <= n_outputs * math.log(max(n_values, 1)):
            return None
        sigma, share, memory = (x.numpy() for x in _unpacked(torch.from_numpy(found), n_outputs))
        return sigma * np.sqrt(1.0 - share), sigma * np.sqrt(share), memory

    def _maximised(self, start: np.ndarray) -> tuple[float, np.ndarray]:
        """Greatest log-likelihood from a start, by L-BFGS, and where it is."""
        n_outputs = self.mask.shape[1]
        n_values = max(int(self.observed.sum()), 1)

        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            leaf = torch.from_numpy(x.copy()).requires_grad_()
            sigma, share, memory = _unpacked(leaf, n_outputs)
            value = -self.log_likelihood(sigma * (1.0 - share).sqrt(), sigma * share.sqrt(), memory) / n_values
            (gradient,) = torch.autograd.grad(value, leaf)
            return float(value.detach()), gradient.numpy()

        bounds = [(-7.0, 3.0), (-6.0, 6.0), (math.log(SHORTEST), math.log(LONGEST))]
        by_value = [bounds[i // n_outputs] for i in range(len(start))]
        answer = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=by_value, options={"maxiter": 50})
        return -float(answer.fun) * n_values, answer.x


def _unpacked(x: Tensor, n_outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviation, coloured share and memory from numbers without bounds; all white if there are no more."""
    sigma = torch.exp(x[:n_outputs])
    if len(x) == n_outputs:
        return sigma, torch.zeros_like(sigma), torch.ones_like(sigma)
    return sigma, LARGEST_SHARE * torch.sigmoid(x[n_outputs : 2 * n_outputs]), torch.exp(x[2 * n_outputs :])
