"""The latent ODE model: encoder, latent dynamics, decoder, and the likelihood of observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skode.distributed.share import anywhere
from skode.dynamics import MLPField
from skode.solvers.devices import is_asynchronous
from skode.solvers.solution import Solve
from skode.timeseries.decoder import Decoder
from skode.timeseries.driven import DrivenField
from skode.timeseries.encoders import Encoder
from skode.timeseries.likelihoods import LARGEST_LOG, Likelihood
from skode.timeseries.noise.ornstein_uhlenbeck import ColouredNoise
from skode.timeseries.panel import Panel
from skode.timeseries.rows import Rows
from skode.timeseries.tensors import PanelTensors

#: A series of median length spans this much of the latent dynamics' time, or more where it changes faster.
HORIZON, LONGEST_HORIZON = 4.0, 64.0
#: Series start this much of the latent dynamics' time before their first row, so that times just before that
#: row lie on a stretch that training has seen.
LEAD = 0.1 * HORIZON
#: Rates of the dynamics, at first, beside those of a perceptron: series begin by standing nearly still.
FIRST_RATE = 0.2


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


@dataclass(frozen=True)
class SizeOfWork:
    """Numbers that solves and read-outs hold, for :class:`skode.timeseries.footprint.Footprint`.

    Attributes
    ----------
    state : int
        Size of the state that is solved for.
    field : int
        Intermediate values of an evaluation of the dynamics.
    read_out : int
        Intermediate values of a read-out.
    n_covariates : int
        Number of covariates.
    keeps_steps : bool
        Whether the solver holds all evaluations of a step.
    """

    state: int
    field: int
    read_out: int
    n_covariates: int
    keeps_steps: bool


class LatentModel(nn.Module):
    """Base of the models: a standard normal vector for each series, latent states over time, and a read-out of them.

    Attributes
    ----------
    latent_size : int
        Size of the vector, which has the prior ``N(0, I)``.
    process : bool
        Whether times are data.
    encoder : Encoder
        Gives the approximate posterior.
    likelihood : Likelihood
        The distribution of the outputs.
    lead : float
        Scaled time from a series' start to its first row.
    horizon : float
        Scaled time from the first to the last row of a typical series.
    decoder, log_intensity : Decoder or None
        Read-outs that are learnt, of outputs and of the intensity of times; None where there is none.
    learnt : index
        The outputs whose read-out is learnt.
    n_starts : int
        Draws of the prior among which a start of the search for the posterior's mode is chosen.
    """

    decoder: Decoder | None
    log_intensity: Decoder | None
    learnt: Any = slice(None)
    latent_size: int
    process: bool
    encoder: Encoder
    likelihood: Likelihood
    lead: float
    horizon = HORIZON
    n_starts = 0

    def posterior(self, series: PanelTensors, solver: Solve) -> tuple[Tensor, Tensor]:
        """The encoder's mean and standard deviation of each series' vector given its observations."""
        return self.encoder(series, solver)

    def path(self, z0: Tensor, times: Tensor, reach: Tensor, series: PanelTensors, solver: Solve) -> Tensor:
        """Latent states of each series at its own times, before and after its start.

        Parameters
        ----------
        z0 : Tensor of shape (n_copies, n_series, latent_size)
            Vectors of the series.
        times : Tensor of shape (n_series, n_times), float64
            Times; NaN: none.
        reach : Tensor of shape (n_series, 2), float64
            How far to solve each series, backward and forward.
        series : PanelTensors
            The series, for their covariates.
        solver : callable
            The solver, a :class:`skode.training.Solver`.

        Returns
        -------
        Tensor of shape (n_copies, n_series, n_times, state_size)
            States; NaN where there is no time.
        """
        raise NotImplementedError

    def read_out(self, states: Tensor, covariates: Tensor) -> Tensor:
        """Parameters of the outputs' distributions, of shape (..., n_outputs)."""
        raise NotImplementedError

    def log_rate(self, states: Tensor, covariates: Tensor) -> Tensor:
        """Logarithm of the intensity of times, per unit of scaled time, where they are a process."""
        raise NotImplementedError

    @property
    def n_features(self) -> int:
        """Number of values that tell a series from others."""
        return self.latent_size

    def log_hyperprior(self) -> Tensor | None:
        """Log-density of what all series share, up to a constant; None where nothing is known of it."""
        return None

    def size_of_work(self) -> SizeOfWork:
        """Memory of a solve and a read-out."""
        raise NotImplementedError

    @torch.no_grad()
    def start_read_outs(self, panel: Panel, time_scale: float) -> None:
        """Let read-outs that are learnt start at the means of the outputs and of the intensity."""
        if self.decoder is not None:
            start = self.likelihood.start(panel.y, panel.row_weights())
            self.decoder.linear.bias.copy_(torch.from_numpy(start[self.learnt]))
        if self.log_intensity is not None:
            total = np.ptp(panel.windows(), axis=1).sum() / time_scale
            events = max(panel.observed().row_weights().sum() - panel.n_series, 1)
            self.log_intensity.linear.bias.fill_(float(np.log(events / total)) if total > 0 else 0.0)

    def decode(self, z0: Tensor, rows: Rows, solver: Solve) -> DecoderOutput:
        """Parameters of the distributions of rows, from vectors of shape (n_copies, n_series, latent_size)."""
        states, at_nodes = rows.taken(self.path(z0, rows.times, rows.reach, rows.series, solver))
        eta = self.read_out(states, rows.covariates)
        if at_nodes is None:
            return DecoderOutput(eta)
        at_nodes = self.log_rate(at_nodes, rows.node_covariates)
        return DecoderOutput(eta, self.log_rate(states, rows.covariates), at_nodes)

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


