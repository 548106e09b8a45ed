"""The latent ODE model with equations of the user's: a normal vector of each series, states, and their read-out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from skode.equations.dynamics import System
from skode.equations.reading import check_functions
from skode.solvers.solution import Solve
from skode.timeseries.decoder import Decoder
from skode.timeseries.driven import CovariatePaths
from skode.timeseries.encoders import Encoder
from skode.timeseries.known_dynamics import KnownEquations
from skode.timeseries.latent_ode import LatentModel, SizeOfWork, bounded_log, solved
from skode.timeseries.legs import solved_in_legs
from skode.timeseries.likelihoods import Likelihood
from skode.timeseries.population import Population
from skode.timeseries.posterior import normal_draws
from skode.timeseries.tensors import PanelTensors
from skode.timeseries.units import Units
from skode.training import Solver, to_numpy

#: With fewer series than this what they have in common of their own numbers is as given.
FEWEST_SERIES = 5

#: Typical sizes of states are those of so many draws of so many series.
N_DRAWS, MOST_SERIES = 8, 32

#: Values that a right-hand side computes on its way, for each of its states and parameters, about.
VALUES_ON_THE_WAY = 8


@dataclass(frozen=True)
class Conversion:
    """From the units of the model to those of the user.

    Attributes
    ----------
    time : float
        The equations' time in a unit of scaled time.
    y_shift, y_scale : array-like of shape (n_outputs,)
        Outputs that are standardised to 0 and 1.
    covariate_shift, covariate_scale : array-like of shape (n_covariates,)
        Covariates likewise.
    """

    time: float
    y_shift: np.ndarray
    y_scale: np.ndarray
    covariate_shift: np.ndarray
    covariate_scale: np.ndarray

    @classmethod
    def of(cls, units: Units, n_outputs: int) -> Conversion:
        """That of a model's units, which have a clock."""
        assert units.clock is not None
        scaler = units.covariate_scaler
        shift, scale = (np.empty(0),) * 2 if scaler is None else (scaler.mean_, scaler.scale_)
        y_shift, y_scale = (np.broadcast_to(np.asarray(x, float), n_outputs) for x in (units.y_shift, units.y_scale))
        return cls(units.time_scale / units.clock.unit, y_shift, y_scale, shift, scale)


@dataclass(frozen=True)
class NamedInputs:
    """Covariates as the equations have them.

    Attributes
    ----------
    names : tuple of str
        Their names.
    shift, scale : Tensor of shape (n_covariates,)
        Covariates that are standardised to 0 and 1.
    """

    names: tuple[str, ...]
    shift: Tensor
    scale: Tensor

    def __call__(self, covariates: Tensor) -> dict[str, Tensor]:
        """Covariates by name, in the user's units: the first of (..., n), of which others may follow."""
        if not self.names:
            return {}
        covariates = covariates[..., : len(self.names)]
        return dict(zip(self.names, (covariates * self.scale + self.shift).unbind(-1), strict=True))


