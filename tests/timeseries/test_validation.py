import math

import numpy as np
import pytest
import torch

from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.panel import Panel
from skode.timeseries.predictive import Prediction
from skode.timeseries.validation import FEWEST_ROWS, LONGEST_TAIL, WIDER, last_rows, widen_noise


def panel(lengths, observed=None):
    codes = np.repeat(np.arange(len(lengths)), lengths)
    y = np.zeros((len(codes), 1))
    if observed is not None:
        y[~observed] = np.nan
    time = np.concatenate([np.arange(n, dtype=float) for n in lengths])
    return Panel.of(codes, time, np.empty((len(codes), 0)), y)


def is_a_tail(mask):
    return bool((np.diff(mask.astype(int)) >= 0).all())


@pytest.mark.parametrize(("n_series", "share"), [(50, LONGEST_TAIL), (4, 0.1)])
def test_what_is_set_aside_are_last_rows_of_some_series(n_series, share):
    lengths = np.random.RandomState(0).randint(6, 20, n_series)
    aside = last_rows(panel(lengths), 0.1, np.random.RandomState(1))
    by_series = np.split(aside, np.cumsum(lengths)[:-1])
    chosen = [mask for mask in by_series if mask.any()]
    assert len(chosen) == (n_series if n_series * 0.1 < 1 else round(n_series * 0.1 / share))
    for mask in chosen:
        assert is_a_tail(mask)
        assert mask.sum() == math.ceil(share * len(mask))


def test_rows_in_which_nothing_was_observed_are_not_set_aside():
    observed = np.tile(np.arange(12) % 2 == 0, 10)
    aside = last_rows(panel([12] * 10, observed), 0.2, np.random.RandomState(0))
    assert aside.any()
    assert not (aside & ~observed).any()


@pytest.mark.parametrize("lengths", [[FEWEST_ROWS - 1], [1] * 40], ids=["few rows", "one row a series"])
def test_nothing_is_set_aside_where_little_would_be_left(lengths):
    assert not last_rows(panel(lengths), 0.3, np.random.RandomState(0)).any()


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_noise_is_raised_to_the_spread_of_the_residuals_and_never_lowered(spread):
    # With one draw of weight 1 the most likely noise is the residuals' root mean square; the grid is 5 % apart.
    residuals = np.random.RandomState(0).standard_normal((4000, 1)) * spread
    likelihood = Gaussian(1).double()
    torch.nn.init.constant_(likelihood.log_noise, math.log(0.8))
    zeros = torch.zeros(1, 4000, 1, dtype=torch.float64)
    answer = Prediction(np.arange(4000), zeros, zeros, None, torch.ones(1, 4000, dtype=torch.float64))
    aside = Panel.of(np.zeros(4000), np.arange(4000.0), np.empty((4000, 0)), residuals)
    widen_noise(likelihood, aside, [answer])
    rms = float(np.sqrt((residuals**2).mean()))
    assert float(likelihood.log_noise.detach().exp()) == pytest.approx(max(0.8, rms), rel=np.sqrt(WIDER[1]) - 1)


def test_noise_is_raised_by_a_row_of_weight_k_as_by_k_rows():
    rng = np.random.RandomState(0)
    residuals, counts = 2.0 * rng.standard_normal((60, 1)), rng.randint(1, 6, 60)
    counts[np.abs(residuals[:, 0]) < 1.5] = 1
    raised = []
    for weights, rows in (
        (counts.astype(float), np.arange(60)),
        (None, np.repeat(np.arange(60), counts)),
        (None, np.arange(60)),
    ):
        n, likelihood = len(rows), Gaussian(1).double()
        zeros = torch.zeros(1, n, 1, dtype=torch.float64)
        answer = Prediction(np.arange(n), zeros, zeros, None, torch.ones(1, n, dtype=torch.float64))
        aside = Panel.of(np.zeros(n), np.arange(float(n)), np.empty((n, 0)), residuals[rows], weights)
        widen_noise(likelihood, aside, [answer])
        raised.append(float(likelihood.log_noise.detach().exp()))
    assert raised[0] == pytest.approx(raised[1], rel=1e-12)
    assert raised[0] > raised[2]
