"""The posterior of series' latent initial states, given all that was observed of them.

The encoder's posterior is a start. From there the mode is found by Fisher scoring, the posterior's shape there by the
information (Laplace's method), and what is left by importance weights of draws: with few latent dimensions all that
is exact to a few percent and costs little, whatever the encoder missed.

Scoring is Fisher's, damped after Levenberg (1944) and Marquardt (1963). Laplace's method for posteriors: Tierney and
Kadane, "Accurate approximations for posterior moments and marginal densities", JASA 81, 1986. That a share of the
draws is the prior's bounds the weights: Hesterberg, "Weighted average importance sampling and defensive mixture
distributions", Technometrics 37, 1995.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import norm, qmc
from torch import Tensor

from skode.distributed.work import shared_out
from skode.solvers import Solution
from skode.solvers.fields.samples import take_samples
from skode.solvers.solution import Solve
from skode.timeseries.footprint import Footprint
from skode.timeseries.latent_ode import DecoderOutput, LatentModel
from skode.timeseries.noise.selection import LinearisedRows
from skode.timeseries.panel import Panel
from skode.timeseries.rows import Rows
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver

#: Scoring ends where a step would raise the log-posterior by less than this, in nats, or has changed it by less; or
#: after so many steps.
SCORING_TOLERANCE, MAX_SCORING_STEPS = 1e-3, 25

#: Where a step that was to raise it by no more than this, in nats, does not, the solver's error is larger than what is
#: left to gain, and no damping helps.
DOUBTFUL_RISE = 0.03

#: Nor is the damping of steps raised any further where none is found that leads up. A smaller one changes no step, and
#: would have to be raised again.
LEAST_DAMPING, LARGEST_DAMPING = 1e-2, 1e6

#: Difference quotients are taken over this distance, in the prior's standard deviations.
DIFFERENCE = 1e-4

#: Share of the draws that are the prior's.
PRIOR_SHARE = 0.25

#: A noise with a memory is looked for in so many series at most.
MOST_SERIES = 500


@dataclass(frozen=True)
class Posterior:
    """The posteriors of some series: normal, with weights for the draws that predictions are made from.

    Attributes
    ----------
    mean : Tensor of shape (n_series, latent_size), float64
        Means.
    factor : Tensor of shape (n_series, latent_size, latent_size), float64
        Factors ``C`` of the covariances ``C C^T``.
    log_weights : Tensor of shape (n_draws, n_series), float64
        Logarithms of the draws' weights, which sum to 1.
    n_of_prior : int
        How many of these draws, the last ones, are the prior's. They see to it that weights can be right where the
        posterior is much wider than its shape at the mode says.
    """

    mean: Tensor
    factor: Tensor
    log_weights: Tensor
    n_of_prior: int = 0

    @classmethod
    def prior(cls, n_series: int, latent_size: int, n_draws: int) -> Posterior:
        """Standard normals."""
        return cls(
            torch.zeros(n_series, latent_size, dtype=torch.float64),
            torch.eye(latent_size, dtype=torch.float64).expand(n_series, -1, -1).clone(),
            torch.full((n_draws, n_series), -np.log(n_draws), dtype=torch.float64),
        )

    @property
    def n_draws(self) -> int:
        """Number of draws."""
        return len(self.log_weights)

    def draws(self, noise: Tensor) -> Tensor:
        """Initial states of shape (n_draws, n_series, latent_size), from standard normal noise.

        Parameters
        ----------
        noise : Tensor of shape (n_draws, latent_size) or (n_draws, n_series, latent_size)
            The same for all series, or each one's own.
        """
        by_draw = noise.ndim == 2
        if by_draw:
            noise = noise[:, None].expand(-1, len(self.mean), -1)
        noise = noise.to(self.mean)
        draws = self.mean + torch.einsum("nij,knj->kni", self.factor, noise)
        if by_draw and self.n_of_prior:
            draws[-self.n_of_prior :] = noise[-self.n_of_prior :]
        return draws

    def take(self, series: np.ndarray) -> Posterior:
        """Those of some series; the prior for positions below 0."""
        taken = replace(Posterior.prior(len(series), self.mean.shape[1], self.n_draws), n_of_prior=self.n_of_prior)
        known = np.flatnonzero(series >= 0)
        places, rows = torch.from_numpy(known), torch.from_numpy(series[known])
        taken.mean[places], taken.factor[places] = self.mean[rows], self.factor[rows]
        taken.log_weights[:, places] = self.log_weights[:, rows]
        return taken


def normal_draws(n_draws: int, latent_size: int) -> Tensor:
    """Standard normal draws, the same at each call: scrambled Sobol points through the normal quantile function."""
    rng = np.random.default_rng(0)
    if latent_size > qmc.Sobol.MAXDIM:
        return torch.from_numpy(rng.standard_normal((n_draws, latent_size)))
    sobol = qmc.Sobol(latent_size, scramble=True, rng=rng)
    uniform = sobol.random_base2(int(np.ceil(np.log2(n_draws))))[:n_draws]
    return torch.from_numpy(norm.ppf(np.clip(uniform, 1e-9, 1 - 1e-9)))


def infer(
    module: LatentModel,
    panel: Panel,
    tensors: Callable[[Panel], PanelTensors],
    solver: Solver,
    n_draws: int,
    *,
    refined: bool,
) -> Posterior:
    """The posteriors of a panel's series.

    Parameters
    ----------
    module : LatentModel
        The model, in float64.
    panel : Panel
        The observations.
    tensors : callable
        Turns a panel into tensors in the model's units.
    solver : Solver
        The solver.
    n_draws : int
        Draws that predictions will be made from.
    refined : bool
        Whether to go beyond the encoder's posterior.

    Returns
    -------
    Posterior
        On the CPU.
    """
    noise = normal_draws(n_draws, module.latent_size)
    found = Posterior.prior(panel.n_series, module.latent_size, n_draws)
    lengths = np.bincount(panel.codes, minlength=panel.n_series)
    some = np.flatnonzero(lengths > 0)
    footprint = Footprint.of(module, solver.method)

    def of_series(some: np.ndarray) -> tuple[Any, ...]:
        parts = []
        for places in footprint.blocks(module.latent_size + 1, lengths[some]):
            block = some[places]
            longest = int(lengths[block].max())
            at_once = footprint.n_copies(longest, longest, len(block))
            part = Inference(module, tensors(panel.take(block)), solver, at_once).posterior(noise, refined=refined)
            n_of_prior = np.full(len(block), part.n_of_prior)
            parts.append((block, part.mean.cpu(), part.factor.cpu(), part.log_weights.cpu().T, n_of_prior))
        return tuple(
            torch.cat(own) if isinstance(own[0], Tensor) else np.concatenate(own) for own in zip(*parts, strict=True)
        )

    if len(some):
        block, mean, factor, log_weights, n_of_prior = shared_out(of_series, some)
        rows = torch.from_numpy(block)
        found.mean[rows], found.factor[rows], found.log_weights[:, rows] = mean, factor, log_weights.T
        found = replace(found, n_of_prior=int(n_of_prior[0]))
    return found


def linearised_rows(
    module: LatentModel,
    panel: Panel,
    tensors: Callable[[Panel], PanelTensors],
    solver: Solver,
) -> LinearisedRows:
    """The rows of a panel, or of :data:`MOST_SERIES` of its series, linear about the modes of the initial states.

    Parameters are those of :func:`infer`.
    """
    lengths = np.bincount(panel.codes, minlength=panel.n_series)
    some = np.flatnonzero(lengths > 0)
    panel = panel.take(some[np.unique(np.linspace(0, len(some) - 1, min(len(some), MOST_SERIES)).astype(int))])
    parts = []
    lengths = np.bincount(panel.codes, minlength=panel.n_series)
    n_copies = module.latent_size + 1
    for block in Footprint.of(module, solver.method).blocks(n_copies, lengths):
        parts.append(Inference(module, tensors(panel.take(block)), solver, n_copies).linearised().shortened())
    return LinearisedRows.joined(parts)


class Inference:
    """The posteriors of a block of series.

    Parameters
    ----------
    module : LatentModel
        The model.
    series : PanelTensors
        The series.
    solver : Solver
        The solver.
    at_once : int
        Number of draws that are solved at once.
    """

    def __init__(self, module: LatentModel, series: PanelTensors, solver: Solver, at_once: int) -> None:
        self.module, self.series, self.solver, self.at_once = module, series, solver, at_once
        self.rows = Rows(series, process=module.process)
        self.noise = module.likelihood.coloured_noise(series.time, ~torch.isnan(series.y), series.weights)

    @torch.no_grad()
    def posterior(self, noise: Tensor, *, refined: bool) -> Posterior:
        mean, std = self.module.posterior(self.series, self.solver)
        factor = torch.diag_embed(std)
        n_draws, n = len(noise), len(mean)
        uniform = mean.new_full((n_draws, n), -np.log(n_draws))
        if not refined:
            return Posterior(mean, factor, uniform)
        mode, information, value = self.mode(self.start(mean))
        found = torch.isfinite(value)
        mean = torch.where(found[:, None], mode, mean)
        # C = L^-T of the information's Cholesky factor L, so that C C^T is its inverse.
        unit = torch.eye(mode.shape[1]).to(mode)
        lower, failed = torch.linalg.cholesky_ex(torch.where(found[:, None, None], information, unit))
        found &= failed == 0
        by_information = torch.linalg.inv(torch.where(found[:, None, None], lower, unit)).mT
        factor = torch.where(found[:, None, None], by_information, factor)
        n_of_prior = int(n_draws * PRIOR_SHARE)
        z0 = Posterior(mean, factor, uniform, n_of_prior).draws(noise.to(mean))
        # Each draw counts as one of the mixture of both: log q up to a constant.
        from_mode = torch.einsum("nij,knj->kni", torch.linalg.inv(factor), z0 - mean)
        log_q = torch.logaddexp(
            np.log1p(-PRIOR_SHARE) - 0.5 * (from_mode**2).sum(-1) - torch.linalg.slogdet(factor)[1],
            np.log(PRIOR_SHARE) - 0.5 * (z0**2).sum(-1),
        )
        log_weights = self._log_joints(z0) - log_q
        return Posterior(mean, factor, _truncated(log_weights), n_of_prior)

    def start(self, mean: Tensor) -> Tensor:
        """Where the mode is looked for: the encoder's mean, or the likeliest of it and of some draws of the prior."""
        if not self.module.n_starts:
            return mean
        draws = normal_draws(self.module.n_starts, mean.shape[1]).to(mean)[:, None].expand(-1, len(mean), -1)
        tried = torch.cat([mean[None], torch.zeros_like(mean)[None], draws])
        value = torch.nan_to_num(self._log_joints(tried), nan=-torch.inf)
        return tried[value.argmax(0), torch.arange(len(mean), device=mean.device)]

    def mode(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Modes, the information there, and the log-density there; damped Fisher scoring (Levenberg, Marquardt)."""
        z = z.clone()
        value, gradient, information = self._local(z)
        # Where the encoder's mean can't be solved from, the prior's mean may do.
        lost = ~torch.isfinite(value)
        if bool(lost.any()):
            z = torch.where(lost[:, None], 0.0, z)
            value, gradient, information = self._local(z)
        damping = torch.full_like(value, LEAST_DAMPING)
        going = torch.isfinite(value)
        settled = torch.zeros_like(going)  # where the last step has shown that there is hardly anything to gain
        part, places = self, torch.arange(len(z), device=z.device)  # those still going, and their places
        for _ in range(MAX_SCORING_STEPS):
            step = _steps(information, gradient, damping)
            rise = (step * gradient).sum(1)
            # The last step, which is as good as undamped, is still to be taken.
            ending = going & ((rise <= SCORING_TOLERANCE) | settled)
            going = going & torch.isfinite(rise) & (damping < LARGEST_DAMPING)
            if not bool(going.any()):
                break
            if int(going.sum()) <= len(places) // 2:
                places = torch.nonzero(going)[:, 0]
                part = Inference(self.module, self.series.take(places), self.solver, self.at_once)
            step = torch.where(ending[:, None], _steps(information, gradient, torch.zeros_like(damping)), step)
            tried = torch.where(going[:, None], z + step, z)[places]
            new_value, new_gradient, new_information = part._local(tried)
            gain = new_value - value[places]
            better = (gain > 0) & going[places]  # never where it is NaN
            improved = places[better]
            settled[places] = (gain.abs() <= SCORING_TOLERANCE) | ((gain <= 0) & (rise[places] <= DOUBTFUL_RISE))
            z[improved], value[improved] = tried[better], new_value[better]
            gradient[improved], information[improved] = new_gradient[better], new_information[better]
            damping[places] = (damping[places] * torch.where(better, 0.2, 5.0)).clamp_min(LEAST_DAMPING)
            going = going & ~ending
        return z, information, value

    def _local(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-density, its gradient and information at ``z``, by difference quotients of the decoder's output."""
        output, slopes = self.slopes(z)
        rows, likelihood, eta = self.rows, self.module.likelihood, output.eta
        value = self._log_joint(z[None], output.of_first())[0]
        if self.noise is None:
            score, information = (rows.weighted(x.T).T for x in likelihood.score(eta[0], rows.y))
            products = torch.einsum("ird,jrd,rd->rij", slopes, slopes, information)
            gradient = rows.summed(torch.einsum("ird,rd->ri", slopes, score)[None])[0]
            total = rows.summed(products[None])[0]
        else:
            residual = self.noise.whitened(rows.slotted(rows.y - eta[:1]))[0]
            slopes = self.noise.whitened(rows.slotted(slopes))
            gradient = torch.einsum("insd,nsd->ni", slopes, residual)
            total = torch.einsum("insd,jnsd->nij", slopes, slopes)
        gradient, total = gradient - z, total + torch.eye(z.shape[1]).to(z)
        if output.log_rate is not None and output.node_log_rate is not None:
            at_rows = torch.nan_to_num((output.log_rate[1:] - output.log_rate[0]) / DIFFERENCE)
            gradient = gradient + rows.summed((at_rows * rows.timed).T[None])[0]
            at_nodes = torch.nan_to_num((output.node_log_rate[1:] - output.node_log_rate[0]) / DIFFERENCE)
            expected = rows.node_weights * torch.exp(output.node_log_rate[0])
            gradient = gradient - torch.einsum("inq,nq->ni", at_nodes, expected)
            total = total + torch.einsum("inq,jnq,nq->nij", at_nodes, at_nodes, expected)
        sound = torch.isfinite(value) & torch.isfinite(total).all(-1).all(-1)
        return (
            torch.where(sound, value, torch.nan),
            torch.where(sound[:, None], gradient, 0.0),
            torch.where(sound[:, None, None], total, 0.0),
        )

    def slopes(self, z: Tensor) -> tuple[DecoderOutput, Tensor]:
        """The decoder's output for ``z`` and its neighbours, and its slopes of shape (latent_size, n_rows, n_outputs).

        A series' state and its neighbours, one for each latent dimension, are one sample to the solver: they take
        the same steps, so that the differences are those of one smooth function.
        """
        steps = DIFFERENCE * torch.eye(z.shape[1]).to(z)
        output = self._decoded(torch.cat([z[None], z + steps[:, None]]), jointly=True)
        return output, torch.nan_to_num((output.eta[1:] - output.eta[0]) / DIFFERENCE)

    @torch.no_grad()
    def linearised(self) -> LinearisedRows:
        """The rows, on the CPU, about the modes of the initial states; those that can't be solved have none."""
        mode, _, value = self.mode(self.start(self.module.posterior(self.series, self.solver)[0]))
        output, slopes = self.slopes(mode)
        rows = self.rows
        slopes = rows.slotted(slopes)
        residual = rows.slotted(rows.y - output.eta[:1])[0] + torch.einsum("insd,ni->nsd", slopes, mode)
        known = self.series.filled & torch.isfinite(value)[:, None]
        residual = torch.where(known[..., None], residual, torch.nan)
        weights = None if self.series.weights is None else self.series.weights.cpu()
        return LinearisedRows(self.series.time.cpu(), residual.cpu(), slopes.cpu(), weights)

    def _log_joint(self, z0: Tensor, output: DecoderOutput) -> Tensor:
        """``log p(observations, z(0))`` up to a constant, of shape (n_copies, n_series)."""
        return self.module.log_likelihood(output, self.rows, self.noise) - 0.5 * (z0**2).sum(-1)

    def _log_joints(self, z0: Tensor) -> Tensor:
        """The same for any number of copies, as many as memory allows at once."""
        return torch.cat([self._log_joint(some, self._decoded(some)) for some in z0.split(self.at_once)])

    def _decoded(self, z0: Tensor, *, jointly: bool = False) -> DecoderOutput:
        solver = self.solver.replace(on_failure="nan")
        return self.module.decode(z0, self.rows, _jointly(solver, z0.shape[1]) if jointly else solver)


def _steps(information: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    """Damped steps of scoring; NaN where there is none."""
    scale = damping[:, None, None] * torch.diag_embed(torch.diagonal(information, dim1=1, dim2=2))
    step, failed = torch.linalg.solve_ex(information + scale, gradient[..., None])
    return torch.where((failed != 0)[:, None], torch.nan, step[..., 0])


class _Joint:
    """The dynamics of series, with all copies of a series as one sample.

    Parameters
    ----------
    field : callable
        The dynamics of single copies.
    size : int
        Size of a copy's state.
    places : Tensor of int64, of shape (n_series, n_copies)
        The samples of ``field`` that the copies of each series are.
    """

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor], size: int, places: Tensor) -> None:
        self.field, self.size, self.places = field, size, places
        self.of_copies = take_samples(field, places.reshape(-1))

    def take(self, rows: Tensor) -> _Joint:
        """The dynamics of some of the series."""
        return _Joint(self.field, self.size, self.places[rows])

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        n_copies = self.places.shape[1]
        t = torch.as_tensor(t).reshape(-1, 1).expand(len(y), 1).repeat_interleave(n_copies, 0)
        return self.of_copies(t, y.reshape(-1, self.size)).reshape(len(y), -1)


