"""The user's functions, and vector fields made of them that the solver calls."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from skode.equations.inputs import Inputs
from skode.equations.users import called
from skode.solvers.transforms import DUAL_LEVEL


class BatchField(Protocol):
    """A vector field of a batch of samples."""

    def take(self, rows: Tensor) -> BatchField:
        """The field on some samples."""

    def __call__(self, t: Tensor, y: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class System:
    """A right-hand side, and what is observed of its states.

    Attributes
    ----------
    rhs : callable
        ``rhs(t, y, p)``, of ``y``'s shape (..., n_states).
    observe : callable or tuple of int
        ``observe(t, y, p)``, of shape (..., n_outputs), or positions of the states that are observed.
    states : tuple of str
        Names of the states.
    names : tuple of str
        Names of the parameters that are estimated, in the order of the arrays that hold them.
    constants : dict of str to float
        Those that are not.
    impulses : tuple
        For each column of doses the position of the state that it is added to, and the name of a parameter that
        multiplies it or None; or a function ``jump(amount, p)``, of shape (..., n_states).
    """

    rhs: Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]
    observe: Any
    states: tuple[str, ...]
    names: tuple[str, ...]
    constants: Mapping[str, float]
    impulses: tuple[tuple[int, str | None] | Callable[..., Tensor], ...] = ()

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.states)

    def p(self, values: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters and inputs by name; those estimated from the values given."""
        like = next(iter([*values, *inputs.values()]), None)
        device = None if like is None else like.device
        fixed = {
            name: torch.tensor(value, dtype=torch.float64, device=device) for name, value in self.constants.items()
        }
        return {**fixed, **inputs, **dict(zip(self.names, values, strict=True))}

    def derivative(self, t: Tensor, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        """``rhs``, whose value is checked."""
        value = called("rhs(t, y, p)", self.rhs, t, y, p)
        if not isinstance(value, Tensor):
            raise TypeError(f"rhs(t, y, p) must return a torch tensor, got {type(value).__name__}.")
        if value.shape != y.shape:
            raise ValueError(
                f"rhs(t, y, p) must return a tensor of y's shape, (..., {self.n_states}), here {tuple(y.shape)}; got "
                f"{tuple(value.shape)}. States lie along the last dimension: y[..., 0] is the first, and torch.stack("
                "[...], dim=-1) puts their derivatives together. Parameters broadcast against y[..., 0], not y."
            )
        return value

    def vector_field(self, values: Tensor, driver: Driver) -> BatchField:
        """The vector field of a batch of samples."""
        return PlainField(self, values, driver)

    def sensitivity_field(self, values: Tensor, slopes: Tensor, driver: Driver) -> BatchField:
        """The same for states together with their sensitivities."""
        return SensitivityField(self, values, slopes, driver)

    def outputs(self, t: Tensor, y: Tensor, p: dict[str, Tensor]) -> Tensor:
        """Outputs of states, of shape (..., n_outputs)."""
        if isinstance(self.observe, tuple):
            return y[..., list(self.observe)]
        value = called("observe(t, y, p)", self.observe, t, y, p)
        if not isinstance(value, Tensor):
            raise TypeError(f"observe(t, y, p) must return a torch tensor, got {type(value).__name__}.")
        if value.shape == y.shape[:-1]:
            value = value.unsqueeze(-1)
        if value.shape[:-1] != y.shape[:-1]:
            raise ValueError(
                f"observe(t, y, p) must return a tensor of shape (..., n_outputs) for y of shape (..., "
                f"{self.n_states}), here {tuple(y.shape)}; got {tuple(value.shape)}."
            )
        return value

    def jump(self, amounts: Tensor, p: dict[str, Tensor]) -> Tensor:
        """Jumps of the states at doses of amounts (..., n_columns), of shape (..., n_states)."""
        parts = [self._jump_of(one, amounts[..., i], p) for i, one in enumerate(self.impulses)]
        return torch.stack(parts).sum(dim=0)

    def _jump_of(self, impulse: Any, amount: Tensor, p: dict[str, Tensor]) -> Tensor:
        if callable(impulse):
            value = called("A function in doses, jump(amount, p)", impulse, amount, p)
            shape = (*amount.shape, self.n_states)
            if not isinstance(value, Tensor) or value.shape[-1:] != shape[-1:] or not _expands(value, shape):
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"A function in doses, jump(amount, p), must return a tensor of shape (..., n_states), here "
                    f"{shape}; got {got}."
                )
            return value.expand(shape)
        state, factor = impulse
        added = amount if factor is None else amount * p[factor]
        there = torch.zeros(self.n_states, dtype=amount.dtype, device=amount.device)
        there[state] = 1.0
        return added[..., None] * there


@dataclass(frozen=True)
class Driver:
    """The inputs of some samples of a batch: of the series that each belongs to.

    Attributes
    ----------
    inputs : Inputs or None
        The inputs of all series; None where there are none.
    series : Tensor of int, of shape (n,)
        The series of each sample.
    leg : Tensor of shape (n, 2) or None
        The first and the last time within which inputs are read: one that jumps at the end of a leg has the value
        before, for whatever the solver evaluates there or beyond.
    """

    inputs: Inputs | None
    series: Tensor
    leg: Tensor | None = None

    def take(self, rows: Tensor) -> Driver:
        """The inputs of some of the samples."""
        if self.inputs is None:
            return self
        return Driver(self.inputs, self.series[rows], None if self.leg is None else self.leg[rows])

    def within(self, spans: Tensor) -> Driver:
        """The inputs of a leg between times (n, 2) in either order; those that jump have the value inside."""
        if self.inputs is None or self.inputs.linear:
            return self
        low, high = spans.amin(dim=1), spans.amax(dim=1)
        return replace(self, leg=torch.stack([low, torch.nextafter(high, low)], dim=1))

    def at(self, t: Tensor) -> dict[str, Tensor]:
        """Inputs by name, of shape (n, 1), at times of that shape."""
        if self.inputs is None:
            return {}
        if self.leg is not None:
            t = torch.minimum(torch.maximum(t, self.leg[:, :1]), self.leg[:, 1:])
        return self.inputs.at(self.series, t)


