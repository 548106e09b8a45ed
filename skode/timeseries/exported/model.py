"""The model as a graph: paths of latent states, and their read-out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skode.dynamics.activations import get_activation
from skode.serving import TracedSolver, traceable
from skode.timeseries.driven import DrivenField
from skode.timeseries.exported.encoders import ExportedEncoder
from skode.timeseries.exported.series import Course, Slots
from skode.timeseries.latent_ode import LatentODE


class ExportedModel(nn.Module):
    """See :class:`skode.timeseries.latent_ode.LatentODE`.

    Parameters
    ----------
    module : LatentODE
        The model, in float64.
    solver : TracedSolver
        The solver.
    """

    def __init__(self, module: LatentODE, solver: TracedSolver) -> None:
        super().__init__()
        self.module, self.solver = module, solver
        self.encoder = ExportedEncoder(module.encoder, solver)
        self.latent_size, self.has_memory = module.latent_size, module.likelihood.has_memory

    def course(self, *rows: Slots) -> Course | None:
        """The covariates over time, where they drive the dynamics."""
        if not isinstance(self.module.field, DrivenField):
            return None
        values = torch.cat([slots.covariates for slots in rows], dim=1)
        return Course.through(torch.cat([slots.time for slots in rows], dim=1), values)

    def states(self, z0: Tensor, times: Tensor, end: Tensor, course: Course | None) -> Tensor:
        """Latent states at times on one side of the start.

        Parameters
        ----------
        z0 : Tensor of shape (n_copies, n_series, latent_size)
            States at the starts.
        times : Tensor of shape (n_series, n_times), or (n_copies, n_series, n_times)
            Times; NaN: none.
        end : Tensor of shape (n_series,), or (n_copies, n_series)
            How far to solve each series.
        course : Course or None
            Their covariates.

        Returns
        -------
        Tensor of shape (n_copies, n_series, n_times, latent_size)
        """
        n_copies = z0.shape[0]
        times, end = (x.expand(n_copies, *x.shape[-ndim:]).flatten(0, 1) for x, ndim in ((times, 2), (end, 1)))
        span = torch.stack([torch.zeros_like(end), end], dim=1)
        course = None if course is None else course.repeated(n_copies, together=False)
        found = self.solver(self.field(course), span, z0.flatten(0, 1), t_eval=times).y
        return found.unflatten(0, (n_copies, -1))

    def states_together(self, z0: Tensor, times: Tensor, end: Tensor, course: Course | None) -> Tensor:
        """The same, with the copies of each series as one sample of the solver."""
        n_copies, size = z0.shape[0], self.latent_size
        span = torch.stack([torch.zeros_like(end), end], dim=1)
        course = None if course is None else course.repeated(n_copies, together=True)
        field = self.field(course)

        def together(t: Tensor, y: Tensor) -> Tensor:
            return field(t.repeat_interleave(n_copies, 0), y.reshape(-1, size)).reshape(y.shape)

        found = self.solver(together, span, z0.transpose(0, 1).flatten(1), t_eval=times).y
        return found.unflatten(2, (n_copies, size)).permute(2, 0, 1, 3)

    def field(self, course: Course | None):
        """The dynamics of all copies of all series."""
        field = self.module.field
        if course is None:
            return traceable(field)
        first, *rest = field.layers
        h = get_activation(field.activation).value

        def driven(t: Tensor, z: Tensor) -> Tensor:
            x = first(torch.cat([z, course.at(t)], dim=1))
            for layer in rest:
                x = layer(h(x))
            return x

        return driven

    def read_out(self, states: Tensor, covariates: Tensor) -> Tensor:
        """Parameters of the outputs' distributions, of states of shape (n_copies, n_series, n_slots, latent_size)."""
        decoder = self.module.decoder
        if covariates.shape[2]:
            states = torch.cat([states, covariates[None].expand(states.shape[0], -1, -1, -1)], dim=3)
        return decoder.linear(states) + decoder.bent(nn.functional.silu(decoder.hidden(states)))
