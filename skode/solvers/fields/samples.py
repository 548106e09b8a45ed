"""Functions with data of their own for each sample: what they are on some of the samples only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


@runtime_checkable
class TakesSamples(Protocol):
    """A function of a batch of states that also depends on data of each sample: covariates, parameters, a context.

    Where samples take steps of their own, those that have arrived leave the batch, and the function is evaluated on
    the rest. It says by :meth:`take` what it is there. Functions without this method are evaluated as they are.

    Examples
    --------
    >>> import torch
    >>> from skode.solvers import solve_ivp
    >>> class Decay:
    ...     def __init__(self, rates):
    ...         self.rates = rates
    ...
    ...     def __call__(self, t, y):
    ...         return -self.rates * y
    ...
    ...     def take(self, rows):
    ...         return Decay(self.rates[rows])
    >>> rates = torch.tensor([[0.5], [5.0]], requires_grad=True)
    >>> solution = solve_ivp(Decay(rates), (0.0, 1.0), torch.ones(2, 1), t_eval=[1.0], step_control="per_sample")
    >>> print([f"{y:.2f}" for y in solution.y.flatten().tolist()])  # exp(-rate)
    ['0.61', '0.01']
    """

    def __call__(self, t: Any, y: Tensor) -> Any:
        """The value at ``(t, y)``, of all its samples."""
        ...

    def take(self, rows: Tensor) -> Callable[[Any, Tensor], Any]:
        """The same function of some of its samples, given by their positions, an int64 tensor of shape (m,).

        It depends on the same parameters, and its data are indexed out of the same tensors: in a new
        ``nn.Parameter``, or in a detached tensor, their gradient would be lost. Parts may be taken of a part, by
        positions in it; where it has no method ``take`` they are taken of the whole. Where the function offers its
        own pullback, that of the whole one must also serve the evaluations of the part: what a pullback needs of the
        samples' data belongs to the residuals.
        """
        ...


class _Part:
    """A function on some samples that has no ``take`` of its own: fewer samples are taken of the whole function."""

    def __init__(self, func: Callable[..., Any], whole: Callable[..., Any], rows: Tensor) -> None:
        self._func, self._whole, self._rows = func, whole, rows

    def __call__(self, t: Any, y: Tensor) -> Any:
        return self._func(t, y)

    def take(self, rows: Tensor) -> Callable[[Any, Tensor], Any]:
        """The function on some of these samples."""
        return take_samples(self._whole, self._rows[rows])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._func, name)


class Compiled:
    """A function compiled by ``torch.compile``, which on some samples is one compiled as well.

    Parameters
    ----------
    func : callable
        The function.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func, self.compiled = func, torch.compile(func)  # torch itself remembers what it has compiled
        self.time_dtype = getattr(func, "time_dtype", None)

    def __call__(self, t: Any, y: Tensor) -> Any:
        return self.compiled(t, y)

    def take(self, rows: Tensor) -> Compiled:
        """The function on some samples."""
        func = take_samples(self.func, rows)
        return self if func is self.func else Compiled(func)


def uncompiled(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind one that is compiled for a solve; any other as it is."""
    return func.func if isinstance(func, Compiled) else func


def take_samples(func: Function, rows: Tensor) -> Function:
    """The function on some samples: what its :meth:`~TakesSamples.take` answers, or itself where it has none.

    Raises
    ------
    TypeError, ValueError
        If ``take`` fails, returns something else than a function, or makes new parameters.
    """
    take = getattr(func, "take", None)
    if not callable(take):
        return func
    try:
        with torch.enable_grad():  # the samples' data are differentiated through their parts
            part = take(rows)
    except TypeError as error:
        error.add_note("This is from take(rows), by which func says what it is on some samples; see TakesSamples.")
        raise
    if not callable(part):
        raise TypeError(f"take(rows) of func must return a function of t and y, got {type(part).__name__}.")
    if isinstance(part, nn.Module) and isinstance(func, nn.Module):
        known = {id(parameter) for parameter in func.parameters()}
        if any(id(parameter) not in known for parameter in part.parameters()):
            raise ValueError(
                "take(rows) of func makes new nn.Parameters, which would take the gradient from its own: return a "
                "function over what is indexed out of these, such as lambda t, y: -self.rates[rows] * y."
            )
    return part if callable(getattr(part, "take", None)) else _Part(part, func, rows)  # type: ignore[return-value]
