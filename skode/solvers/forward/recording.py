"""Accepted steps, kept for the reverse sweep and for dense output within a bound of memory."""

from __future__ import annotations

from torch import Tensor

from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.output_times import Reading
from skode.solvers.stepping.step import TakenStep
from skode.solvers.stepping.stepper import ReversibleStepper


class Recorder:
    """Keeps the steps of one solve, with their evaluations as long as these fit the budget.

    Parameters
    ----------
    stepper : ReversibleStepper
        Takes the steps; it is told to keep no more evaluations once the budget is spent.
    budget : int
        Bytes that evaluations may take.
    keep_stages : bool
        Whether the stages are kept too.

    Attributes
    ----------
    steps : list of AcceptedStep
        The steps so far.
    """

    def __init__(self, stepper: ReversibleStepper, budget: int, *, keep_stages: bool) -> None:
        self.stepper, self.budget, self.keep_stages = stepper, budget, keep_stages
        self.steps: list[AcceptedStep] = []

    def record(self, step: AcceptedStep, readings: list[Reading]) -> None:
        """Keep a step and the outputs read off it, before the stepper moves on."""
        stepper, taken = self.stepper, step.taken
        tape = taken.tape
        if stepper.keep and tape is not None:
            nbytes = tape.nbytes()
            if nbytes > self.budget:
                stepper.stop_keeping()
            else:
                self.budget -= nbytes
        if not stepper.keep:
            taken.tape = None
        held = taken.lasting and stepper.keep  # until nothing refers to the step any longer
        if tape is not None and tape.reused and not held:  # the state is wanted longer than that memory
            taken.y_next = taken.y_next.clone()
        first = None
        if self.keep_stages:
            assert taken.stages is not None
            taken.stages = taken.stages.clone()
        else:
            first = self._first_stage(taken, held=held)
            taken.stages = None
        if not held and taken.lasting:
            taken.y = taken.y.clone()
        step.readings, step.first = readings, first
        self.steps.append(step)

    def _first_stage(self, taken: TakenStep, *, held: bool) -> Tensor | None:
        """The first stage, where a step is pulled back more cheaply with it and there is room."""
        if not self.stepper.keeps_first:
            return None
        self.budget -= taken.y.numel() * taken.y.element_size()
        if self.budget < 0:
            return None
        assert taken.stages is not None
        return taken.stages[0] if held else taken.stages[0].clone()
