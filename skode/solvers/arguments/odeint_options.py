"""torchdiffeq's ``method``, ``options`` and ``adjoint_*`` arguments, checked and as the engine takes them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.arguments.callbacks import FIXED, NAMES, callbacks_of
from skode.solvers.arguments.checks import (
    check_choice,
    check_monotone,
    check_positive,
    check_times,
    check_tolerance,
)
from skode.solvers.arguments.step_arguments import DEFAULT_MAX_STEPS, StepArguments
from skode.solvers.arguments.tuple_state import Part, parts_of
from skode.solvers.forward.problem import BackwardSolve
from skode.solvers.forward.step_control import StepControl
from skode.solvers.scipy_solver import SOLVERS, ScipySolver
from skode.solvers.tableaus import Method, get_method
from skode.solvers.tableaus.interpolation import INTERPOLATIONS
from skode.solvers.tolerances import Tolerances

#: Options about steps.
STEP_OPTIONS = (
    *("first_step", "min_step", "max_step", "max_num_steps", "step_t", "jump_t", "norm", "dtype"),
    *("step_size", "grid_constructor", "perturb", "interp", "solver", "controller"),
)

#: torchdiffeq's options, and skode's own.
OPTIONS = (*STEP_OPTIONS, "memory_budget", "seminorm", "compile")

#: torchdiffeq's options that SciPy's solvers have.
SCIPY_OPTIONS = ("solver", "first_step", "min_step", "max_step")

#: Other names of torchdiffeq's for its methods.
ALIASES: dict[Any, str] = {None: "dopri5", "fixed_adams": "implicit_adams"}


def check_options(options: Any, *, name: str = "options", known: Sequence[str] = OPTIONS) -> dict[str, Any]:
    """A copy of options whose names are known."""
    if not isinstance(options, Mapping | None):
        raise TypeError(f'{name} must be a dict, such as {{"step_size": 0.1}}, or None; got {options!r}.')
    chosen = dict(options or {})
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"{name} has unknown keys {unknown}; the known ones are {sorted(known)}.")
    if chosen.get("step_size") is not None and chosen.get("grid_constructor") is not None:
        raise ValueError(f"{name} must not have both step_size and grid_constructor.")
    return chosen


def known_method(name: Any) -> Method:
    """A method by skode's name, or torchdiffeq's."""
    if isinstance(name, str | None):
        name = ALIASES.get(name, name)
    return get_method(name)


def supported(method: Method) -> tuple[str, ...]:
    """The callbacks that a method calls."""
    return NAMES if method.adaptive else FIXED


def interpolating(method: Method, options: dict) -> Method:
    """The method with the interpolant that ``options["interp"]`` names; that plays no part where steps are adaptive."""
    _refuse_idle(options, method)
    if options.get("interp") is None:
        return method
    return INTERPOLATIONS[check_choice("options['interp']", options["interp"], list(INTERPOLATIONS))](method)


def control_of(
    method: Method, func: Any, y0: Tensor, times: np.ndarray, options: dict, *, rtol: Any, atol: Any
) -> StepControl:
    """Step control as torchdiffeq's options say, over output times or between ``t0`` and an end without end."""
    grid: np.ndarray | None = times
    if options.get("grid_constructor") is not None:
        grid = _constructed(options["grid_constructor"], func, y0, times)
    arguments = StepArguments(
        rtol=rtol,
        atol=atol,
        norm=options.get("norm", "rms"),
        controller=options.get("controller", "I"),
        first_step=options.get("first_step"),
        min_step=options.get("min_step") or None,  # torchdiffeq's default is 0
        max_step=None if options.get("max_step") == math.inf else options.get("max_step"),
        max_steps=options.get("max_num_steps", DEFAULT_MAX_STEPS),
        step_size=options.get("step_size"),
        grid=grid,
        step_t=options.get("step_t"),
        jump_t=options.get("jump_t"),
        perturb=bool(options.get("perturb", False)),
    )
    return arguments.control(method, float(times[0]), float(times[-1]), y0)


def scipy_solver_of(options: dict, tolerances: Tolerances, where: str = "options") -> ScipySolver:
    """The one of SciPy's solvers that options describe."""
    name = check_choice(f"{where}['solver']", options.get("solver", "LSODA"), SOLVERS)
    if idle := sorted(set(options) - set(SCIPY_OPTIONS)):
        raise ValueError(
            f"{where} {idle} play no part with method='scipy_solver', which takes {sorted(SCIPY_OPTIONS)}."
        )
    unbounded = {"first_step": None, "min_step": 0.0, "max_step": np.inf}
    chosen = {key: options[key] for key, value in unbounded.items() if options.get(key, value) not in (None, value)}
    steps = {key: check_positive(f"{where}['{key}']", value) for key, value in chosen.items()}
    if "min_step" in steps and name != "LSODA":
        raise ValueError(f"{where}['min_step'] is for SciPy's LSODA; {name} finds its smallest step by itself.")
    if isinstance(tolerances.rtol, Tensor) and name in ("Radau", "BDF"):
        raise ValueError(f"rtol must be one number for SciPy's {name}; atol may be one for each element.")
    return ScipySolver(name, tolerances, steps)


