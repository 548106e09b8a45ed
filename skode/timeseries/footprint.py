"""How much memory the work on a series takes, and blocks of series whose work stays within a bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from skode.solvers import get_method
from skode.solvers.devices import is_asynchronous
from skode.timeseries.latent_ode import LatentModel
from skode.timeseries.rows import N_NODES

#: Numbers that the work on a block holds at once, about; more take as long, and more memory.
MOST_NUMBERS, MOST_NUMBERS_ON_GPU = 2**25, 2**28

#: A perceptron's evaluations are held of this step and of the last, and anew where samples leave the batch.
TAPES = 3


@dataclass(frozen=True)
class Footprint:
    """Numbers that are held at once while copies of series are encoded, solved without gradients, and read out.

    A copy is a series from one initial state: a draw, or a neighbour of the posterior's mode.

    Attributes
    ----------
    series, row, knot : int
        Numbers for a series, for each of its rows, and for each time at which its covariates are known.
    copy, copy_row, copy_knot : int
        The same for each copy.
    most : int
        Numbers that a block may hold.
    """

    series: int
    row: int
    knot: int
    copy: int
    copy_row: int
    copy_knot: int
    most: int

    @classmethod
    def of(cls, module: LatentModel, method: str) -> Footprint:
        """That of a model, solved by a method of :data:`skode.solvers.METHODS`."""
        tableau: Any = get_method(method)
        stages = getattr(tableau, "n_stages", tableau.order)  # Adams' methods keep as many past derivatives
        work, n_outputs = module.size_of_work(), module.likelihood.n_outputs
        size, n_covariates = work.state, work.n_covariates
        evaluations = TAPES * stages if work.keeps_steps else 1
        # Activations may keep what they are computed from beside their value.
        copy = evaluations * (size + 2 * work.field) + 2 * stages * size
        if tableau.implicit:
            copy += 2 * (stages * size) ** 2  # the matrix of Newton's method, and its factors
        copy_row = 2 * work.read_out + 4 * size + 8 * n_outputs + 2 * n_covariates + 8
        hidden = module.encoder.hidden_size
        on_gpu = is_asynchronous(next(module.parameters()).device)
        return cls(
            series=TAPES * stages * 3 * hidden,  # of encoders that solve an ODE
            row=8 * hidden + module.latent_size**2,
            knot=4 + 5 * n_covariates if n_covariates else 0,
            copy=copy + (N_NODES * copy_row if module.process else 0),
            copy_row=copy_row,
            copy_knot=1 if n_covariates else 0,
            most=MOST_NUMBERS_ON_GPU if on_gpu else MOST_NUMBERS,
        )

    def numbers(self, n_copies: int, n_rows: Any, n_knots: Any = 0) -> Any:
        """Numbers that series of so many rows and knots hold, each in so many copies."""
        once = self.series + self.row * n_rows + self.knot * n_knots
        return once + n_copies * (self.copy + self.copy_row * n_rows + self.copy_knot * n_knots)

    def blocks(self, n_copies: int, n_rows: np.ndarray, n_knots: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Groups of series that together stay within the bound, or are one series; each in order.

        Parameters
        ----------
        n_copies : int
            Copies of each series.
        n_rows, n_knots : ndarray of int, of shape (n_series,)
            Their rows, and the times at which their covariates are known (default: their rows).
        """
        n_knots = n_rows if n_knots is None else n_knots
        largest_first = np.argsort(-self.numbers(n_copies, n_rows, n_knots), kind="stable")
        n_rows, n_knots = n_rows[largest_first], n_knots[largest_first]
        first = 0
        while first < len(n_rows):
            least = self.numbers(n_copies, 0)
            after = slice(first, first + max(int(self.most // least), 1))
            # A block is padded to the most rows, and to the most knots, of any of its series.
            padded = (np.maximum.accumulate(n[after]) for n in (n_rows, n_knots))
            held = self.numbers(n_copies, *padded)
            n = max(int(np.searchsorted(held * np.arange(1, len(held) + 1), self.most, side="right")), 1)
            yield np.sort(largest_first[first : first + n])
            first += n

    def n_copies(self, n_rows: int, n_knots: int, n_series: int = 1) -> int:
        """How many copies of so many series with so many rows and knots each stay within the bound; one at least."""
        once = self.numbers(0, n_rows, n_knots)
        return max((self.most // n_series - once) // (self.numbers(1, n_rows, n_knots) - once), 1)
