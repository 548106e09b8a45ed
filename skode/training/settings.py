"""Parameters of training that all estimators have, and their constraints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions

from skode.dynamics import ACTIVATIONS
from skode.solvers import METHODS
from skode.solvers.adjoints import ADJOINTS
from skode.training.checkpoint import Checkpoint
from skode.training.stopwatch import Stopwatch

#: Samples in a batch where the user gives no number, as ``MLPClassifier``.
AUTO_BATCH_SIZE = 200

#: How the learning rate goes on from ``learning_rate_init``.
SCHEDULES = {"constant", "cosine"}


class Choices(StrOptions):
    """Some strings, which the message of an error lists in order."""

    def __init__(self, options: Iterable[str]) -> None:
        super().__init__(set(options))
        self.options = dict.fromkeys(sorted(options))


#: Constraints on the parameters that every estimator has; names and meaning are those of ``MLPClassifier``.
COMMON_CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [Choices(ACTIVATIONS)],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [Choices(SCHEDULES)],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
    "rtol": [Interval(Real, 0, None, closed="left")],
    "atol": [Interval(Real, 0, None, closed="neither")],
    "method": [Choices(METHODS)],
    "step_size": [Interval(Real, 0, None, closed="neither"), None],
    "adjoint": [Choices(ADJOINTS)],
    "checkpoint": [str, os.PathLike, None],
    "checkpoint_interval": [Interval(Real, 0, None, closed="left")],
    "device": [str],
    "dtype": [Choices({"float32", "float64"}), None],
}


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the training loop; see the parameters of the estimators."""

    learning_rate: float
    batch_size: int
    max_iter: int
    schedule: str = "constant"  # or "cosine", which falls to 0 over max_iter epochs, or over the time that there is
    shuffle: bool = True
    optimizer: str = "adam"  # or "soap"
    alpha: float = 0.0
    stages: tuple[tuple[float, float], ...] = ()  # progress from 0 to 1 at their ends, and their alpha in its place
    tol: float = 1e-4
    n_iter_no_change: int | None = 10
    verbose: bool = False
    max_grad_norm: float | None = None
    passes: int = 1  # over the samples, in an epoch
    phase: str = ""  # what these epochs are called where there are others, when verbose
    stopwatch: Stopwatch | None = None  # time of the fit, by which training may end
    time_share: float = 1.0  # of these epochs in the time that is left when they begin
    warm_up: float = 0.0  # share of training after which epochs without improvement count
    on_progress: Callable[[float], None] | None = None  # is told before each update how far training has come, 0 to 1
    checkpoint: Checkpoint | None = None  # the journal of the fit, by which training may go on
    averaging: float = 0.0  # share of the past in the running mean of the weights that validation looks at; 0: none
