"""A fit in the company of other processes, which fit the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse, vstack
from torch import Tensor, nn

from skode.distributed.group import Processes
from skode.distributed.scope import alone, fitting, is_sharded, joined
from skode.io import BlockTable
from skode.io.parquet import is_dataset
from skode.training.dataframes import to_pandas
from skode.training.identity import identity

#: What may differ between processes; a source of random numbers that is no number is taken from the first.
OWN = {"device"}


@contextmanager
def in_company(estimator: Any, data: Mapping[str, Any] | None, *, shared: bool) -> Iterator[Processes | None]:
    """A fit by all processes, from which all go on or none.

    Parameters
    ----------
    estimator : BaseEstimator
        The estimator, before the fit.
    data : dict or None
        Arguments of the fit, by name.
    shared : bool
        Whether the fit is one that processes can share.

    Yields
    ------
    Processes or None
        They, or None where this process is alone.

    Raises
    ------
    ValueError
        If they do not fit the same.
    ProcessError
        If one of them fails or ends meanwhile.
    """
    processes = joined() if shared else None
    if processes is None:
        with alone():
            yield None
        return
    with fitting(processes):
        try:
            _see_that_all_fit_the_same(processes, estimator, data or {})
            yield processes
            processes.totals()
        except BaseException as error:
            processes.leave(error)
            raise
        finally:
            processes.interruption, processes.interrupted = None, False


def _see_that_all_fit_the_same(processes: Processes, estimator: Any, data: Mapping[str, Any]) -> None:
    own = identity(estimator, data)
    free = OWN | ({"random_state"} if not isinstance(estimator.random_state, int | np.integer) else set())
    # Weights that a user's module begins with are taken from the first.
    free |= {name for name, value in estimator.get_params(deep=False).items() if isinstance(value, nn.Module)}
    own = {name: entry for name, entry in own.items() if name not in free} | {"verbose": [str(estimator.verbose)] * 2}
    first, *others = processes.gathered(own)
    for rank, other in enumerate(others, start=1):
        different = [name for name in first | other if first.get(name, [""])[0] != other.get(name, [""])[0]]
        if different:
            name = different[0]
            texts = [entry.get(name, ["", "missing"])[1] for entry in (first, other)]
            if texts[0] == texts[1]:
                texts[1] = "another one"
            raise ValueError(
                f"All processes of a fit have to fit the same, but {name} is {texts[0]} in rank 0 and {texts[1]} in "
                f"rank {rank}. Pass the same everywhere, or within skode.distributed.together(sharded=True) each "
                "process its part of the data; within skode.distributed.alone() each process fits by itself."
            )


def whole(*arguments: Any) -> tuple[Any, ...]:
    """Arguments of a fit, put together where each process has a part of the data."""
    processes = joined() if is_sharded() else None
    if processes is None:
        return arguments
    if any(isinstance(x, BlockTable) or is_dataset(x) for x in arguments):
        raise ValueError(
            "Within together(sharded=True) the parts of the data are put together in memory, where a table that is "
            "read in blocks does not go: pass the whole table in all processes, without sharded=True."
        )
    arguments = tuple(x if x is None or issparse(x) else to_pandas(x) for x in arguments)
    return tuple(_put_together(list(parts)) for parts in zip(*processes.gathered(arguments), strict=True))


def _put_together(parts: list[Any]) -> Any:
    if all(part is None for part in parts):
        return None
    if any(part is None for part in parts):
        without = [rank for rank, part in enumerate(parts) if part is None]
        raise ValueError(f"An argument of fit is None in rank {without[0]}, but not in all processes.")
    if isinstance(parts[0], pd.DataFrame | pd.Series):
        return pd.concat(parts)
    if issparse(parts[0]):
        return vstack(parts).tocsr()
    return np.concatenate([part.cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in parts])
