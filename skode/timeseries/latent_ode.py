"""The latent ODE model: encoder, latent dynamics, decoder, and the likelihood of observations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skode.dynamics import MLPField
from skode.solvers.devices import is_asynchronous
from skode.solvers.solution import Solve
from skode.timeseries.decoder import Decoder
from skode.timeseries.driven import CovariatePaths, DrivenBy, DrivenField
from skode.timeseries.encoders import Encoder
from skode.timeseries.likelihoods import LARGEST_LOG, Likelihood
from skode.timeseries.noise.ornstein_uhlenbeck import ColouredNoise
from skode.timeseries.rows import Rows
from skode.timeseries.tensors import PanelTensors

#: A series of median length spans this much of the latent dynamics' time, whose rates start at about 1.
HORIZON = 4.0
#: Series start this much of the latent dynamics' time before their first row, so that times just before that
#: row lie on a stretch that training has seen.
LEAD = 0.1 * HORIZON


@dataclass(frozen=True)
class DecoderOutput:
    """Output of the decoder for the rows of series.

    Attributes
    ----------
    eta : Tensor of shape (n_copies, n_rows, n_outputs)
        Parameters of the outputs' distributions.
    log_rate, node_log_rate : Tensor of shape (n_copies, n_rows), (n_copies, n_series, n_nodes), or None
        Logarithm of the intensity of the times, at the rows and at nodes of a quadrature.
    """

    eta: Tensor
    log_rate: Tensor | None = None
    node_log_rate: Tensor | None = None

    def of_first(self) -> DecoderOutput:
        """That of the first copy alone."""
        rates = (None if x is None else x[:1] for x in (self.log_rate, self.node_log_rate))
        return DecoderOutput(self.eta[:1], *rates)


class LatentODE(nn.Module):
    """``z(0) ~ N(0, I)``, ``dz/dt = f(z, u(t))``, ``y(t) ~ p(. | g(z(t), u(t)))`` with covariates u.

    Where times are data too, they are a Poisson process of intensity ``exp(h(z(t), u(t)))`` from a series' first row
    to its last (Chen et al. 2018, section 5.1), observed or not; rows at the very start are no events.

    Parameters
    ----------
    n_covariates, latent_size : int
        Sizes of ``u`` and ``z``.
    hidden_layer_sizes : tuple of int
        Hidden layers of the dynamics ``f``; the decoders ``g`` and ``h`` have one, as wide as their widest.
    activation : str
        Activation of the dynamics.
    encoder : Encoder
        Gives the approximate posterior.
    likelihood : Likelihood
        The distribution of the outputs.
    process : bool
        Whether times are data.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_covariates: int,
        *,
        latent_size: int,
        hidden_layer_sizes: tuple[int, ...],
        activation: str,
        encoder: Encoder,
        likelihood: Likelihood,
        process: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.latent_size, self.process = latent_size, process
        self.encoder, self.likelihood = encoder, likelihood
        self.field: MLPField | DrivenField
        if n_covariates:
            self.field = DrivenField(latent_size, n_covariates, hidden_layer_sizes, activation, generator)
        else:
            self.field = MLPField(latent_size, hidden_layer_sizes, activation, False, generator=generator)
        width = max(hidden_layer_sizes, default=encoder.hidden_size)
        n_inputs = latent_size + n_covariates
        self.decoder = Decoder(n_inputs, likelihood.n_outputs, width, generator)
        self.log_intensity = Decoder(n_inputs, 1, width, generator) if process else None

    def posterior(self, series: PanelTensors, solver: Solve) -> tuple[Tensor, Tensor]:
        """The encoder's mean and standard deviation of each series' ``z(0)`` given its observations."""
        return self.encoder(series, solver)

    def path(
        self,
        z0: Tensor,
        times: Tensor,
        reach: Tensor,
        paths: CovariatePaths | None,
        solver: Solve,
    ) -> Tensor:
        """Latent states of each series at its own times, before and after its start.

        Parameters
        ----------
        z0 : Tensor of shape (n_copies, n_series, latent_size)
            Initial states.
        times : Tensor of shape (n_series, n_times), float64
            Times; NaN: none.
        reach : Tensor of shape (n_series, 2), float64
            How far to solve each series, backward and forward.
        paths : CovariatePaths or None
            Their covariates.
        solver : callable
            The solver, a :class:`skode.training.Solver`.

        Returns
        -------
        Tensor of shape (n_copies, n_series, n_times, latent_size)
            States; NaN where there is no time.
        """
        n_copies = len(z0)
        field: MLPField | DrivenBy
        if isinstance(self.field, DrivenField):
            assert paths is not None
            field = self.field.along(paths, n_copies)
        else:
            field = self.field
        start = z0.flatten(0, 1)
        times = times.repeat(n_copies, 1)
        answer: Tensor | None = None
        reach_back, reach_ahead = reach.unbind(1)
        for side, furthest in ((times >= 0.0, reach_ahead), (times < 0.0, reach_back)):
            # Whether anything lies ahead is not worth waiting for: something mostly does.
            ahead = furthest is reach_ahead and is_asynchronous(times.device)
            if not ahead and not bool(side.any()):
                continue
            span = torch.stack([torch.zeros_like(furthest), furthest], dim=1).repeat(n_copies, 1)
            found = solver(field, span, start, t_eval=torch.where(side, times, torch.nan)).y
            answer = found if answer is None else torch.where(side[..., None], found, answer)
        if answer is None:
            answer = start.new_full((*times.shape, start.shape[1]), torch.nan)
        return answer.unflatten(0, (n_copies, -1))

    def decode(self, z0: Tensor, rows: Rows, solver: Solve) -> DecoderOutput:
        """Parameters of the distributions of rows, from initial states of shape (n_copies, n_series, latent_size)."""
        series = rows.series
        states, at_nodes = rows.taken(self.path(z0, rows.times, rows.reach, series.paths, solver))
        eta = self.decoder(states, rows.covariates)
        if self.log_intensity is None or at_nodes is None:
            return DecoderOutput(eta)
        at_nodes = self.log_rate(at_nodes, rows.node_covariates)
        return DecoderOutput(eta, self.log_rate(states, rows.covariates), at_nodes)

    def log_rate(self, states: Tensor, covariates: Tensor) -> Tensor:
        """Logarithm of the intensity of times, per unit of scaled time, where they are a process."""
        assert self.log_intensity is not None
        return self.log_intensity(states, covariates)[..., 0].clamp(-LARGEST_LOG, LARGEST_LOG)

    def log_likelihood(self, output: DecoderOutput, rows: Rows, noise: ColouredNoise | None = None) -> Tensor:
        """``log p(observations | z(0))`` of each series, of shape (n_copies, n_series); with white noise by default.

        A row of weight w counts as w observations of the same values, independent given ``z(0)``.
        """
        if noise is None:
            by_series = rows.summed(rows.weighted(self.likelihood.log_prob(output.eta, rows.y).sum(-1)))
        else:
            by_series = noise.log_prob(rows.slotted(rows.y - output.eta))
        if output.log_rate is None:
            return by_series
        assert output.node_log_rate is not None
        integral = (rows.node_weights * torch.exp(output.node_log_rate)).sum(-1)
        return by_series + rows.summed(rows.timed * output.log_rate) - integral
