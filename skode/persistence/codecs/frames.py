"""pandas' indexes, series, frames and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from pandas.tseries.offsets import BaseOffset

from skode.persistence.codecs.arrays import objects
from skode.persistence.codecs.dates import checked_unit
from skode.persistence.decoder import Decoder, expected
from skode.persistence.encoder import Codec, Encoder
from skode.persistence.errors import DamagedFileError

#: Nullable columns, by the names of their dtypes.
MASKED = {
    "boolean": pd.arrays.BooleanArray,
    **{f"{sign}{bits}": pd.arrays.IntegerArray for sign in ("Int", "UInt") for bits in (8, 16, 32, 64)},
    **{f"Float{bits}": pd.arrays.FloatingArray for bits in (32, 64)},
}

#: Letters of the longest name of a frequency.
LONGEST_FREQUENCY = 40


def offset_of(x: Any) -> Codec | None:
    """The codec of a frequency, such as months; None for other objects."""
    return OFFSET if isinstance(x, BaseOffset) else None


def _offset_again(decoder: Decoder, name: Any) -> BaseOffset:
    if len(expected(name, str)) > LONGEST_FREQUENCY:
        raise DamagedFileError("a frequency is unknown")
    return to_offset(name)


def _content(x: Any) -> Any:
    """The array behind an index or a series: NumPy's where that says all."""
    return x.to_numpy() if isinstance(x.dtype, np.dtype) else x.array


def _index(x: pd.Index, encoder: Encoder) -> list[Any]:
    freq = getattr(x, "freq", None) if isinstance(x, pd.DatetimeIndex | pd.TimedeltaIndex) else None
    return [encoder.value(_content(x)), encoder.value(x.name), encoder.value(freq)]


def _index_again(decoder: Decoder, content: Any, name: Any, freq: Any) -> pd.Index:
    values = expected(decoder.value(content), (np.ndarray, pd.api.extensions.ExtensionArray))
    dtype = object if values.dtype == np.dtype(object) else None
    found = pd.Index(values, dtype=dtype, name=decoder.value(name), tupleize_cols=False)
    freq = decoder.value(freq)
    if freq is not None:
        expected(found, (pd.DatetimeIndex, pd.TimedeltaIndex)).freq = expected(freq, BaseOffset)
    return found


def _multi_index(x: pd.MultiIndex, encoder: Encoder) -> list[Any]:
    return [encoder.items(x.levels), encoder.items([np.asarray(codes) for codes in x.codes]), encoder.items(x.names)]


def _multi_index_again(decoder: Decoder, levels: Any, codes: Any, names: Any) -> pd.MultiIndex:
    return pd.MultiIndex(decoder.items(levels), decoder.items(codes), names=decoder.items(names))


def _range_again(decoder: Decoder, start: Any, stop: Any, step: Any, name: Any) -> pd.RangeIndex:
    ends = range(*(expected(end, int) for end in (start, stop, step)))
    return pd.RangeIndex.from_range(ends, name=decoder.value(name))


def _series(x: pd.Series, encoder: Encoder) -> list[Any]:
    return [encoder.value(_content(x)), encoder.value(x.index), encoder.value(x.name)]


def _series_again(decoder: Decoder, content: Any, index: Any, name: Any) -> pd.Series:
    return pd.Series(decoder.value(content), expected(decoder.value(index), pd.Index), name=decoder.value(name))


def _frame(x: pd.DataFrame, encoder: Encoder) -> list[Any]:
    columns = [_content(x.iloc[:, place]) for place in range(x.shape[1])]
    return [encoder.value(x.index), encoder.value(x.columns), encoder.items(columns)]


def _frame_again(decoder: Decoder, index: Any, names: Any, columns: Any) -> pd.DataFrame:
    index, names = decoder.value(index), expected(decoder.value(names), pd.Index)
    found = pd.DataFrame(dict(enumerate(decoder.items(columns))), index=expected(index, pd.Index))
    found.columns = names
    return found


def _categorical(x: pd.Categorical, encoder: Encoder) -> list[Any]:
    return [encoder.value(np.asarray(x.codes)), encoder.value(x.dtype)]


def _categorical_again(decoder: Decoder, codes: Any, dtype: Any) -> pd.Categorical:
    kind = expected(decoder.value(dtype), pd.CategoricalDtype)
    return pd.Categorical.from_codes(expected(decoder.value(codes), np.ndarray), dtype=kind)


def _categories_again(decoder: Decoder, categories: Any, ordered: Any) -> pd.CategoricalDtype:
    found = decoder.value(categories)
    return pd.CategoricalDtype(None if found is None else expected(found, pd.Index), ordered)


def _datetimes(x: Any, encoder: Encoder) -> list[Any]:
    return [encoder.value(np.asarray(x.asi8)), x.unit, encoder.value(getattr(x, "tz", None))]


def _datetimes_again(decoder: Decoder, numbers: Any, unit: Any, zone: Any) -> Any:
    values, zone = expected(decoder.value(numbers), np.ndarray), decoder.value(zone)
    found = pd.DatetimeIndex(values.view(f"M8[{checked_unit(unit)}]"))
    return (found if zone is None else found.tz_localize("UTC").tz_convert(zone)).array


def _timedeltas_again(decoder: Decoder, numbers: Any, unit: Any, zone: Any) -> Any:
    values = expected(decoder.value(numbers), np.ndarray)
    return pd.TimedeltaIndex(values.view(f"m8[{checked_unit(unit)}]")).array