class KnownODE(LatentModel):
    """``dy/dt = f(t, y, p)`` from initial states and with parameters that are functions of a series' ``z ~ N(0, I)``.

    A state, as :meth:`path` gives it, holds all that a read-out needs, in the user's units: the states of the
    equations, shared parameters, those of the series, and the time.

    Parameters
    ----------
    equations : KnownEquations
        The equations.
    conversion : Conversion
        Units.
    encoder, likelihood : Encoder, Likelihood
        As in :class:`LatentODE`.
    process : bool
        Whether times are data.
    width : int
        Of the hidden layer of read-outs that are learnt.
    n_series : int
        Number of series in ``fit``.
    generator : torch.Generator
        Source of the initial weights.
    """

    lead = 0.0
    n_starts = 16
    y_shift: Tensor
    y_scale: Tensor
    covariate_shift: Tensor
    covariate_scale: Tensor
    scale: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        equations: KnownEquations,
        conversion: Conversion,
        *,
        encoder: Encoder,
        likelihood: Likelihood,
        process: bool,
        width: int,
        n_series: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder, self.likelihood, self.process = encoder, likelihood, process
        self.equations, self.time_rate = equations, conversion.time
        system = equations.model.system
        #: The user's right-hand side where it has weights of its own.
        self.rhs: nn.Module | None = None
        if isinstance(system.rhs, nn.Module):
            self.rhs = copy.deepcopy(system.rhs)
        self.latent_size, self.n_states = len(equations.own), system.n_states
        self.n_shared, self.n_parameters = len(equations.shared), len(system.names)
        learns = n_series >= FEWEST_SERIES
        self.population = Population(
            equations.own, equations.shared, equations.priors, equations.spreads, learns=learns
        )
        for name in ("y_shift", "y_scale", "covariate_shift", "covariate_scale"):
            self.register_buffer(name, torch.tensor(np.asarray(getattr(conversion, name)), dtype=torch.float64))
        for name, value in (("scale", 1.0), ("centre", 0.0), ("spread", 1.0)):
            self.register_buffer(name, torch.full((self.n_states,), value, dtype=torch.float64))
        n_inputs = self.n_states + len(equations.inputs)
        self.learnt = [output for output, state in enumerate(equations.observed) if state is None]
        self.decoder = Decoder(n_inputs, len(self.learnt), width, generator) if self.learnt else None
        self.log_intensity = Decoder(n_inputs, 1, width, generator) if process else None

    @property
    def system(self) -> System:
        """The equations, with the weights of the right-hand side that are trained."""
        system = self.equations.model.system
        return system if self.rhs is None else replace(system, rhs=self.rhs)

    @property
    def n_features(self) -> int:
        return len(self.equations.columns)

    def log_hyperprior(self) -> Tensor | None:
        return self.population.log_hyperprior()

    def starts(self, z0: Tensor, series: PanelTensors) -> tuple[Tensor, Tensor]:
        """Initial states (..., n_states) and parameters (..., n_parameters) of vectors (n_copies, n_series, ...).

        Vectors may be longer than ``latent_size``: what follows shifts the shared parameters.
        """
        own = self.population.own_values(z0[..., : self.latent_size])
        shift = z0[..., self.latent_size :]
        shared = self.population.shared_values(shift if shift.shape[-1] else None)
        unknowns = torch.cat([shared.expand(*own.shape[:-1], -1), own], dim=-1)
        inputs: dict[str, Tensor] = {}
        if series.paths is not None:
            at_start = torch.zeros(len(series.time), 1, dtype=torch.float64, device=z0.device)
            known = series.paths.at(torch.arange(len(at_start), device=z0.device), at_start)
            inputs = self.inputs(known.repeat(len(z0), 1))
        y0 = self.equations.initial(self.system, unknowns.flatten(0, 1), inputs)
        return y0.unflatten(0, z0.shape[:2]), unknowns[..., : self.n_parameters]

    def own(self, z0: Tensor, series: PanelTensors) -> Tensor:
        """Initial states and own parameters, of shape (n_copies, n_series, n_states + n_own_parameters)."""
        y0, parameters = self.starts(z0, series)
        return torch.cat([y0, parameters[..., self.n_shared :]], dim=-1)

    def own_states(self, states: np.ndarray) -> np.ndarray:
        """Of states over time the equations' states and own parameters."""
        parameters = states[..., self.n_states + self.n_shared : -1]
        return np.concatenate([states[..., : self.n_states], parameters], axis=-1)

    @property
    def inputs(self) -> NamedInputs:
        """Names and units of covariates."""
        return NamedInputs(self.equations.inputs, self.covariate_shift, self.covariate_scale)

    def path(self, z0: Tensor, times: Tensor, reach: Tensor, series: PanelTensors, solver: Solve) -> Tensor:
        y0, parameters = self.starts(z0, series)
        x0 = torch.cat([y0 / self.scale, parameters], dim=-1)
        field = self._field(series, len(z0))
        if series.events is None:
            x = solved(field, x0, times, reach, solver)
        else:
            x = solved_in_legs(field, x0, times, reach, series.events, solver)
        time = self.clock(series, times)[..., None].to(x).expand(*x.shape[:-1], 1)
        return torch.cat([x[..., : self.n_states] * self.scale, x[..., self.n_states :], time], dim=-1)

    def _field(self, series: PanelTensors, n_copies: int) -> KnownField:
        """The dynamics of several copies of all series, one after another."""
        assert series.start is not None
        paths = None
        if series.paths is not None:
            places = torch.arange(len(series.time), device=series.time.device).repeat(n_copies)
            paths = (series.paths, self.inputs, places)
        return KnownField(self.system, self.scale, self.time_rate, series.start.repeat(n_copies), paths)

    def clock(self, series: PanelTensors, times: Tensor) -> Tensor:
        """Scaled times of series, of shape (n_series, n_times), on the clock of the equations."""
        assert series.start is not None
        return (series.start[:, None] + times) * self.time_rate

    def read_out(self, states: Tensor, covariates: Tensor) -> Tensor:
        system, likelihood = self.system, self.likelihood
        y, t = states[..., : self.n_states], states[..., -1]
        if callable(system.observe):
            p = system.p(states[..., self.n_states : -1].unbind(-1), self.inputs(covariates))
            mean = system.outputs(t, y, p).to(y)
            if mean.shape[-1] != likelihood.n_outputs:
                raise ValueError(
                    f"observe(t, y, p) returns {mean.shape[-1]} outputs, but y has {likelihood.n_outputs}."
                )
            return (likelihood.link(mean) - self.y_shift) / self.y_scale
        eta: list[Tensor] = []
        learnt: list[Tensor] = []
        if self.decoder is not None:
            learnt = list(self.decoder(self._standardised(y), self._over_time(covariates)).unbind(-1))
        for output, state in enumerate(self.equations.observed):
            if state is None:
                eta.append(learnt.pop(0))
            else:
                eta.append((likelihood.link(y[..., state]) - self.y_shift[output]) / self.y_scale[output])
        return torch.stack(eta, dim=-1)

    def log_rate(self, states: Tensor, covariates: Tensor) -> Tensor:
        assert self.log_intensity is not None
        y = self._standardised(states[..., : self.n_states])
        return bounded_log(self.log_intensity(y, self._over_time(covariates)))

    def _over_time(self, covariates: Tensor) -> Tensor:
        """Covariates of rows without those of encoders alone."""
        return covariates[..., : len(self.equations.inputs)]

    def _standardised(self, y: Tensor) -> Tensor:
        return (y - self.centre) / self.spread

    def size_of_work(self) -> SizeOfWork:
        size = self.n_states + self.n_parameters
        width = 0 if self.decoder is None else int(self.decoder.hidden.out_features)
        return SizeOfWork(
            state=size + 1,
            field=VALUES_ON_THE_WAY * size,
            read_out=width + VALUES_ON_THE_WAY * size,
            n_covariates=len(self.equations.inputs),
            keeps_steps=False,
        )

    @torch.no_grad()
    def check(self, series: PanelTensors) -> None:
        """See that the user's functions have the right shape, and derivatives that autograd finds.

        Raises
        ------
        ValueError, TypeError
            Naming ``rhs``, ``observe`` or ``initial``.
        """
        first = series.take(torch.zeros(1, dtype=torch.int64))
        inputs = {}
        if first.paths is not None:
            inputs = self.inputs(first.paths.at(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1)))
        start = float(self.clock(first, torch.zeros(1, 1))[0, 0])
        model = self.equations.model
        by_name: Mapping[str, Tensor] = {name: value[:, None] for name, value in inputs.items()}
        check_functions(model, model.scales.start, start, by_name, self.likelihood.n_outputs)

    @torch.no_grad()
    def measure(self, series: PanelTensors, solver: Solver) -> None:
        """Set the typical sizes of states, by draws of the prior.

        The solver's absolute tolerance is relative to the size over time, or at the start where that is less: so a
        state that grows from little is exact from the start. Read-outs that are learnt have states standardised.
        """
        n = min(len(series.time), MOST_SERIES)
        series = series.take(torch.arange(n, device=series.time.device))
        z0 = normal_draws(N_DRAWS, self.latent_size).to(self.y_scale)[:, None].expand(-1, n, -1)
        z0 = torch.cat([torch.zeros_like(z0[:1]), z0])
        y0 = self.starts(z0, series)[0]
        size = _typical(y0.square().sqrt())
        self.scale.copy_(torch.where(size > 0.0, size, 1.0))
        states = self.path(z0, series.time, series.reach, series, solver.replace(on_failure="nan"))
        y = states[..., : self.n_states]
        y = torch.where(torch.isfinite(y), y, torch.nan)
        over_time = _typical(y.square().nanmean(dim=2).sqrt())
        size = torch.where(size > 0.0, torch.minimum(size, torch.where(over_time > 0.0, over_time, size)), over_time)
        self.scale.copy_(torch.where(size > 0.0, size, 1.0))
        centre = _typical(y.nanmean(dim=2))
        self.centre.copy_(torch.nan_to_num(centre))
        spread = _typical((y - self.centre).square().nanmean(dim=2).sqrt())
        self.spread.copy_(torch.where(spread > 0.0, spread, self.scale))

    @torch.no_grad()
    def shared_values(self) -> dict[str, float]:
        """Shared parameters, by name."""
        values = to_numpy(self.population.shared_values()).astype(np.float64)
        return {parameter.name: float(value) for parameter, value in zip(self.equations.shared, values, strict=True)}


