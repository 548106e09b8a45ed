r"""Equations with an unknown part: a vector field with weights, a known right-hand side, or the sum of both.

States, inputs and times are standardised, so that weights have one scale and tolerances mean the same for all:
``z = (y - shift) / scale`` and ``tau = t / unit``. In them

.. math:: \frac{dz}{d\tau} = g(z, u; w) + \frac{unit}{scale} f(t, y, p),

and for second order ``dx/dt = v`` with the same for ``dv/dt``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skode.equations.dynamics import Driver, System, along
from skode.equations.reading import check_derivatives
from skode.equations.users import called
from skode.identification.fields import ParametricField


@dataclass(frozen=True)
class Units:
    """From the user's units to standardised ones.

    Attributes
    ----------
    shift, scale : ndarray of shape (n_states,)
        Of the states.
    input_shift, input_scale : ndarray of shape (n_inputs,)
        Of the inputs.
    unit : float
        The time that counts as 1.
    """

    shift: np.ndarray
    scale: np.ndarray
    input_shift: np.ndarray
    input_scale: np.ndarray
    unit: float

    def states(self, y: np.ndarray) -> np.ndarray:
        """Standardised states."""
        return (y - self.shift) / self.scale

    def users(self, z: np.ndarray) -> np.ndarray:
        """States in the user's units."""
        return self.shift + self.scale * z


