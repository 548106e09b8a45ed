"""Which samples to train on: each once, with a weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def distinct(X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples that differ, with the weights of equal ones added; those without weight are left out.

    A sample that comes twice is then the same as one of weight two, to the bit, whatever the batches, and the order
    of the samples plays no part.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    weights : ndarray of shape (n_samples,)
        Weights, none negative.

    Returns
    -------
    rows : ndarray of int
        One row of each distinct sample, in an order that depends on their contents alone.
    weights : ndarray of float
        Their weights.
    """
    present = np.flatnonzero(weights > 0.0)
    columns: list[Any] = [*X[present].T, *y.reshape(len(y), -1)[present].T]
    keys = pd.util.hash_pandas_object(pd.DataFrame(dict(enumerate(columns))), index=False).to_numpy()
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return present[first], np.bincount(group, weights=weights[present])
