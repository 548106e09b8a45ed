"""Solves on a device that should not be waited for: a GPU.

There a step costs launches and waits rather than arithmetic. So the device itself accepts or rejects each attempt
(:mod:`~skode.solvers.device.attempts`), the host looks at the clock only every few attempts
(:mod:`~skode.solvers.device.march`), and where the field allows it whole attempts and their pullbacks are CUDA graphs
that are captured once and replayed from solve to solve (:mod:`~skode.solvers.device.replay`,
:mod:`~skode.solvers.device.kinds`).
"""

from skode.solvers.device.march import AheadStepper, march_ahead, marches_ahead, recordable, with_replay
from skode.solvers.device.replay import ReplayedTape

__all__ = ["AheadStepper", "ReplayedTape", "march_ahead", "marches_ahead", "recordable", "with_replay"]