def _periods(x: Any, encoder: Encoder) -> list[Any]:
    return [encoder.value(np.asarray(x.asi8)), encoder.value(x.freq)]


def _periods_again(decoder: Decoder, ordinals: Any, freq: Any) -> Any:
    dtype = pd.PeriodDtype(expected(decoder.value(freq), BaseOffset))
    return pd.arrays.PeriodArray(expected(decoder.value(ordinals), np.ndarray), dtype=dtype)


def _strings(x: Any, encoder: Encoder) -> list[Any]:
    missing = np.asarray(x.isna())
    texts = ["" if is_missing else text for text, is_missing in zip(x, missing, strict=True)]
    return [encoder.items(texts), encoder.value(missing) if missing.any() else None, encoder.value(x.dtype)]


def _strings_again(decoder: Decoder, texts: Any, missing: Any, dtype: Any) -> Any:
    kind = expected(decoder.value(dtype), pd.StringDtype)
    found, missing = objects([expected(text, str) for text in decoder.items(texts)]), decoder.value(missing)
    if missing is not None:
        found[expected(missing, np.ndarray)] = None
    return pd.array(found, dtype=kind)


def _string_dtype_again(decoder: Decoder, storage: Any, na_value: Any) -> Any:
    missing = decoder.value(na_value)
    options = {} if missing is pd.NA else {"na_value": missing}  # which older versions of pandas do not have
    try:
        return pd.StringDtype(expected(storage, str), **options)
    except ImportError:  # pyarrow is not installed here
        return pd.StringDtype("python", **options)


def _masked(x: Any, encoder: Encoder) -> list[Any]:
    return [x.dtype.name, encoder.value(np.asarray(x._data)), encoder.value(np.asarray(x._mask))]


def _masked_again(decoder: Decoder, dtype: Any, values: Any, missing: Any) -> Any:
    return MASKED[dtype](expected(decoder.value(values), np.ndarray), expected(decoder.value(missing), np.ndarray))


def _intervals(x: Any, encoder: Encoder) -> list[Any]:
    return [encoder.value(pd.Index(x.left)), encoder.value(pd.Index(x.right)), x.closed]


def _intervals_again(decoder: Decoder, left: Any, right: Any, closed: Any) -> Any:
    left, right = (expected(decoder.value(ends), pd.Index) for ends in (left, right))
    return pd.arrays.IntervalArray.from_arrays(left, right, closed)


def _interval_again(decoder: Decoder, left: Any, right: Any, closed: Any) -> pd.Interval:
    return pd.Interval(decoder.value(left), decoder.value(right), closed)


def _zoned_dtype_again(decoder: Decoder, unit: Any, zone: Any) -> pd.DatetimeTZDtype:
    kind: Any = pd.DatetimeTZDtype
    return kind(checked_unit(unit), decoder.value(zone))


def _period_dtype_again(decoder: Decoder, freq: Any) -> pd.PeriodDtype:
    return pd.PeriodDtype(expected(decoder.value(freq), BaseOffset))


def _masked_dtype_again(decoder: Decoder, name: Any) -> Any:
    if name not in MASKED:
        raise DamagedFileError("a dtype is unknown")
    return pd.api.types.pandas_dtype(name)


INDEX = Codec("index", _index, _index_again)
STRINGS = Codec("strings", _strings, _strings_again)
MASKED_CODEC = Codec("masked", _masked, _masked_again)
MASKED_DTYPE = Codec("masked_dtype", lambda x, encoder: [x.name], _masked_dtype_again)
OFFSET = Codec("frequency", lambda x, encoder: [x.freqstr], _offset_again)

FRAMES: dict[type, Codec] = {
    pd.Index: INDEX,
    pd.DatetimeIndex: INDEX,
    pd.TimedeltaIndex: INDEX,
    pd.PeriodIndex: INDEX,
    pd.CategoricalIndex: INDEX,
    pd.IntervalIndex: INDEX,
    pd.MultiIndex: Codec("multi_index", _multi_index, _multi_index_again),
    pd.RangeIndex: Codec(
        "range_index", lambda x, encoder: [x.start, x.stop, x.step, encoder.value(x.name)], _range_again
    ),
    pd.Series: Codec("series", _series, _series_again),
    pd.DataFrame: Codec("frame", _frame, _frame_again),
    pd.Categorical: Codec("categorical", _categorical, _categorical_again),
    pd.CategoricalDtype: Codec(
        "categories", lambda x, encoder: [encoder.value(x.categories), x.ordered], _categories_again
    ),
    pd.arrays.DatetimeArray: Codec("datetimes", _datetimes, _datetimes_again),
    pd.arrays.TimedeltaArray: Codec("timedeltas", _datetimes, _timedeltas_again),
    pd.arrays.PeriodArray: Codec("periods", _periods, _periods_again),
    pd.arrays.StringArray: STRINGS,
    pd.arrays.ArrowStringArray: STRINGS,
    pd.StringDtype: Codec(
        "string_dtype", lambda x, encoder: [x.storage, encoder.value(x.na_value)], _string_dtype_again
    ),
    pd.arrays.IntervalArray: Codec("intervals", _intervals, _intervals_again),
    pd.Interval: Codec(
        "interval", lambda x, encoder: [encoder.value(x.left), encoder.value(x.right), x.closed], _interval_again
    ),
    **dict.fromkeys(set(MASKED.values()), MASKED_CODEC),
}