@dataclass(frozen=True, kw_only=True)
class FieldSystem(System):
    """A system whose right-hand side is a field with weights, and where given a known one beside it.

    Its parameters are the weights and, behind them, those of the known right-hand side; ``rhs`` is the known one or
    None.

    Attributes
    ----------
    field : ParametricField
        The unknown part.
    units : Units
        The units.
    order : int
        1, or 2 where the second half of the states are the derivatives of the first.
    input_names : tuple of str
        Names of the inputs.
    """

    field: ParametricField
    units: Units
    order: int
    input_names: tuple[str, ...]

    def vector_field(self, values: Tensor, driver: Driver) -> Trajectories:
        return Trajectories(self, values, driver)

    def sensitivity_field(self, values: Tensor, slopes: Tensor, driver: Driver) -> Sensitivities:
        return Sensitivities(self, values, slopes, driver)

    @property
    def n_outputs(self) -> int:
        """Number of the field's values."""
        return self.n_states // self.order

    def _points(self, z: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Points at which the field is evaluated: states and standardised inputs."""
        if not inputs:
            return z
        columns = torch.cat([inputs[name].reshape(len(z), 1) for name in self.input_names], dim=1)
        shift, scale = torch.from_numpy(self.units.input_shift), torch.from_numpy(self.units.input_scale)
        return torch.cat([z, (columns - shift) / scale], dim=1)

    def _known(self, t: Tensor, y: Tensor, parameters: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The known right-hand side, all in the user's units, for y of shape (..., n_states)."""
        names = self.names[self.field.n_weights :]
        fixed = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.constants.items()}
        p = {**fixed, **inputs, **dict(zip(names, parameters.unbind(-1), strict=True))}
        value = called("known(t, y, p)", self.rhs, t, y, p)
        shape = (*y.shape[:-1], self.n_outputs)
        if not isinstance(value, Tensor) or value.shape != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"known(t, y, p) must return a tensor of shape (..., {self.n_outputs}) for y of shape (..., "
                f"{self.n_states}), here {tuple(shape)}; got {got}."
            )
        return value

    def check_known(self, y: np.ndarray, parameters: np.ndarray, t: float, inputs: np.ndarray) -> None:
        """See that the known right-hand side has the right shape, and derivatives that autograd finds.

        Parameters
        ----------
        y, parameters, inputs : ndarray of one dimension
            States, parameters and inputs that it is looked at, in the user's units.
        t : float
            The time.

        Raises
        ------
        ValueError
            Where it has not.
        """
        n, when = self.n_states, torch.tensor([[t]], dtype=torch.float64)
        known = torch.from_numpy(np.concatenate([y, parameters])[None])
        columns = {name: torch.from_numpy(inputs[None, [i]]) for i, name in enumerate(self.input_names)}
        check_derivatives(
            "known(t, y, p)",
            lambda known: self._known(when, known[..., :n], known[..., n:], columns),
            known,
            known.abs().clamp_min(1e-3),
        )

    def _rates(self) -> Tensor:
        """Standardised rates per rate in the user's units, of shape (n_outputs,)."""
        return torch.from_numpy(self.units.unit / self.units.scale[-self.n_outputs :])

    def _users(self, z: Tensor) -> Tensor:
        """States in the user's units."""
        return torch.from_numpy(self.units.shift) + torch.from_numpy(self.units.scale) * z

    def _kinematic(self) -> Tensor:
        """The derivative of positions by velocities, in standardised units."""
        n, units = self.n_outputs, self.units
        return torch.from_numpy(units.unit * units.scale[n:] / units.scale[:n])

    def _whole(self, z: Tensor, value: Tensor) -> Tensor:
        if self.order == 1:
            return value
        n = self.n_outputs
        units = self.units
        drift = torch.from_numpy(units.unit * units.shift[n:] / units.scale[:n])
        return torch.cat([self._kinematic() * z[..., n:] + drift, value], dim=-1)

    def value(self, t: Tensor, z: Tensor, values: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Derivatives (n, n_states) at times (n,) of states with parameters (n_parameters,)."""
        w, parameters = values[: self.field.n_weights], values[self.field.n_weights :]
        value = self.field.value(self._points(z, inputs), w)
        if self.rhs is not None:
            flat = {name: column.reshape(len(z)) for name, column in inputs.items()}
            known = self._known(t * self.units.unit, self._users(z), parameters, flat)
            value = value + self._rates() * known
        return self._whole(z, value)

    def jacobians(
        self, t: Tensor, z: Tensor, values: Tensor, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives, and theirs by states (n, n_states, n_states) and parameters (n, n_outputs, n_parameters).

        The latter are of the field's values: those of positions are no functions of the parameters.
        """
        n, m = self.n_states, self.field.n_weights
        value, by_points, by_weights = self.field.jacobians(self._points(z, inputs), values[:m])
        by_states = by_points[..., :n]
        if self.rhs is not None:
            known, slopes = self._known_slopes(t, z, values[m:], inputs)
            value, by_states = value + known, by_states + slopes[..., :n]
            by_weights = torch.cat([by_weights, slopes[..., n:]], dim=2)
        if self.order == 2:
            upper = torch.zeros(len(z), n // 2, n, dtype=z.dtype)
            upper[:, :, n // 2 :] = torch.diag(self._kinematic())
            by_states = torch.cat([upper, by_states], dim=1)
        return self._whole(z, value), by_states, by_weights

    def state_jacobians(
        self, t: Tensor, z: Tensor, values: Tensor, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives and theirs by states, as :meth:`jacobians` has them; none by parameters (n, n_outputs, 0)."""
        n = self.n_states
        columns = {name: column[:, None].expand(-1, n, -1).reshape(-1, 1) for name, column in inputs.items()}

        def value(flat: Tensor) -> Tensor:
            return self.value(t.repeat_interleave(n), flat.reshape(-1, n), values, columns).reshape(flat.shape)

        directions = torch.eye(n, dtype=z.dtype).expand(len(z), n, n).contiguous()
        found, slopes = along(value, z[:, None].repeat(1, n, 1), directions)
        return found[:, 0], slopes.transpose(1, 2), z.new_empty(len(z), self.n_outputs, 0)

    def _known_slopes(
        self, t: Tensor, z: Tensor, parameters: Tensor, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        n, k = self.n_states, self.n_states + len(parameters)
        primal = torch.cat([self._users(z), parameters.expand(len(z), -1)], dim=1)[:, None].expand(-1, k, -1)
        tangent = torch.eye(k, dtype=z.dtype).expand(len(z), k, k)
        columns = {name: column.reshape(len(z), 1) for name, column in inputs.items()}
        t = t[:, None] * self.units.unit
        # Units are changed outside: forward-mode AD is slow where a constant meets a tensor with a tangent.
        value, derivative = along(
            lambda known: self._known(t, known[..., :n], known[..., n:], columns),
            primal.contiguous(),
            tangent.contiguous(),
        )
        slopes = derivative.transpose(1, 2) * self._rates()[:, None]
        slopes[..., :n] *= torch.from_numpy(self.units.scale)
        return value[:, 0] * self._rates(), slopes


class Trajectories:
    """The vector field of a batch of samples that share their parameters, each with inputs of its own."""

    def __init__(self, system: FieldSystem, values: Tensor, driver: Driver) -> None:
        self.system, self.values, self.driver = system, values, driver

    def take(self, rows: Tensor) -> Trajectories:
        """The field on some samples."""
        return Trajectories(self.system, self.values[rows], self.driver.take(rows))

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        t = t.reshape(-1, 1).expand(len(z), 1)
        return self.system.value(t[:, 0], z, self.values[0], self.driver.at(t))


class Sensitivities:
    r"""States together with their derivatives by initial states and parameters, as ``SensitivityField`` has them.

    The state is ``Z`` of shape (n, 1 + k, n_states), and

    .. math:: dS_j/dt = S_j J_z^T + \frac{\partial f}{\partial u_j}.
    """

    def __init__(self, system: FieldSystem, values: Tensor, slopes: Tensor, driver: Driver) -> None:
        self.system, self.values, self.slopes, self.driver = system, values, slopes, driver
        self._plain = bool((slopes[:1] == 1.0).all())

    def take(self, rows: Tensor) -> Sensitivities:
        """The field on some samples."""
        return Sensitivities(self.system, self.values[rows], self.slopes[rows], self.driver.take(rows))

    def __call__(self, t: Tensor, Z: Tensor) -> Tensor:
        system, n = self.system, self.system.n_states
        t = t.reshape(-1, 1).expand(len(Z), 1)
        value, by_states, by_weights = system.jacobians(t[:, 0], Z[:, 0], self.values[0], self.driver.at(t))
        derivative = torch.empty_like(Z)
        derivative[:, 0] = value
        derivative[:, 1:] = Z[:, 1:] @ by_states.transpose(1, 2)
        if not self._plain:
            by_weights = by_weights * self.slopes[0]
        derivative[:, 1 + n :, n - system.n_outputs :] += by_weights.transpose(1, 2)
        return derivative
