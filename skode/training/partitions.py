"""Dask collections: answers a partition at a time, as lazy collections; all else of them gathered."""

from __future__ import annotations

import functools
import inspect
import uuid
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from sklearn.utils._set_output import _get_output_config

from skode.io.partitions import PartitionTable, is_dask, is_frame, to_parts
from skode.training.dataframes import as_python
from skode.training.snapshot import snapshot

Method = TypeVar("Method", bound=Callable[..., Any])


def gathered(*values: Any) -> tuple[Any, ...]:
    """The same values, those that are dask collections computed, in one pass over what they have in common."""
    if not any(map(is_dask, values)):
        return values
    import dask

    with warnings.catch_warnings():
        # Computed by themselves, what arrays and frames have in common would be computed twice.
        warnings.filterwarnings("ignore", "Computing mixed collections", UserWarning)
        return dask.compute(*values)


def for_fit(estimator: Any, *values: Any) -> tuple[Any, ...]:
    """Arguments of a fit without dask collections: as tables that are read by partition, or of series gathered."""
    if hasattr(estimator, "series"):
        return gathered(*values)
    return tuple(PartitionTable(value) if is_dask(value) else value for value in values)


def by_partition(method: Method) -> Method:
    """Let an answer of an estimator, one for each row of its first argument, take dask collections and be lazy.

    The answer to a dask array or frame is a dask array whose chunks are those of its rows (a frame where the answer is
    one), of the model as it is at the call: each partition is answered where and when the collection is computed. Other
    arguments may be collections of as many partitions.

    Raises
    ------
    ValueError
        Where arguments have another number of partitions, or ``set_output`` asks for frames.
    """
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def answering(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_dask(args[0] if args else kwargs.get(names[0])):
            return method(self, *args, **kwargs)
        return _lazily(snapshot(self), method.__name__, dict(zip(names, args, strict=False)) | kwargs)

    return answering  # type: ignore[return-value]


def scored_by_partition(answer: str) -> Callable[[Method], Method]:
    """Let a score take dask collections: the answers that it is of are made by partition, and then gathered.

    Parameters
    ----------
    answer : str
        Name of the method that gives these, which the score calls with X.
    """

    def decorator(method: Method) -> Method:
        @functools.wraps(method)
        def scoring(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
            if is_dask(X):
                names, n_args = list(kwargs), len(args)
                X, *given = gathered(getattr(self, answer)(X), *args, *kwargs.values())
                args, kwargs = tuple(given[:n_args]), dict(zip(names, given[n_args:], strict=True))
                self, answers = snapshot(self), X
                vars(self)[answer] = lambda _: answers
            return method(self, X, *args, **kwargs)

        return scoring  # type: ignore[return-value]

    return decorator


def _lazily(model: Any, method: str, arguments: dict[str, Any]) -> Any:
    """The answers of a method to dask collections among its arguments, of which the first is one."""
    from dask import delayed

    if method == "transform" and _get_output_config(method, model)["dense"] != "default":
        raise ValueError(
            "transform of a dask collection is a dask array: call set_output(transform='default'), or pass X.compute()."
        )
    lazy = {name: value for name, value in arguments.items() if is_dask(value)}
    (first, X), *others = lazy.items()
    if of_series := hasattr(model, "series"):
        check_whole_series(X, model.series)
    parts = {name: to_parts(value) for name, value in lazy.items()}
    n = len(parts[first])
    for name, _ in others:
        if len(parts[name]) != n:
            raise ValueError(
                f"{name} has {len(parts[name])} partitions, but {first} has {n}: partition both alike, as by making "
                f"them columns of one frame, or pass {name} and {first} as one by X.repartition(npartitions=1)."
            )
    fixed = {name: value for name, value in arguments.items() if name not in lazy}
    examples = _first_rows(parts) if of_series else {name: _example(value) for name, value in lazy.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a row that means nothing
        template = _empty(_answer(model, method, examples | fixed, None))
    # One node of the graph, under a name of its own, which every worker is sent once.
    name = f"{type(model).__name__}-{uuid.uuid4().hex}"
    model = delayed(model, name=name, traverse=False)
    answer = delayed(_answer, pure=False)
    own = [{name: delayed_parts[i] for name, delayed_parts in parts.items()} for i in range(n)]
    answers = [answer(model, method, of_part | fixed, template) for of_part in own]
    sizes = _sizes(X)
    if isinstance(template, tuple):
        return tuple(_joined([own[k] for own in answers], part, sizes) for k, part in enumerate(template))
    return _joined(answers, template, sizes)


def _sizes(data: Any) -> Sequence[float]:
    """Number of rows of each partition, NaN where it is not known."""
    return [np.nan] * data.npartitions if is_frame(data) else list(data.chunks[0])


def _example(data: Any) -> Any:
    """A row with the columns and dtypes of a collection."""
    if is_frame(data):
        return data._meta_nonempty[:1]  # another may have what is missing
    return np.ones((1, *data.shape[1:]), dtype=data.dtype)


def _first_rows(parts: dict[str, list[Any]]) -> dict[str, Any]:
    """The first row of several collections, whose partitions are computed one by one until one has any.

    Answers for series are of series that are known and at times near theirs, which no row that is made up has.
    """
    import dask

    for some in zip(*parts.values(), strict=True):
        rows = dask.compute(*some)
        if len(rows[0]):
            return {name: own[:1] for name, own in zip(parts, rows, strict=True)}
    raise ValueError(f"{next(iter(parts))} has no rows in any of its partitions.")


def check_whole_series(X: Any, series: str | int | None) -> None:
    """Raise a ValueError where rows of one series lie in several partitions, which names it.

    Ids are computed for that, unless they are the index and the divisions of a frame tell where each is.

    Parameters
    ----------
    X : dask array or frame
        Rows of series.
    series : str, int or None
        The column of their ids, or the name of the index; None: all are one series.
    """
    if X.npartitions == 1:
        return
    if series is None:
        raise ValueError(
            "series=None: all rows of X are one series, but they lie in several partitions, and each is answered by "
            "itself. Pass X.compute(), or X.repartition(npartitions=1)."
        )
    if is_frame(X):
        column = X.columns[series] if isinstance(series, int) else series
        if column not in X.columns and column == X.index.name and X.known_divisions:
            return
        if column not in X.columns and column != X.index.name:
            return  # the estimator's own error says what is wrong
        ids = X[column] if column in X.columns else X.index
    elif isinstance(series, str):
        return  # nor has an array names
    else:
        ids = X[:, series]
    import dask

    found = dask.compute(*[dask.delayed(pd.unique)(part) for part in to_parts(ids)])
    where = pd.Series(np.repeat(np.arange(len(found)), list(map(len, found))), index=np.concatenate(found))
    cut = where.index[where.index.duplicated()]
    if len(cut):
        places = where[[cut[0]]].tolist()
        n_others = len(cut.unique()) - 1
        raise ValueError(
            f"Series {as_python(cut[0])!r} has rows in several partitions of X ({', '.join(map(str, places))})"
            f"{f' (and so have {n_others} others)' if n_others else ''}, but each partition is answered by itself: "
            f"bring the rows of a series together by X.set_index({series!r}), or pass X.compute()."
        )


def _answer(model: Any, method: str, arguments: dict[str, Any], template: Any) -> Any:
    """The answer to one partition; ``template`` is that to a partition without rows."""
    if template is not None and not len(next(iter(arguments.values()))):
        return template
    return getattr(model, method)(**arguments)


def _empty(answer: Any) -> Any:
    """The answer without its rows."""
    return tuple(map(_empty, answer)) if isinstance(answer, tuple) else answer[:0]


def _joined(answers: Sequence[Any], template: Any, sizes: Sequence[float]) -> Any:
    """Delayed answers as one collection."""
    if hasattr(template, "iloc"):
        import dask.dataframe

        return dask.dataframe.from_delayed(answers, meta=template, verify_meta=False)
    import dask.array

    chunks = [
        dask.array.from_delayed(own, shape=(size, *template.shape[1:]), dtype=template.dtype)
        for own, size in zip(answers, sizes, strict=True)
    ]
    return dask.array.concatenate(chunks, allow_unknown_chunksizes=True)