@functools.cache
def load_forward_ad() -> None:
    """Make a first dual tensor, at which torch imports modules and warns of its own deprecations."""
    with warnings.catch_warnings(), DUAL_LEVEL, forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))


def along(function: Callable[..., Tensor], primal: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """A function's value, and its derivatives along several directions, by forward-mode AD.

    Parameters
    ----------
    function : callable
        Takes a tensor of shape (n, k, size) and returns one of shape (n, k, n_values), each of whose rows depends on
        its own row only.
    primal : Tensor of shape (n, k, size)
        The argument, repeated for each of k directions.
    tangent : Tensor of shape (n, k, size)
        The directions.

    Returns
    -------
    value, derivatives : Tensor of shape (n, k, n_values)
        The value, in each of the k rows; derivatives are 0 where the function does not depend on its argument.
    """
    load_forward_ad()
    with DUAL_LEVEL, forward_ad.dual_level():
        value, derivative = forward_ad.unpack_dual(function(forward_ad.make_dual(primal, tangent)))
    return value, torch.zeros_like(value) if derivative is None else derivative


class PlainField:
    """The vector field of a batch of samples, each with parameters and inputs of its own.

    Parameters
    ----------
    system : System
        The equations.
    values : Tensor of shape (n, n_parameters)
        Estimated parameters of each sample; may carry tangents.
    driver : Driver
        Their inputs.
    """

    def __init__(self, system: System, values: Tensor, driver: Driver) -> None:
        self.system, self.values, self.driver = system, values, driver

    def take(self, rows: Tensor) -> PlainField:
        """The field on some samples."""
        return PlainField(self.system, self.values[rows], self.driver.take(rows))

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        t = t.reshape(-1, 1).expand(len(y), 1)
        inputs = {name: value[:, 0] for name, value in self.driver.at(t).items()}
        return self.system.derivative(t[:, 0], y, self.system.p(self.values.unbind(-1), inputs))


class SensitivityField:
    r"""States together with their sensitivities.

    The state is ``Y`` of shape (n, 1 + k, n_states): ``y`` and its derivatives ``S_j`` by k scaled unknowns, the
    states at the start and the parameters. They follow

    .. math:: dS_j/dt = \frac{\partial f}{\partial y} S_j + \frac{\partial f}{\partial p} \frac{dp}{du_j},

    one directional derivative of ``f`` for each, which forward-mode AD takes with the value.

    Parameters
    ----------
    system : System
        The equations.
    values, slopes : Tensor of shape (n, n_parameters)
        Parameters, and their derivatives by the scaled ones.
    driver : Driver
        The samples' inputs.
    """

    def __init__(self, system: System, values: Tensor, slopes: Tensor, driver: Driver) -> None:
        self.system, self.values, self.slopes, self.driver = system, values, slopes, driver
        load_forward_ad()
        n, (size, m) = system.n_states, values.shape
        # Written anew at each evaluation, all but the parameters.
        self.primal = values.new_empty(size, n + m, n + m)
        self.primal[..., n:] = values[:, None]
        self.tangent = values.new_zeros(size, n + m, n + m)
        self.tangent[:, n:, n:] = torch.diag_embed(slopes)

    def take(self, rows: Tensor) -> SensitivityField:
        """The field on some samples."""
        return SensitivityField(self.system, self.values[rows], self.slopes[rows], self.driver.take(rows))

    def __call__(self, t: Tensor, Y: Tensor) -> Tensor:
        system, n = self.system, self.system.n_states
        t = t.reshape(-1, 1).expand(len(Y), 1)
        self.primal[..., :n] = Y[:, :1]
        self.tangent[..., :n] = Y[:, 1:]
        with DUAL_LEVEL, forward_ad.dual_level():
            known = forward_ad.make_dual(self.primal, self.tangent)
            p = system.p(known[..., n:].unbind(-1), self.driver.at(t))
            value, derivative = forward_ad.unpack_dual(system.derivative(t, known[..., :n], p))
        if derivative is None:
            derivative = torch.zeros_like(value)
        return torch.cat([value[:, :1], derivative], dim=1)

    def part_jacobians(self, t: Tensor, Y: Tensor) -> Tensor:
        """``df/dy``, of shape (n, n_states, n_states): Jacobian of the states and of each of their sensitivities."""
        system, n = self.system, self.system.n_states
        t = t.reshape(-1, 1).expand(len(Y), 1)
        p = system.p(self.values[:, None].unbind(-1), self.driver.at(t))
        directions = torch.eye(n, dtype=Y.dtype).expand(len(Y), n, n)
        y = Y[:, :1].repeat(1, n, 1)
        return along(lambda y: system.derivative(t, y, p), y, directions)[1].transpose(1, 2)


def _expands(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a tensor can be expanded to a shape."""
    sizes = zip(reversed(value.shape), reversed(shape), strict=False)
    return value.ndim <= len(shape) and all(own in (1, wanted) for own, wanted in sizes)