def _typical(values: Tensor) -> Tensor:
    """Medians over copies and series of values (n_copies, n_series, size); 0 where there are none."""
    return torch.nan_to_num(values.flatten(0, 1).nanmedian(dim=0).values)


class KnownField:
    """The equations of samples, in scaled states and time; parameters stand beside the states and stay as they are.

    It holds no weights but those of the right-hand side, for the solver differentiates by all that it finds here.

    Parameters
    ----------
    system : System
        The equations.
    scale : Tensor of shape (n_states,)
        Sizes of states.
    time_rate : float
        The equations' time in a unit of scaled time.
    start : Tensor of shape (n,), float64
        Scaled time of each sample's start, on the clock of the equations.
    paths : tuple of CovariatePaths, NamedInputs and Tensor of int64, of shape (n,); or None
        Covariates of all series, as the equations have them, and the series of each sample.
    leg : Tensor of shape (n, 2), float64, or None
        The first and the last time within which covariates are read: one that jumps at the end of a leg has the value
        before, for whatever the solver evaluates there.
    """

    def __init__(
        self,
        system: System,
        scale: Tensor,
        time_rate: float,
        start: Tensor,
        paths: tuple[CovariatePaths, NamedInputs, Tensor] | None,
        leg: Tensor | None = None,
    ) -> None:
        self.system, self.scale, self.time_rate, self.start, self.paths = system, scale, time_rate, start, paths
        self.leg = leg

    def take(self, rows: Tensor) -> KnownField:
        """The dynamics of some of the samples."""
        paths = self.paths and (*self.paths[:2], self.paths[2][rows])
        leg = None if self.leg is None else self.leg[rows]
        return KnownField(self.system, self.scale, self.time_rate, self.start[rows], paths, leg)

    def within(self, begin: Tensor, end: Tensor) -> KnownField:
        """The dynamics from one time to another, between which covariates do not jump; times of shape (n,)."""
        if self.paths is None or self.paths[0].linear:
            return self
        low, high = torch.minimum(begin, end), torch.maximum(begin, end)
        leg = torch.stack([low, torch.nextafter(high, low)], dim=1)
        return KnownField(self.system, self.scale, self.time_rate, self.start, self.paths, leg)

    def jump(self, t: Tensor, amounts: Tensor, x: Tensor) -> Tensor:
        """Changes of states (n, size) by doses of amounts (n, n_columns) at times (n,)."""
        inputs, n_states = self._inputs(t[:, None]), self.system.n_states
        parameters = x[:, n_states:]
        added = self.system.jump(amounts, self.system.p(parameters.unbind(-1), inputs))
        return torch.cat([added.to(x.dtype) / self.scale, torch.zeros_like(parameters)], dim=1)

    def _inputs(self, t: Tensor) -> dict[str, Tensor]:
        if self.paths is None:
            return {}
        if self.leg is not None:
            t = torch.minimum(torch.maximum(t, self.leg[:, :1]), self.leg[:, 1:])
        paths, named, series = self.paths
        return named(paths.at(series, t))

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1, 1).expand(len(x), 1)
        inputs = self._inputs(t)
        n_states = self.system.n_states
        y, parameters = x[:, :n_states] * self.scale, x[:, n_states:]
        clock = ((self.start + t[:, 0]) * self.time_rate).to(x.dtype)
        derivative = self.system.derivative(clock, y, self.system.p(parameters.unbind(-1), inputs))
        return torch.cat([derivative.to(x.dtype) * (self.time_rate / self.scale), torch.zeros_like(parameters)], dim=1)