def _jointly(solver: Solver, n: int) -> Solve:
    """The same, with the copies of each of n series as one sample."""

    def solve_jointly(field, span, y0, t_eval=None, **kwargs) -> Solution:
        n_copies, size = len(y0) // n, y0.shape[1]
        joint = _Joint(field, size, torch.arange(len(y0), device=y0.device).view(n_copies, n).t())
        start = y0.view(n_copies, n, size).transpose(0, 1).reshape(n, -1)
        solution = solver(joint, span[:n], start, t_eval=t_eval[:n], **kwargs)
        states = solution.y.view(n, -1, n_copies, size).permute(2, 0, 1, 3).flatten(0, 1)
        return Solution(solution.t, states, None, solution.statistics)

    return solve_jointly


def _truncated(log_weights: Tensor) -> Tensor:
    """Normalised weights, none above ``sqrt(n)`` times their mean (Ionides 2008), so that no draw rules alone."""
    n = len(log_weights)
    log_weights = torch.where(torch.isnan(log_weights), -torch.inf, log_weights)
    lost = torch.isneginf(log_weights).all(0)
    log_weights = torch.where(lost, 0.0, log_weights)
    log_mean = torch.logsumexp(log_weights, 0) - np.log(n)
    log_weights = torch.minimum(log_weights, log_mean + 0.5 * np.log(n))
    return log_weights - torch.logsumexp(log_weights, 0)
