"""Sparse features: made dense a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from skode.training.tensors import to_tensor


class SparseFeatures:
    """The rows of a sparse matrix as a dense tensor has them, made when they are indexed.

    Parameters
    ----------
    X : scipy.sparse matrix or array of shape (n_samples, n_features), in CSR format
        Features.
    scaled : callable
        From features, dense, to what the network takes.
    dtype, device
        Of the tensors.
    """

    def __init__(
        self, X: Any, scaled: Callable[[np.ndarray], np.ndarray], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.X, self.scaled, self.dtype, self.device = X, scaled, dtype, device

    def __len__(self) -> int:
        return self.X.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        chosen = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        return to_tensor(self.scaled(self.X[chosen].toarray()), self.dtype, self.device)


def row_hashes(X: Any) -> np.ndarray:
    """A number for each row of a sparse matrix, the same for rows of the same values.

    It is the sum, modulo 2^64, of the hashes of a row's values that are not 0, each with its column.
    """
    X = X.tocsr(copy=True)
    X.sum_duplicates()
    X.eliminate_zeros()
    hashes = pd.util.hash_pandas_object(pd.DataFrame({"column": X.indices, "value": X.data}), index=False)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes.to_numpy(), dtype=np.uint64)])
    return np.diff(sums[X.indptr])