@dataclass(frozen=True)
class AdjointArguments:
    """torchdiffeq's ``adjoint_*`` arguments; see :func:`skode.solvers.odeint_adjoint`."""

    rtol: Any = None
    atol: Any = None
    method: Any = None
    options: Any = None
    params: Iterable[Tensor] | None = None

    def of_parts(self, parts: Sequence[Part]) -> AdjointArguments:
        """The arguments for a state that is a tuple, where a norm of the user's receives the state's parts."""
        norm = (self.options or {}).get("norm")
        if not callable(norm):
            return self

        def of_flat(state: tuple[Tensor, ...]) -> Tensor:
            time, y, adjoint, *gradients = state
            return norm((time, *parts_of(y, parts), *parts_of(adjoint, parts), *gradients))

        return replace(self, options={**self.options, "norm": of_flat})

    def tensors(self) -> tuple[Tensor, ...] | None:
        """The tensors whose gradients are wanted; None: all that are found."""
        if self.params is None:
            return None
        given = tuple(self.params)
        if wrong := [type(tensor).__name__ for tensor in given if not isinstance(tensor, Tensor)]:
            raise TypeError(f"adjoint_params must hold torch tensors, got {wrong}.")
        wanted = tuple(tensor for tensor in given if tensor.requires_grad)
        if len(wanted) < len(given) and callable((self.options or {}).get("norm")):
            warnings.warn(
                f"{len(given) - len(wanted)} of adjoint_params do not require grad and are left out of the adjoint "
                "equation: adjoint_options['norm'] does not receive them.",
                stacklevel=4,
            )
        return wanted

    def solve(self, func: Any, forward: Method, control: StepControl, options: dict) -> BackwardSolve:
        """How the adjoint equation is solved."""
        chosen = check_options(self.options, name="adjoint_options", known=STEP_OPTIONS)
        norm = chosen.pop("norm", None)
        if not (norm in (None, "seminorm") or callable(norm)):
            raise ValueError(f"adjoint_options['norm'] must be \"seminorm\" or a callable, got {norm!r}.")
        method = self._method(forward, options)
        tolerances = self._tolerances(control.tolerances)
        callbacks = callbacks_of(func, supported(method), method.name, suffix="_adjoint")
        way: Callable[[Any, Tensor, float, float], StepControl] | None = None
        if chosen or method is not forward:
            _refuse_idle(chosen, method, name="adjoint_options")
            settings = {"rtol": tolerances.rtol, "atol": tolerances.atol}

            def way(func: Any, y: Tensor, t: float, t_next: float) -> StepControl:
                return control_of(method, func, y, np.array([t, t_next]), chosen, **settings)

            # What is wrong is said now rather than in the backward pass.
            now = {key: value for key, value in chosen.items() if key != "grid_constructor"}
            control_of(method, None, torch.empty(0), np.array([0.0, 1.0]), now, **settings)
        return BackwardSolve(
            tableau=method,
            control=way,
            tolerances=tolerances,
            norm=norm if callable(norm) else None,
            seminorm=norm == "seminorm" or bool(options.get("seminorm", False)),
            callbacks=callbacks,
        )

    def scipy_solver(self, forward: ScipySolver) -> ScipySolver:
        """The solver of the adjoint equation where SciPy solves the equation itself."""
        if self.method not in (None, "scipy_solver"):
            raise ValueError(
                f"adjoint_method={self.method!r} does not go with method='scipy_solver', whose adjoint equation SciPy "
                "solves as well: choose another of its solvers by adjoint_options={'solver': ...}."
            )
        tolerances = self._tolerances(forward.tolerances)
        if self.options is None:
            return replace(forward, tolerances=tolerances)
        return scipy_solver_of(check_options(self.options), tolerances, where="adjoint_options")

    def _method(self, forward: Method, options: dict) -> Method:
        if self.method is None or ALIASES.get(self.method, self.method) == forward.name:
            return forward
        if self.method == "scipy_solver":
            raise ValueError("adjoint_method='scipy_solver' goes with method='scipy_solver' alone.")
        if self.options is None and options.keys() - {"norm"}:
            raise ValueError(
                f"adjoint_options must be given beside adjoint_method={self.method!r}, another method than "
                f"{forward.name!r}, whose options {sorted(options.keys() - {'norm'})} it can't take over."
            )
        return known_method(self.method)

    def _tolerances(self, forward: Tolerances) -> Tolerances:
        tightest = forward.tightest()
        rtol = tightest.rtol if self.rtol is None else check_tolerance("adjoint_rtol", self.rtol)
        atol = tightest.atol if self.atol is None else check_tolerance("adjoint_atol", self.atol)
        return Tolerances(rtol, atol)


def _refuse_idle(options: dict, method: Method, name: str = "options") -> None:
    """Refuse options that would play no part with this method."""
    idle = {"solver"} | ({"grid_constructor", "interp"} if method.adaptive else set())
    if found := sorted(idle & set(options)):
        raise ValueError(f"{name} {found} play no part with method={method.name!r}.")


def _constructed(constructor: Any, func: Any, y0: Tensor, times: np.ndarray) -> np.ndarray:
    """A grid of steps made by the user's function, checked."""
    if not np.isfinite(times).all():
        raise ValueError("options['grid_constructor'] needs an end of time: with event_fn pass step_size.")
    made = constructor(func, y0, torch.from_numpy(times).to(y0.device))
    grid, _ = check_times("options['grid_constructor']", made)
    check_monotone("options['grid_constructor']", grid)
    if len(grid) < 2 or not np.isclose(grid[0], times[0]) or not np.isclose(grid[-1], times[-1]):
        raise ValueError(
            f"options['grid_constructor'] must return a grid from {times[0]} to {times[-1]}, got "
            f"{len(grid)} times from {grid[0]} to {grid[-1]}."
        )
    grid[0], grid[-1] = times[0], times[-1]
    return grid
