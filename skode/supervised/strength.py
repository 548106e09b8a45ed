"""The strength of the L2 penalty, by the loss on rows held out.

A weight w adds ``decay / 2 * w^2`` to the mean loss of the rows. Which decay is best depends on the noise of the
targets, on the number of rows and on how far the truth is from linear; over tables it spans three orders of magnitude.
Training goes from weak to strong, each strength going on from the weights of the last one. On part of the rows it goes
all the way, and the loss on the others, at the end of each strength, says where training on all rows is to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from skode.training import INTERRUPTED, Objective, TrainingRecord, TrainingSettings, train

#: Decays from weak to strong, and the shares of all epochs at whose ends they give way to the next.
DECAYS = (2e-4, 1e-3, 5e-3, 2.5e-2, 0.12)
ENDS = (0.68, 0.76, 0.84, 0.92, 1.0)

#: Place among them where too few rows are there to hold some out.
OF_FEW_ROWS = 2

#: Fewest rows with which some are held out; rows to hold out in all, of one or of several parts of a fifth in turn.
FEWEST, TO_HOLD_OUT, MOST_PARTS, ONE_IN = 50, 120, 4, 5

#: Bound on the updates of a search.
MOST_UPDATES = 1000

#: A network that is yet to be trained on some rows, as its objective, and the loss on others, from their positions.
Begin = Callable[[np.ndarray, np.ndarray], tuple[Objective, Callable[[], float]]]


def parts(groups: np.ndarray, strata: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the rows to train on and of those held out: every fifth group, of each stratum where there are some.

    The groups' order decides, and nothing is drawn. Rows of a group stay together: those with the same features, which
    would otherwise be held out with the rarer of their targets.
    """
    _, heads, group = np.unique(groups, return_index=True, return_inverse=True)
    strata = np.zeros(len(groups), dtype=int) if strata is None else np.unique(strata, return_inverse=True)[1].ravel()
    of_heads = strata[heads]
    order = np.lexsort([heads, of_heads])
    place = np.empty(len(heads), dtype=int)  # of each group among those of its stratum
    place[order] = np.arange(len(heads)) - np.searchsorted(of_heads[order], of_heads[order])
    n_parts = min(math.ceil(TO_HOLD_OUT * ONE_IN / len(heads)), MOST_PARTS)
    for part in range(n_parts):
        held_out = (place % ONE_IN == ONE_IN - 1 - part)[group]
        if held_out.any() and np.array_equal(np.unique(strata[~held_out]), np.unique(strata)):
            yield np.flatnonzero(~held_out), np.flatnonzero(held_out)


def best_strength(
    groups: np.ndarray, strata: np.ndarray | None, begin: Begin, settings: TrainingSettings, rng: np.random.RandomState
) -> tuple[int, TrainingRecord | None]:
    """The place among the decays of the one with the least loss on rows held out.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        Numbers of the rows, of which those that are equal stay together.
    strata : ndarray of shape (n,) or None
        Classes, of which each is to have its share in both parts.
    begin : callable
        Makes a network; see :data:`Begin`.
    settings : TrainingSettings
        How a fit trains.
    rng : RandomState
        Source of the order of the rows.

    Returns
    -------
    place : int
        Position in :data:`DECAYS`.
    interrupted : TrainingRecord or None
        Where the user interrupted the search, the record of the training that was interrupted.
    """
    if len(groups) < FEWEST:
        return OF_FEW_ROWS, None
    losses = np.zeros(len(DECAYS))
    for number, (kept, held_out) in enumerate(parts(groups, strata)):
        objective, loss = begin(kept, held_out)
        updates = settings.passes * math.ceil(len(kept) / settings.batch_size)
        stages = up_to(
            len(DECAYS) - 1, replace(settings, max_iter=min(settings.max_iter, max(MOST_UPDATES // updates, 1)))
        )
        path = Path(stages, loss)
        record = train(
            objective,
            len(kept),
            replace(stages, n_iter_no_change=None, phase=f"Search {number + 1}", time_share=0.5),
            rng,
            on_epoch=path.at_end_of_epoch,
            parts=[path],
        )
        if record.stopped_because == INTERRUPTED:
            return OF_FEW_ROWS, record
        losses += path.losses
    return (int(np.argmin(losses)) if np.isfinite(losses).any() else OF_FEW_ROWS), None


def up_to(place: int, settings: TrainingSettings) -> TrainingSettings:
    """Settings of training that ends with the decay at some place, in as many epochs."""
    ends, decays = ENDS[: place + 1], DECAYS[: place + 1]
    stages = tuple((end / ENDS[place], decay * settings.batch_size) for end, decay in zip(ends, decays, strict=True))
    return replace(settings, stages=stages)


class Path:
    """The losses on rows held out at the ends of all decays; infinite for those that training does not come to.

    Parameters
    ----------
    settings : TrainingSettings
        Settings of training, with its stages.
    loss : callable
        Returns the loss of the weights at present.
    """

    def __init__(self, settings: TrainingSettings, loss: Callable[[], float]) -> None:
        self.loss = loss
        self.last_epochs = np.array([max(round(end * settings.max_iter), 1) for end, _ in settings.stages])
        self.losses = np.full(len(settings.stages), np.inf)

    def state(self) -> np.ndarray:
        """The losses so far."""
        return self.losses.copy()

    def go_on_from(self, state: np.ndarray) -> None:
        """Take over losses so far."""
        self.losses = state.copy()

    def at_end_of_epoch(self, record: TrainingRecord) -> bool:
        """Account for an epoch."""
        ended = self.last_epochs == len(record.loss_curve)
        if ended.any():
            self.losses[ended] = self.loss()
        return False
