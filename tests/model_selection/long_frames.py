"""Long frames and a small regressor for the tests of splitters."""

import numpy as np
import pandas as pd

from skode import LatentODERegressor


def random_frame(seed, n_rows=80):
    """Rows in random order, of series of various lengths, some times repeated."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(list("abcdefgh"), n_rows, p=np.array([20, 15, 12, 10, 8, 5, 2, 1]) / 73)
    return pd.DataFrame({"id": ids, "day": rng.integers(0, 25, n_rows) / 4 + 100 * (ids > "d")})


def tiny_regressor():
    return LatentODERegressor(
        series="id", time="day", latent_size=2, hidden_layer_sizes=4, encoder_size=4, max_iter=2, n_iter_no_change=None
    )
