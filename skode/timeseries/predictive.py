"""The posterior predictive of a latent ODE: answers at any time of any series."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.stats import norm, qmc
from torch import Tensor

from skode.solvers import Solution
from skode.timeseries.latent_ode import LatentODE, PanelTensors
from skode.timeseries.panel import Panel
from skode.training import to_numpy

#: A series of median length spans this much of the latent dynamics' time, whose rates start at about 1.
HORIZON = 2.0

#: Series are answered in blocks that hold about this many latent states, padding included, to bound memory.
BLOCK = 200_000


class Predictive:
    """Predictions averaged over draws of the latent initial state.

    Parameters
    ----------
    module : LatentODE
        The model.
    tensors : callable
        Turns a panel into tensors in the model's units.
    solve : callable
        The solver.
    n_draws : int
        Draws per series; quasi-random, the same for every series and at each call.
    """

    def __init__(
        self,
        module: LatentODE,
        tensors: Callable[[Panel], PanelTensors],
        solve: Callable[..., Solution],
        n_draws: int,
    ) -> None:
        self.module = module
        self.tensors = tensors
        self.solve = solve
        self.latent_size = module.field.n_features
        self.draws = self._normal_draws(n_draws)

    def means(self, asked: Panel, context: Panel, known: np.ndarray) -> np.ndarray:
        """Decoded means at the rows of a panel, for every draw.

        Parameters
        ----------
        asked : Panel
            What is asked, its rows in any order.
        context : Panel
            What is known.
        known : ndarray of int, of shape (asked.n_series,)
            Each series' position in ``context``; -1 where it is not there, for which the prior answers.

        Returns
        -------
        ndarray of shape (n_draws, n_rows, n_outputs)
            Means in standardised units.
        """
        answers = np.empty((len(self.draws), *asked.y.shape))
        order = np.argsort(asked.codes, kind="stable")
        for block in self._blocks(asked.codes):
            rows = order[np.isin(asked.codes[order], block)]
            part = Panel(
                asked.ids[block],
                asked.origins[block],
                np.searchsorted(block, asked.codes[rows]),
                asked.time[rows],
                asked.covariates[rows],
                asked.y[rows],
            )
            answers[:, rows] = self._answer(part, context, known[block])
        return answers

    def _blocks(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Groups of series whose rows together stay within the memory bound."""
        counts = np.bincount(codes)
        longest_first = np.argsort(-counts, kind="stable")
        first = 0
        while first < len(counts):
            # A block is padded to its longest series, which is its first.
            size = max(BLOCK // (int(counts[longest_first[first]]) * len(self.draws)), 1)
            yield np.sort(longest_first[first : first + size])
            first += size

    @torch.no_grad()
    def _answer(self, asked: Panel, context: Panel, known: np.ndarray) -> np.ndarray:
        tensors = self.tensors(asked)
        mean = tensors.y.new_zeros(asked.n_series, self.latent_size)
        std = torch.ones_like(mean)
        seen = np.flatnonzero(known >= 0)
        if len(seen):
            rows = torch.from_numpy(seen).to(mean.device)
            mean[rows], std[rows] = self.module.posterior(self.tensors(context.take(known[seen])))
        z0 = mean + std * self.draws.to(mean)[:, None]  # (n_draws, n_series, latent_size)
        n_draws = len(self.draws)
        states = self._states(z0.flatten(0, 1), tensors.time.repeat(n_draws, 1))
        states = states.view(n_draws, asked.n_series, -1, self.latent_size)
        codes, places = (torch.from_numpy(x).to(mean.device) for x in (asked.codes, asked.slots()[1]))
        covariates = torch.from_numpy(asked.covariates).to(mean).expand(n_draws, -1, -1)
        return to_numpy(self.module.decode(states[:, codes, places], covariates))

    def _normal_draws(self, n_draws: int) -> Tensor:
        """Scrambled Sobol points through the normal quantile function, of shape (n_draws, latent_size)."""
        sobol = qmc.Sobol(self.latent_size, scramble=True, rng=np.random.default_rng(0))
        uniform = sobol.random_base2(int(np.ceil(np.log2(n_draws))))[:n_draws]
        return torch.from_numpy(norm.ppf(np.clip(uniform, 1e-9, 1 - 1e-9)))

    def _states(self, z0: Tensor, time: Tensor) -> Tensor:
        """Latent states at times before and after the start; NaN in empty slots.

        Each series is solved to a whole number of horizons, so that an answer does not depend on which other times
        within them are asked, and beyond them only as much as the solver's accuracy.
        """
        answer = z0.new_full((*time.shape, z0.shape[1]), torch.nan)
        for sign, side in ((1.0, time >= 0), (-1.0, time < 0)):
            if not bool(side.any()):
                continue
            part = torch.where(side, time, torch.nan)
            furthest = torch.nan_to_num(part * sign).amax(dim=1)
            ends = sign * HORIZON * torch.ceil(furthest / HORIZON)
            answer = torch.where(side[..., None], self.module.path(z0, part, self.solve, [], ends), answer)
        return answer
