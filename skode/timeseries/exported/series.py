"""Series as programs take them: rows in slots, in the units of the model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from skode.timeseries.units import Units


class Slots(NamedTuple):
    """Rows of series in slots.

    Attributes
    ----------
    time : Tensor of shape (n_series, n_slots)
        Scaled times since the series' starts; NaN in empty slots.
    y : Tensor of shape (n_series, n_slots, n_outputs)
        Standardised values; NaN where nothing was observed.
    covariates : Tensor of shape (n_series, n_slots, n_covariates)
        Standardised covariates; 0 in empty slots.
    """

    time: Tensor
    y: Tensor
    covariates: Tensor


class ExportedUnits(nn.Module):
    """See :class:`skode.timeseries.units.Units`.

    Parameters
    ----------
    units : Units
        The scales.
    origin : float
        Start of series of which nothing is known.
    """

    y_scale: Tensor
    y_shift: Tensor
    covariate_scale: Tensor
    covariate_shift: Tensor
    of_time: Tensor

    def __init__(self, units: Units, origin: float) -> None:
        super().__init__()
        scaler, self.n_outputs = units.covariate_scaler, len(units.output_names)
        arrays = {
            "y_scale": units.y_scale,
            "y_shift": units.y_shift,
            "covariate_scale": 1.0 if scaler is None else scaler.scale_,
            "covariate_shift": 0.0 if scaler is None else scaler.mean_,
            "of_time": (units.time_scale, units.lead * units.time_scale, origin),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.as_tensor(array, dtype=torch.float64).clone())

    def origins(self, known_times: Tensor) -> Tensor:
        """Start of each series, of shape (n_series, 1): a lead before its first row."""
        first = torch.where(torch.isnan(known_times), torch.inf, known_times).amin(1, keepdim=True)
        return torch.where(torch.isinf(first), self.of_time[2:3], first - self.of_time[1:2])

    def slots(self, times: Tensor, y: Tensor | None, covariates: Tensor, origins: Tensor) -> Slots:
        """Rows in the units of the model."""
        scaled = (covariates - self.covariate_shift) / self.covariate_scale
        filled = ~torch.isnan(times)
        y = times[..., None].expand(-1, -1, self.n_outputs) if y is None else (y - self.y_shift) / self.y_scale
        return Slots(
            (times - origins) / self.of_time[0:1],
            torch.where(filled[..., None], y, torch.nan),
            torch.where(filled[..., None], scaled, 0.0),
        )


class Course(NamedTuple):
    """Covariates of series over time; see :class:`skode.timeseries.driven.CovariatePaths`.

    Attributes
    ----------
    times : Tensor of shape (n_series, n_knots)
        Times of rows, in order; infinite where there are none.
    values : Tensor of shape (n_series, n_knots, n_covariates)
        Covariates there; behind the last row those of that one.
    last : Tensor of int64, of shape (n_series, 1)
        The last row.
    """

    times: Tensor
    values: Tensor
    last: Tensor

    @classmethod
    def through(cls, times: Tensor, values: Tensor) -> Course:
        """Through rows in any order; NaN: none."""
        times, order = torch.sort(torch.where(torch.isnan(times), torch.inf, times), dim=1)
        last = ((~torch.isinf(times)).long().sum(1, keepdim=True) - 1).clamp(min=0)
        return cls(times, in_order(values, order), last)

    def repeated(self, n_copies: int, *, together: bool) -> Course:
        """Those of several copies of all series, or of each series with its copies next to it."""
        if together:
            return Course(*(x.repeat_interleave(n_copies, dim=0) for x in self))
        return Course(*(x.repeat(n_copies, *[1] * (x.ndim - 1)) for x in self))

    def at(self, t: Tensor) -> Tensor:
        """Covariates of all series at one time each, of shape (n_series, 1): linear between rows, else constant."""
        behind = (self.times <= t).long().sum(1, keepdim=True)
        lower, upper = (behind - 1).clamp(min=0), torch.minimum(behind, self.last)
        lower = torch.minimum(lower, self.last)
        start, length = self.times.gather(1, lower), self.times.gather(1, upper) - self.times.gather(1, lower)
        is_between = length > 0.0  # not where there is no row at all, and both are infinite
        share = torch.where(is_between, (t - start) / torch.where(is_between, length, 1.0), 0.0)
        low, high = in_order(self.values, lower)[:, 0], in_order(self.values, upper)[:, 0]
        return low + share * (high - low)


def in_order(values: Tensor, slots: Tensor) -> Tensor:
    """Values of shape (n_series, n_slots, size) of other slots."""
    return values.gather(1, slots[..., None].expand(-1, -1, values.shape[2]))
