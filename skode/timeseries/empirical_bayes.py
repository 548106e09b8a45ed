r"""The population that series are drawn from, and what they share, by the marginal likelihood of their observations.

About the posteriors' modes rows are linear in what is a series' own, :math:`z_i`, and in what is shared,
:math:`\varphi`: the locations of the population, and parameters of all series. Given that, :math:`\varphi` is found by
generalised least squares, with :math:`z_i` integrated out, and from there the modes anew (M. J. Lindstrom, D. M. Bates,
"Nonlinear mixed effects models for repeated measures data", Biometrics 46, 1990). With the information
:math:`A_i = I + J_i^T W_i J_i` of :math:`z_i`, the weights :math:`W_i` and the slopes :math:`J_i, G_i` of the rows,

.. math::

    \Delta \varphi = \Big( \sum_i G_i^T W_i G_i - G_i^T W_i J_i A_i^{-1} J_i^T W_i G_i \Big)^{-1}
        \sum_i G_i^T \big( s_i - W_i J_i A_i^{-1} (J_i^T s_i - z_i) \big),

with the scores :math:`s_i = \nabla_\eta \log p(y_i)`. At the mode :math:`J_i^T s_i = z_i`; so for locations, whose
slopes are those of :math:`z_i` but for its scale, the sum is that of the modes. Spreads and the noise follow by the
expectations of their squares (A. P. Dempster, N. M. Laird, D. B. Rubin, "Maximum likelihood from incomplete data via
the EM algorithm", J. R. Stat. Soc. B 39, 1977). A step that lowers the marginal likelihood by Laplace's method is
shortened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skode.timeseries.footprint import Footprint
from skode.timeseries.known_ode import KnownODE
from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.panel import Panel
from skode.timeseries.posterior import Inference
from skode.timeseries.rows import Rows
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver, Stopwatch

#: Steps at most, halvings of one at most, and the gain in nats below which they end.
MOST_STEPS, MOST_HALVINGS, LEAST_GAIN = 15, 4, 0.1

#: Longest step of a location, in the spreads that the search starts with.
FURTHEST = 2.0

#: Series at most; more tell little more of what they have in common.
MOST_SERIES = 300


@dataclass(frozen=True)
class Expansion:
    """Sums over the rows of series, linear about the modes of what is their own.

    Attributes
    ----------
    modes : Tensor of shape (n_series, n_own)
        The modes.
    variance : Tensor of shape (n_series, n_own)
        Their posterior variances.
    information, score : Tensor of shape (n_fixed, n_fixed) and (n_fixed,)
        Of the marginal likelihood, for locations that are learnt and then for shared parameters.
    squares, counts : Tensor of shape (n_outputs,)
        Expected squares of what the rows leave, and their number.
    value : float
        Logarithm of the marginal likelihood, up to a constant.
    n_found : int
        Number of series whose modes were found.
    """

    modes: Tensor
    variance: Tensor
    information: Tensor
    score: Tensor
    squares: Tensor
    counts: Tensor
    value: float
    n_found: int


@torch.no_grad()
def fit_population(
    module: KnownODE,
    panel: Panel,
    tensors: Callable[[Panel], PanelTensors],
    solver: Solver,
    stopwatch: Stopwatch | None = None,
) -> None:
    """Set the population, shared parameters and white noise of a model in float64 to those of the largest likelihood.

    Parameters
    ----------
    module : KnownODE
        The model.
    panel : Panel
        The observations.
    tensors : callable
        Turns a panel into tensors in the model's units.
    solver : Solver
        The solver.
    stopwatch : Stopwatch or None
        The time of the fit. No step begins that would leave less than as long again for the posteriors.
    """
    stopwatch = stopwatch or Stopwatch()
    population = module.population
    lengths = np.bincount(panel.observed().codes, minlength=panel.n_series)
    some = np.flatnonzero(lengths > 0)
    panel = panel.take(some[np.unique(np.linspace(0, len(some) - 1, min(len(some), MOST_SERIES)).astype(int))])
    before = population.location.clone(), population.log_ratio.clone()
    began = stopwatch.elapsed
    best = expansion(module, panel, tensors, solver, None)
    longest = stopwatch.elapsed - began
    for _ in range(MOST_STEPS):
        if not np.isfinite(best.value) or stopwatch.left < 2.0 * longest:
            break
        old = [x.clone() for x in _free(module)]
        _step(module, best)
        new = [x.clone() for x in _free(module)]
        for halvings in range(MOST_HALVINGS + 1):
            share = 0.5**halvings
            for x, from_, to in zip(_free(module), old, new, strict=True):
                x.copy_(from_ + share * (to - from_))
            ratio = torch.exp(old[1] - population.log_ratio)
            start = best.modes * ratio + (old[0] - population.location) * torch.exp(-population.log_ratio)
            began = stopwatch.elapsed
            tried = expansion(module, panel, tensors, solver, start)
            longest = max(longest, stopwatch.elapsed - began)
            better = tried.n_found >= best.n_found and tried.value > best.value
            if better or stopwatch.left < 2.0 * longest:
                break
        if not better:
            for x, from_ in zip(_free(module), old, strict=True):
                x.copy_(from_)
            break
        gain, best = tried.value - best.value, tried
        if gain < LEAST_GAIN:
            break
    module.encoder.rescale(
        (before[0] - population.location) * torch.exp(-population.log_ratio),
        torch.exp(before[1] - population.log_ratio),
    )


def _free(module: KnownODE) -> list[Tensor]:
    """The tensors that are estimated."""
    population, likelihood = module.population, module.likelihood
    noise = [likelihood.log_noise] if isinstance(likelihood, Gaussian) else []
    return [population.location, population.log_ratio, population.shared_location, *noise]


def _step(module: KnownODE, at: Expansion) -> None:
    """Take a full step from an expansion."""
    population, learnt = module.population, module.population.learnt
    ridge = 1e-9 * torch.diagonal(at.information).clamp_min(1e-300)
    shift = torch.linalg.lstsq(at.information + torch.diag(ridge), at.score[:, None]).solution[:, 0]
    shift = shift * (FURTHEST / shift.abs().amax().clamp_min(FURTHEST)) if len(shift) else shift
    n_learnt = int(learnt.sum())
    ratio = torch.exp(population.log_ratio[learnt])
    beyond = at.modes[:, learnt] - shift[:n_learnt] / ratio
    squares = (at.variance[:, learnt] + beyond**2).sum(0) / max(len(at.modes) - 1, 1)
    population.location[learnt] += shift[:n_learnt]
    population.log_ratio[learnt] += 0.5 * torch.log(squares)
    population.shared_location.add_(shift[n_learnt:])
    if isinstance(module.likelihood, Gaussian):
        seen = (at.counts > 0.0) & (at.squares > 0.0)
        new = 0.5 * torch.log(at.squares / at.counts)
        module.likelihood.log_noise.copy_(torch.where(seen, new, module.likelihood.log_noise))


def expansion(
    module: KnownODE,
    panel: Panel,
    tensors: Callable[[Panel], PanelTensors],
    solver: Solver,
    start: Tensor | None,
) -> Expansion:
    """The expansion about the modes, which are looked for from a start, or from the encoder's means."""
    population = module.population
    n_own, n_shared = module.latent_size, module.n_shared
    learnt = torch.nonzero(population.learnt)[:, 0]
    n_fixed = len(learnt) + n_shared
    # From the slopes by what is a series' own and by shared parameters to those by what is fixed.
    fixed = torch.zeros(n_own + n_shared, n_fixed).to(population.spread)
    fixed[learnt, torch.arange(len(learnt))] = torch.exp(-population.log_ratio[learnt])
    fixed[n_own + torch.arange(n_shared), len(learnt) + torch.arange(n_shared)] = 1.0
    modes, variance = (torch.zeros(panel.n_series, n_own).to(fixed) for _ in range(2))
    given = population.shared_given.to(fixed)
    prior = torch.cat([torch.zeros(len(learnt)).to(fixed), given])
    information = torch.diag(prior)
    score = -prior * torch.cat([torch.zeros(len(learnt)).to(fixed), population.shared_location])
    squares, counts = (torch.zeros(panel.y.shape[1]).to(fixed) for _ in range(2))
    value = float(population.log_hyperprior())
    found = torch.zeros(panel.n_series, dtype=torch.bool)
    lengths = np.bincount(panel.codes, minlength=panel.n_series)
    n_copies = n_own + n_shared + 1
    for block in Footprint.of(module, solver.method).blocks(n_copies, lengths):
        inference = Inference(module, tensors(panel.take(block)), solver, n_copies)
        rows, likelihood = inference.rows, module.likelihood
        here = torch.from_numpy(block)
        first = inference.start(module.posterior(inference.series, solver)[0]) if start is None else start[here]
        z, own_information, log_joint = inference.mode(first)
        sound = torch.isfinite(log_joint)
        output, slopes = inference.slopes(torch.cat([z, z.new_zeros(len(z), n_shared)], dim=1))
        eta = output.eta[0]
        of_rows, weights = (rows.weighted(x.T).T for x in likelihood.score(eta, rows.y))
        products = _summed(rows, torch.einsum("ird,jrd,rd->rij", slopes, slopes, weights))
        gradients = _summed(rows, torch.einsum("ird,rd->ri", slopes, of_rows))
        unit = torch.eye(n_own).to(z)
        lower, failed = torch.linalg.cholesky_ex(torch.where(sound[:, None, None], own_information, unit))
        sound &= (failed == 0) & torch.isfinite(products).all(-1).all(-1)
        covariance = torch.cholesky_inverse(torch.where(sound[:, None, None], lower, unit))
        cross = products[:, :n_own] @ fixed
        marginal = fixed.T @ products @ fixed - cross.mT @ covariance @ cross
        keep = sound.to(z)
        information = information + (torch.nan_to_num(marginal) * keep[:, None, None]).sum(0)
        missed = (covariance @ (gradients[:, :n_own] - z)[..., None])[..., 0]
        by_shared = gradients[:, n_own:] - (products[:, n_own:, :n_own] @ missed[..., None])[..., 0]
        scores = torch.cat([z[:, learnt] * torch.exp(-population.log_ratio[learnt]), by_shared], dim=1)
        score = score + (torch.nan_to_num(scores) * keep[:, None]).sum(0)
        spread = torch.einsum("ird,rij,jrd->rd", slopes[:n_own], covariance[rows.filled[0]], slopes[:n_own])
        left = (torch.nan_to_num(rows.y - eta)) ** 2 + spread
        seen = (~torch.isnan(rows.y) & sound[rows.filled[0], None]).to(z)
        squares = squares + rows.weighted((left * seen).T).sum(1)
        counts = counts + rows.weighted(seen.T).sum(1)
        modes[here], variance[here] = z, torch.diagonal(covariance, dim1=1, dim2=2)
        found[here] = sound
        logs = torch.log(torch.diagonal(lower, dim1=1, dim2=2)).sum(1)
        value += float(torch.where(sound, log_joint - logs, 0.0).sum())
    if not bool(found.any()):
        value = -np.inf
    return Expansion(modes, variance, information, score, squares, counts, value, int(found.sum()))


def _summed(rows: Rows, values: Tensor) -> Tensor:
    """Sums over each series' rows, of values (n_rows, ...)."""
    return rows.summed(values[None])[0]
