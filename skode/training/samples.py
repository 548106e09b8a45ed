"""Which samples to train on: each once, with a weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from skode.training.sparse import row_hashes


def distinct(X: Any, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples that differ, with the weights of equal ones added; those without weight are left out.

    A sample that comes twice is then the same as one of weight two, to the bit, whatever the batches, and the order
    of the samples plays no part.

    Parameters
    ----------
    X : ndarray or sparse matrix of shape (n_samples, n_features)
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
    _, first, group = np.unique(row_groups(X[present], y[present]), return_index=True, return_inverse=True)
    return present[first], np.bincount(group, weights=weights[present])


def row_groups(X: Any, *others: np.ndarray) -> np.ndarray:
    """A number for each row of a table, dense or sparse, and of others beside it: the same for equal rows."""
    features = [row_hashes(X)] if issparse(X) else [*X.T]
    columns: list[Any] = [*features, *(column for other in others for column in other.reshape(len(other), -1).T)]
    return pd.util.hash_pandas_object(pd.DataFrame(dict(enumerate(columns))), index=False).to_numpy()
