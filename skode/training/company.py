"""A fit in the company of other processes, which fit the same."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy.sparse import issparse, vstack
from torch import Tensor, nn

from skode.distributed.group import Processes
from skode.distributed.scope import alone, answering, fitting, is_sharded, joined
from skode.io import BlockTable
from skode.io.parquet import is_dataset
from skode.training.dataframes import to_pandas
from skode.training.digests import digest
from skode.training.identity import identity

#: Parameters that may differ between processes; a source of random numbers that is no number is taken from the first.
OWN = {"device"}

#: The same in answers, in which nothing is drawn but by arguments.
OWN_IN_ANSWERS = OWN | {"random_state"}

#: How messages begin: of fits and of answers.
FITS = "All processes of a fit have to fit the same"
ANSWERS = "Within together() all processes have to ask the same of the same model"

#: Name of the fitted model in messages of ``partial_fit``.
GOES_ON = "the model that partial_fit goes on from"

Method = TypeVar("Method", bound=Callable[..., Any])


@contextmanager
def in_company(
    estimator: Any, data: Mapping[str, Any] | None, *, shared: bool, goes_on: bool = False
) -> Iterator[Processes | None]:
    """A fit by all processes, from which all go on or none.

    Parameters
    ----------
    estimator : BaseEstimator
        The estimator, before the fit.
    data : dict or None
        Arguments of the fit, by name.
    shared : bool
        Whether the fit is one that processes can share.
    goes_on : bool, default=False
        Whether it goes on from what the estimator has learnt, whatever ``warm_start`` is.

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
    with _all_or_none(processes):
        entries = identity(estimator, data or {})
        if goes_on and hasattr(estimator, "module_"):
            entries[GOES_ON] = [digest(estimator.module_), "another one"]
        # Weights that a user's module begins with are taken from the first.
        own = {name for name, value in estimator.get_params(deep=False).items() if isinstance(value, nn.Module)}
        own |= set() if isinstance(estimator.random_state, int | np.integer) else {"random_state"}
        _see_that_all_are_the_same(processes, estimator, entries, OWN | own)
        yield processes


def in_company_answer(method: Method) -> Method:
    """Let a method that answers be one of all processes within ``together()``: they refuse to mix different answers.

    Other answers that it calls are a part of it.
    """

    @functools.wraps(method)
    def answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        processes = answering()
        if processes is None:
            return method(self, *args, **kwargs)
        with _all_or_none(processes):
            named = inspect.signature(method).bind(self, *args, **kwargs).arguments
            data = dict(list(named.items())[1:])
            entries = {"the call": [method.__name__] * 2} | identity(self, data)
            for name in ("module_", "scaler_", "posterior_", "context_"):
                if hasattr(self, name):
                    entries[f"the fitted model ({name})"] = [digest(getattr(self, name)), "another one"]
            _see_that_all_are_the_same(processes, self, entries, OWN_IN_ANSWERS)
            return method(self, *args, **kwargs)

    return answer  # type: ignore[return-value]


@contextmanager
def _all_or_none(processes: Processes) -> Iterator[None]:
    """A stretch that all processes go through in step, and that an error in one of them ends in all."""
    with fitting(processes):
        try:
            yield
            processes.totals()
        except BaseException as error:
            processes.leave(error)
            raise
        finally:
            processes.interruption, processes.interrupted = None, False


def _see_that_all_are_the_same(
    processes: Processes, estimator: Any, entries: Mapping[str, list[str]], free: set[str]
) -> None:
    own = {name: entry for name, entry in entries.items() if name not in free}
    own |= {"verbose": [str(getattr(estimator, "verbose", False))] * 2}
    first, *others = processes.gathered(own)
    for rank, other in enumerate(others, start=1):
        different = [name for name in first | other if first.get(name, [""])[0] != other.get(name, [""])[0]]
        if different:
            name = different[0]
            texts = [entry.get(name, ["", "missing"])[1] for entry in (first, other)]
            if texts[0] == texts[1]:
                says = f"{name} is not the same in ranks 0 and {rank}"
                says += f" ({texts[0]} in both)" if texts[0] != "another one" else ""
            else:
                says = f"{name} is {texts[0]} in rank 0 and {texts[1]} in rank {rank}"
            what = ANSWERS if "the call" in entries else FITS
            raise ValueError(
                f"{what}, but {says}. Pass the same everywhere (what is drawn before, such as a split, needs a seed), "
                "or within skode.distributed.together(sharded=True) each process its part of the data; within "
                "skode.distributed.alone() each process works by itself."
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
    kinds = [_kind(part) for part in parts]
    _see_that_parts_match("is", kinds)
    if kinds[0] == "a sparse matrix":
        _see_that_parts_match("has", [f"{part.shape[1]} columns" for part in parts])
        return vstack(parts).tocsr()
    if kinds[0] == "a frame":
        _see_that_parts_match("has the columns", [sorted(map(str, part.columns)) for part in parts])
        first, *others = parts
        parts = [first, *(x if x.columns.equals(first.columns) else x[first.columns] for x in others)]
        # By place, since a name may be there twice.
        columns = [_column([part.iloc[:, k] for part in parts]) for k in range(first.shape[1])]
        index = first.index.append([part.index for part in parts[1:]])
        found = pd.concat([column.reset_index(drop=True) for column in columns], axis=1)
        return found.set_axis(index)
    if kinds[0] == "a column":
        return _column(parts)
    parts = [part.cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in parts]
    _see_that_parts_match("has rows of shape", [part.shape[1:] if part.size else None for part in parts])
    _see_that_parts_match("holds", [_content(part) if part.size else None for part in parts])
    return np.concatenate([part for part in parts if part.size] or parts[:1])


def _kind(part: Any) -> str:
    if issparse(part):
        return "a sparse matrix"
    return "a frame" if isinstance(part, pd.DataFrame) else "a column" if isinstance(part, pd.Series) else "an array"


def _content(part: Any) -> str | None:
    """Whether text or numbers are held; None where they may be either."""
    if str(part.dtype) == "category" or part.dtype.kind == "O":
        return None
    return "text" if part.dtype.kind in "US" or pd.api.types.is_string_dtype(part.dtype) else "numbers or dates"


def _column(parts: list[pd.Series]) -> pd.Series:
    """A column of parts; its categories are those of any of them."""
    if len({part.dtype for part in parts}) > 1 and all(str(part.dtype) == "category" for part in parts):
        orders = [list(part.cat.categories) if part.cat.ordered else "no order" for part in parts]
        _see_that_parts_match("has categories in the order", orders)
        values = pd.api.types.union_categoricals(parts, sort_categories=True)
        index = parts[0].index.append([part.index for part in parts[1:]])
        return pd.Series(values, index=index, name=parts[0].name)
    _see_that_parts_match("holds", [_content(part) if len(part) else None for part in parts])
    return pd.concat([part for part in parts if len(part)] or parts[:1])


def _see_that_parts_match(what: str, found: list[Any]) -> None:
    """Raise a ValueError where parts differ, but for those of which None says nothing."""
    (first, expected), *others = [(k, x) for k, x in enumerate(found) if x is not None] or [(0, None)]
    for rank, other in others:
        if other != expected:
            raise ValueError(
                f"The parts of the data do not go together: an argument of fit {what} {expected} in rank {first}, but "
                f"{other} in rank {rank}. Within together(sharded=True) all processes pass parts of one table, of one "
                "type and with the same columns."
            )
