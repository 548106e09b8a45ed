"""The objective of latent ODEs: lower bounds of the log-likelihood of the observations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.distributed.share import Share
from skode.timeseries.encoders.base import with_observations
from skode.timeseries.latent_ode import LatentModel
from skode.timeseries.panel import Panel
from skode.timeseries.rows import Rows
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver, as_index

#: Tensors of all series are made once if their slots are at most so many times their rows, else batch by batch.
MOST_PADDED = 4

#: Where the encoder reads only a part of a series, it is at least this share of the rows.
SHORTEST_PART = 1 / 3

#: Windows of the warm-up begin with this share of the rows of a series, but no fewer than so many.
FIRST_WINDOW, FEWEST_IN_WINDOW = 0.1, 4

#: Share of the warm-up in which the noise is held; series that it is estimated from where training ends then, at most.
HELD, MOST_FOR_NOISE = 0.6, 100


@dataclass(frozen=True)
class ELBOSettings:
    """See the parameters of the same names of ``LatentODERegressor``.

    Attributes
    ----------
    importance_weighted : bool
        Whether the draws count by their importance.
    n_samples : int
        Draws per series.
    annealing : float
        Share of training in which the divergence's weight rises to 1.
    warm_up : float
        Share of training in which the objective is that of windows of the series.
    forecasting, hindcasting : float
        Share of the updates in which the encoder reads only a beginning, and of the others, only an end.
    """

    importance_weighted: bool
    n_samples: int
    annealing: float
    forecasting: float
    hindcasting: float = 0.0
    warm_up: float = 0.0


class NegativeELBO:
    r"""The negative evidence lower bound per observed value, over batches of series; a row of weight two counts twice.

    With draws :math:`z_k \sim q(z | x)` and :math:`w_k = p(y | z_k) p(z_k) / q(z_k | x)` it is
    :math:`\mathrm{E} \log p(y | z_1) - \mathrm{KL}(q \| p)` (Kingma, Welling 2014), or
    :math:`\mathrm{E} \log \frac{1}{K} \sum_k w_k` (Burda, Grosse, Salakhutdinov 2016). It is a bound whatever x the
    encoder reads of the series; reading a beginning only, it has to foresee the rest, and reading
    an end only, what was before.

    Training may begin with a warm-up. Of each series it takes windows, anywhere in it, which grow from a tenth of the
    rows to all of them: short solutions, whose errors are small, and whose gradients lead to dynamics that longer ones
    can then be improved from. And the noise of normal outputs is held at a third or so of their spread in the first
    part of it, lest all of them be taken for noise, where the encoder need not tell anything.

    Parameters
    ----------
    module : LatentModel
        The model.
    panel : Panel
        The series.
    tensors : callable
        Turns a panel into tensors in the model's units.
    solver : Solver
        The solver.
    settings : ELBOSettings
        Settings of the bound.
    generator : torch.Generator
        Source of the draws.
    """

    def __init__(
        self,
        module: LatentModel,
        panel: Panel,
        tensors: Callable[[Panel], PanelTensors],
        solver: Solver,
        settings: ELBOSettings,
        generator: torch.Generator,
    ) -> None:
        self.module, self.panel, self.tensors, self.settings = module, panel, tensors, settings
        self.generator = generator
        # Source of what is to be known at once, which is not drawn on a device that would have to be waited for.
        on_cpu = generator.device.type == "cpu"
        self.coin = generator if on_cpu else torch.Generator().manual_seed(generator.initial_seed())
        self.solver = solver.counting()
        self._path_solver = self.solver.replace(reuse_step_size=True)  # the encoder's solves are of another length
        #: How far training has come, from 0 to 1.
        self.progress = 0.0
        longest = np.bincount(panel.codes, minlength=panel.n_series).max(initial=0)
        padded = panel.n_series * longest > MOST_PADDED * len(panel.codes)
        self._all_series = None if padded else with_observations(tensors(panel))

    @property
    def parts(self) -> Sequence[Any]:
        return self.module, self.generator, self.coin, self._path_solver

    def parameters(self) -> Iterable[Tensor]:
        return self.module.parameters()

    def loss(self, rows: np.ndarray | Tensor, share: Share | None = None) -> Tensor:
        series = self._series(rows)
        settings, module = self.settings, self.module
        if self.progress < settings.warm_up and torch.is_grad_enabled():
            window = FIRST_WINDOW + (1.0 - FIRST_WINDOW) * self.progress / settings.warm_up
            fewest = (FEWEST_IN_WINDOW / series.lengths.clamp_min(1)).clamp(window, 1.0)
            series = series.excerpt(fewest, self._uniform(len(rows)).to(fewest))
            series = series.later(series.time[:, 0] - module.lead)
        read = series
        if self._happens(settings.forecasting):
            read = series.beginning(self._shares(len(rows)).to(series.time))
        elif self._happens(settings.hindcasting):
            read = series.ending(self._shares(len(rows)).to(series.time))
            shift = read.time[:, 0] - module.lead
            read, series = read.later(shift), series.later(shift)
        shape = (settings.n_samples, len(rows), module.latent_size)
        noise = torch.randn(shape, generator=self.generator, dtype=torch.float64, device=series.time.device)
        if share is not None:  # with as many slots as all series of the batch have, so that encoders take as many steps
            own = torch.arange(share.first, share.stop, device=series.time.device)
            read, series, noise = read.take(own), series.take(own), share.of(noise, 1)
        mean, std = module.posterior(read, self.solver.with_share(share))
        noise = noise.to(mean)
        z0 = mean + std * noise
        observed = Rows(series, process=module.process)
        output = module.decode(z0, observed, self._path_solver.with_share(share))
        if torch.is_grad_enabled():
            if self.progress < HELD * settings.warm_up:
                module.likelihood.hold()
            else:
                module.likelihood.release(output.eta, observed.y, share)
        log_likelihood = module.log_likelihood(output, observed)
        weight = 1.0
        if self.progress < settings.annealing and torch.is_grad_enabled():
            weight = self.progress / settings.annealing
        if settings.importance_weighted:
            # log p(z) - log q(z), without the constant that both have
            log_ratio = (0.5 * noise**2 + torch.log(std) - 0.5 * z0**2).sum(-1)
            elbo = torch.logsumexp(log_likelihood + weight * log_ratio, dim=0) - math.log(settings.n_samples)
        else:
            divergence = 0.5 * (mean**2 + std**2 - 1.0 - 2.0 * torch.log(std)).sum(-1)
            elbo = log_likelihood.mean(0) - weight * divergence
        hyperprior = module.log_hyperprior()
        if hyperprior is not None:
            elbo = elbo + hyperprior / self.panel.n_series
        n_values = observed.n_values
        if share is not None:
            return -share.sum(elbo) / (share.total(float(n_values))[0] or 1.0)
        return -elbo.sum() / torch.where(n_values > 0, n_values, 1)

    def follow(self, progress: float) -> None:
        """Note how far training has come, from 0 to 1."""
        self.progress = progress

    @torch.no_grad()
    def end(self) -> None:
        """Where training ended early and the noise is held, let it be what the residuals of some series are."""
        if self.module.likelihood.is_held:
            series = self.tensors(self.panel.take(np.arange(min(self.panel.n_series, MOST_FOR_NOISE))))
            mean, _ = self.module.posterior(series, self.solver)
            rows = Rows(series, process=self.module.process)
            self.module.likelihood.release(self.module.decode(mean[None], rows, self.solver).eta, rows.y)

    def _series(self, rows: np.ndarray | Tensor) -> PanelTensors:
        """Those of a batch."""
        if self._all_series is None:
            return self.tensors(self.panel.take(rows.cpu().numpy() if isinstance(rows, Tensor) else rows))
        return self._all_series.take(as_index(rows, self._all_series.time.device)).trimmed()

    def _happens(self, probability: float) -> bool:
        return probability > 0.0 and self._uniform(1, self.coin).item() < probability

    def _shares(self, n: int) -> Tensor:
        """How much of each series is read."""
        return SHORTEST_PART + (1.0 - SHORTEST_PART) * self._uniform(n)

    def _uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        generator = generator or self.generator
        return torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
