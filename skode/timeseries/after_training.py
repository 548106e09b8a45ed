"""Steps of the fit of a latent ODE after training: the population of known dynamics, and the noise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from skode.timeseries.duration import seconds_for
from skode.timeseries.empirical_bayes import fit_population
from skode.timeseries.fitted import in_double
from skode.timeseries.forecasting import ForecastingLatentODE
from skode.timeseries.known_ode import KnownODE
from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.noise.selection import may_have_memory
from skode.timeseries.panel import Panel
from skode.timeseries.posterior import linearised_rows, normal_draws
from skode.timeseries.predictive import Prediction
from skode.timeseries.validation import widen_noise
from skode.training import Stopwatch, warn_caller

#: Share of an output's variance within series above which noise with a memory has taken over from the dynamics.
MOST_OF_MEMORY = 0.5

#: About how often the posteriors of all series are computed for the marginal likelihood of known dynamics.
PASSES_FOR_POPULATION = 10


def within_series(panel: Panel) -> np.ndarray:
    """Variances of the outputs about the means of their series, of shape (n_outputs,); 0 where nothing tells."""
    seen, y, codes = ~np.isnan(panel.y), np.nan_to_num(panel.y), panel.codes
    weights = panel.row_weights()[:, None] * seen
    counts = np.zeros((panel.n_series, y.shape[1]))
    sums = np.zeros_like(counts)
    np.add.at(counts, codes, weights)
    np.add.at(sums, codes, weights * y)
    off = y - (sums / np.maximum(counts, 1.0))[codes]
    freedom = np.maximum(counts - 1.0, 0.0).sum(axis=0)
    return (weights * off**2).sum(axis=0) / np.maximum(freedom, 1.0)


class AfterTraining(ForecastingLatentODE):
    """The steps of a fit after training."""

    noise: str

    def _learn_the_rest(self, panel: Panel, training: Panel, aside: Panel | None, stopwatch: Stopwatch) -> None:
        """Learn what is not trained by gradients: the population of known dynamics, and the noise."""
        if isinstance(self.module_, KnownODE) and self._refined:
            with stopwatch.phase("Parameters that series share, and the spread of the others"):
                self.module_.load_state_dict(self._checkpoint.step(partial(self._of_population, panel, stopwatch)))
        likelihood = self.module_.likelihood
        if not isinstance(likelihood, Gaussian):
            return
        if self._may_have_memory(panel):
            with stopwatch.phase("Memory of the noise"):
                self._learn_noise(likelihood, panel)
        if aside is not None:
            with stopwatch.phase("Forecasts of the rows set aside"):
                widen_noise(likelihood, aside.observed(), self._forecasts(training, aside.observed()))

    def _of_population(self, panel: Panel, stopwatch: Stopwatch) -> dict[str, torch.Tensor]:
        """The weights of the model, with the distributions that its unknowns are drawn from."""
        known: Any = in_double(self.module_)
        fit_population(known, panel, self._tensors_for(known), self._solver(), stopwatch)
        return known.state_dict()

    def _seconds_after_training(self, panel: Panel, aside: Panel | None) -> float:
        """Estimate of the seconds of all phases after training: each takes about as long as the posteriors."""
        gaussian = isinstance(self.module_.likelihood, Gaussian)
        n_phases = 1 + (gaussian and self._may_have_memory(panel)) + (gaussian and aside is not None)
        if isinstance(self.module_, KnownODE) and self._refined:
            n_phases += PASSES_FOR_POPULATION
        return n_phases * seconds_for(panel, lambda part: self._inferred(part, self.n_draws))

    def _may_have_memory(self, panel: Panel) -> bool:
        """Whether a memory of the noise is looked for."""
        return self.noise == "coloured" and self._refined and may_have_memory(panel)

    def _learn_noise(self, likelihood: Gaussian, panel: Panel) -> None:
        """Part the noise that is left into white noise and one with a memory, where that is clearly likelier."""
        module = in_double(self.module_)

        def likeliest() -> list[tuple[float, float] | None]:
            return linearised_rows(module, panel, self._tensors_for(module), self._solver()).likeliest_noise()

        for output, found in enumerate(self._checkpoint.step(likeliest)):
            if found is not None:
                likelihood.colour(output, *found)

    def _warn_of_memory(self, panel: Panel) -> None:
        """Warn where noise with a memory makes up most of how an output varies within series."""
        likelihood = self.module_.likelihood
        if not isinstance(likelihood, Gaussian):
            return
        within = within_series(panel)
        share = likelihood.coloured.double().cpu().numpy() ** 2 / np.where(within > 0.0, within, np.inf)
        names = [name for name, own in zip(self._units.output_names, share, strict=True) if own > MOST_OF_MEMORY]
        if names:
            remedy = (
                "Check the units and signs of doses, covariates and times, and what the equations in dynamics leave out"
                if isinstance(self.module_, KnownODE)
                else "If there are cycles of known length, name them in periods; else raise max_iter or latent_size"
            )
            warn_caller(
                f"Noise with a memory makes up {min(share.max(), 1.0):.0%} of how {names} vary within series: the "
                f"dynamics explain little of it. {remedy}. noise='white' leaves such noise out.",
                UserWarning,
            )

    def _forecasts(self, known: Panel, query: Panel) -> Iterator[Prediction]:
        """Predictions of rows, given other rows of the same series."""
        some = np.unique(query.codes)
        known, query = known.take(some), query.take(some)  # whose rows stay in their order
        posterior = self._inferred(known, self.n_draws)
        noise = normal_draws(posterior.n_draws, self.module_.latent_size)
        return self._predictive().predictions(query, known, np.arange(known.n_series), posterior, noise)
