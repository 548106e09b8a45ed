"""Learning rate and strength of the penalty over training."""

from __future__ import annotations

import bisect
import math

from skode.training.settings import TrainingSettings


class Schedule:
    """How the learning rate goes on, in each stage anew, and which stage it is.

    "cosine" lets it fall to 0 along half a cosine (Loshchilov, Hutter, "SGDR", ICLR 2017).

    Parameters
    ----------
    settings : TrainingSettings
        With ``schedule``, ``alpha`` and ``stages``.

    Attributes
    ----------
    progress : float
        How far training has come, from 0 to 1.
    stage : int
        Number of the stage, from 0.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self.is_cosine = settings.schedule == "cosine"
        self.ends = [end for end, _ in settings.stages] or [1.0]
        self.alphas = [alpha for _, alpha in settings.stages] or [settings.alpha]
        self.progress, self.stage = 0.0, 0

    def follow(self, progress: float) -> bool:
        """Note how far training has come; whether a stage begins."""
        self.progress, before = progress, self.stage
        self.stage = min(bisect.bisect_right(self.ends, progress), len(self.ends) - 1)
        return self.stage != before

    @property
    def alpha(self) -> float:
        """Strength of the penalty at present."""
        return self.alphas[self.stage]

    @property
    def factor(self) -> float:
        """Learning rate at present, as a share of the first."""
        if not self.is_cosine:
            return 1.0
        begin = self.ends[self.stage - 1] if self.stage else 0.0
        done = min((self.progress - begin) / (self.ends[self.stage] - begin), 1.0)
        return 0.5 * (1.0 + math.cos(math.pi * done))
