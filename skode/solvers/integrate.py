"""The forward solve: march, read outputs, and remember what the reverse sweep will need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from skode.solvers.device import AheadStepper, runs_ahead, steps_ahead
from skode.solvers.errors import SolverError
from skode.solvers.fields.times import column, time_dtype_of
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.observed_steps import observed
from skode.solvers.forward.outputs import Collector, weights_tensor
from skode.solvers.forward.per_sample_steps import per_sample_steps
from skode.solvers.forward.problem import Problem
from skode.solvers.forward.recording import Recorder
from skode.solvers.forward.run import Path, Run
from skode.solvers.forward.shared_steps import march
from skode.solvers.forward.times_on_device import OwnTimesCollector
from skode.solvers.stepping import new_stepper
from skode.solvers.stepping.step import stage_time
from skode.solvers.stepping.stepper import AdaptiveStepper, Stepper
from skode.solvers.tableaus import runge_kutta


def start_time(problem: Problem, func: Any, y0: Tensor) -> Any:
    """Where the field is first evaluated, just after a jump: of all samples, or a column of one for each."""
    span, stops, dtype = problem.span, problem.control.stops, time_dtype_of(func, y0)
    if span.by_sample is None:
        inside = stops.nudged or span.t0 in stops.jumps
        return stage_time(span.t0, math.copysign(1.0, span.t1 - span.t0), 0.0, (inside, False), dtype)
    t0, t1 = span.by_sample.T
    jumps = stops.jumps and not stops.nudged
    here: Any = column(np.isin(t0, sorted(stops.jumps)), y0).bool() if jumps else stops.nudged
    start, direction = column(t0, y0, dtype), column(np.copysign(1.0, t1 - t0), y0)
    return stage_time(start, direction, 0.0, (here, False), dtype)


def accepted_steps(run: Run, stepper: Stepper, y0: Tensor) -> Iterator[AcceptedStep]:
    """The accepted steps, of the whole state or of each sample by itself."""
    if isinstance(stepper, AheadStepper):
        return steps_ahead(run, stepper, y0)
    if run.control.per_sample:
        return per_sample_steps(run, cast(AdaptiveStepper, stepper), y0)
    if run.control.callbacks is not None:
        return observed(march, run, stepper, y0)
    return march(run, stepper, y0)


def integrate(run: Run, y0: Tensor, *, record: bool, keep_stages: bool = False) -> Path:
    """Solve forward without an autograd graph.

    Parameters
    ----------
    run : Run
        The solve.
    y0 : Tensor
        The initial state, without grad.
    record : bool
        Whether to keep the accepted steps, and the stage activations while they fit the memory budget.
    keep_stages : bool, default=False
        Whether the recorded steps also keep the stages themselves (for dense output and the times' gradients).

    Returns
    -------
    Path
        The outputs and, if recorded, the steps.
    """
    budget = run.gradients.memory_budget
    ahead = runs_ahead(run.problem, y0)
    new: Any = AheadStepper if ahead else new_stepper
    stepper = new(
        run.tableau,
        run.field,
        y0,
        run.statistics,
        tolerances=run.control.tolerances,
        keep=record and (run.tape0 is not None or run.recordings.replay is not None) and budget > 0,
    )
    stepper.start(run.f0)
    collector: Any = Collector(run, y0)
    if run.outputs.on_device is not None:
        collector = OwnTimesCollector(run.outputs.on_device, runge_kutta(run.tableau), collector.path)
    outputs, path = collector.outputs, collector.path
    path.ahead = ahead
    for reading in collector.start:
        outputs.take(reading, y0)
    recorder = Recorder(stepper, budget, keep_stages=keep_stages or stepper.needs_stages) if record else None
    failure = None
    with torch.no_grad():
        try:
            for step in accepted_steps(run, stepper, y0):
                taken = step.taken
                readings = collector.in_step(step)
                for reading in readings:
                    if reading.at_end:
                        outputs.take(reading, taken.y_next, copy=taken.tape is not None and taken.tape.reused)
                    else:
                        outputs.interpolate(reading, step, weights_tensor(taken.tableau, reading.theta, y0))
                if recorder is not None:
                    recorder.record(step, readings)
                if step.samples is None:
                    path.y_end, path.t_end = taken.y_next, step.t_next
                else:
                    path.y_end = path.y_end.index_copy(0, step.samples, taken.y_next)
                if collector.ended:
                    break
        except SolverError as error:
            if run.outputs.on_failure == "raise":
                raise
            failure = error
        if recorder is None:
            path.y_end = path.y_end.clone()
        else:
            path.steps = recorder.steps
        stepper.release()
        return collector.finish(failure)
