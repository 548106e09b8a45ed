"""Solves on a device that should not be waited for: a GPU.

There a step costs launches and waits rather than arithmetic. So the device itself accepts or rejects each attempt
(:mod:`~skode.solvers.device.attempts`), the host waits for them only every few attempts
(:mod:`~skode.solvers.device.steps_ahead`), and where the field allows it whole attempts and their pullbacks are CUDA
graphs that are captured once and replayed from solve to solve (:mod:`~skode.solvers.device.replay`,
:mod:`~skode.solvers.device.kinds`).
"""

from skode.solvers.device.eligibility import recordable, recordings_for, runs_ahead
from skode.solvers.device.replay import ReplayedTape
from skode.solvers.device.steps_ahead import AheadStepper, steps_ahead

__all__ = ["AheadStepper", "ReplayedTape", "recordable", "recordings_for", "runs_ahead", "steps_ahead"]