class LatentODE(LatentModel):
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

    lead = LEAD
    decoder: Decoder

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
        with torch.no_grad():
            for parameter in self.field.layers[-1].parameters():
                parameter.mul_(FIRST_RATE)
        width = max(hidden_layer_sizes, default=encoder.hidden_size)
        n_inputs = latent_size + n_covariates
        self.decoder = Decoder(n_inputs, likelihood.n_outputs, width, generator)
        self.log_intensity = Decoder(n_inputs, 1, width, generator) if process else None

    def path(self, z0: Tensor, times: Tensor, reach: Tensor, series: PanelTensors, solver: Solve) -> Tensor:
        if isinstance(self.field, DrivenField):
            assert series.paths is not None
            return solved(self.field.along(series.paths, len(z0)), z0, times, reach, solver)
        return solved(self.field, z0, times, reach, solver)

    def read_out(self, states: Tensor, covariates: Tensor) -> Tensor:
        return self.decoder(states, covariates)

    def log_rate(self, states: Tensor, covariates: Tensor) -> Tensor:
        assert self.log_intensity is not None
        return bounded_log(self.log_intensity(states, covariates))

    def size_of_work(self) -> SizeOfWork:
        layers: list[nn.Linear] = list(self.field.layers)  # type: ignore[arg-type]
        driven = isinstance(self.field, DrivenField)
        return SizeOfWork(
            state=self.latent_size,
            field=sum(layer.out_features for layer in layers),
            read_out=int(self.decoder.hidden.out_features),
            n_covariates=layers[0].in_features - self.latent_size if driven else 0,
            keeps_steps=not driven,
        )


def bounded_log(rate: Tensor) -> Tensor:
    """The only output of a read-out, as the logarithm of a rate."""
    return rate[..., 0].clamp(-LARGEST_LOG, LARGEST_LOG)


def solved(field: Callable[..., Tensor], z0: Tensor, times: Tensor, reach: Tensor, solver: Solve) -> Tensor:
    """States of series at their own times, before and after their starts; see :meth:`LatentModel.path`.

    Parameters
    ----------
    field : callable
        The dynamics, of all copies of all series one after another.
    z0 : Tensor of shape (n_copies, n_series, state_size)
        States at the starts.
    times, reach, solver
        As there.

    Returns
    -------
    Tensor of shape (n_copies, n_series, n_times, state_size)
    """
    n_copies, start = len(z0), z0.flatten(0, 1)
    if n_copies > 1:
        times, reach = times.repeat(n_copies, 1), reach.repeat(n_copies, 1)
    ahead, before = times >= 0.0, times < 0.0
    any_before = anywhere(bool(before.any()), solver)
    # Whether anything lies ahead is not worth waiting for: something mostly does.
    any_ahead = is_asynchronous(times.device) or anywhere(bool(ahead.any()), solver)

    def states(side: int, t_eval: Tensor) -> Tensor:
        span = torch.stack([torch.zeros_like(reach[:, side]), reach[:, side]], dim=1)
        return solver(field, span, start, t_eval=t_eval).y

    if any_ahead and any_before:
        found = states(1, torch.where(ahead, times, torch.nan))
        answer = torch.where(before[..., None], states(0, torch.where(before, times, torch.nan)), found)
    elif any_ahead or any_before:
        answer = states(1 if any_ahead else 0, times)
    else:
        answer = start.new_full((*times.shape, start.shape[1]), torch.nan)
    return answer.unflatten(0, (n_copies, -1))
