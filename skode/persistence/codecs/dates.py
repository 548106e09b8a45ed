"""Dates, times and time zones, Python's and pandas'."""

from __future__ import annotations

import datetime
import re
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from skode.persistence.decoder import Decoder, expected
from skode.persistence.encoder import Codec, Encoder
from skode.persistence.errors import DamagedFileError

UNITS = ("s", "ms", "us", "ns")
ZONE = re.compile(r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*")


def _zone(zone: ZoneInfo, encoder: Encoder) -> list[Any]:
    if zone.key is None:
        raise encoder.refuse("a time zone without a name can't be saved.")
    return [zone.key]


def _zone_again(decoder: Decoder, key: Any) -> ZoneInfo:
    if not ZONE.fullmatch(expected(key, str)):
        raise DamagedFileError("a time zone has no name")
    return ZoneInfo(key)


def _offset_again(decoder: Decoder, seconds: Any) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(seconds=expected(seconds, (int, float))))


def _datetime(x: datetime.datetime, encoder: Encoder) -> list[Any]:
    return [x.replace(tzinfo=None).isoformat(), x.fold, encoder.value(x.tzinfo)]


def _datetime_again(decoder: Decoder, text: Any, fold: Any, zone: Any) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(fold=fold, tzinfo=decoder.value(zone))


def zoned(value: int, unit: Any, zone: Any) -> pd.Timestamp:
    """A moment by its distance from 1970 in UTC, by the clock of a zone."""
    moment: Any = np.array(expected(value, int)).view(f"M8[{checked_unit(unit)}]")[()]
    stamp = pd.Timestamp(moment)
    return stamp if zone is None else stamp.tz_localize("UTC").tz_convert(zone)


def checked_unit(unit: Any) -> str:
    """A unit of pandas' times."""
    if unit not in UNITS:
        raise DamagedFileError("times have no unit")
    return unit


def _timestamp_again(decoder: Decoder, value: Any, unit: Any, zone: Any) -> pd.Timestamp:
    return zoned(value, unit, decoder.value(zone))


def _timedelta_again(decoder: Decoder, value: Any, unit: Any) -> pd.Timedelta:
    difference: Any = np.array(expected(value, int)).view(f"m8[{checked_unit(unit)}]")[()]
    return pd.Timedelta(difference)


DATES: dict[type, Codec] = {
    ZoneInfo: Codec("zone", _zone, _zone_again),
    datetime.timezone: Codec("utc_offset", lambda x, encoder: [x.utcoffset(None).total_seconds()], _offset_again),
    datetime.date: Codec(
        "date", lambda x, encoder: [x.isoformat()], lambda decoder, text: datetime.date.fromisoformat(text)
    ),
    datetime.datetime: Codec("datetime", _datetime, _datetime_again),
    datetime.timedelta: Codec(
        "difference",
        lambda x, encoder: [x.days, x.seconds, x.microseconds],
        lambda decoder, *parts: datetime.timedelta(*(expected(part, int) for part in parts)),
    ),
    pd.Timestamp: Codec("timestamp", lambda x, encoder: [x._value, x.unit, encoder.value(x.tzinfo)], _timestamp_again),
    pd.Timedelta: Codec("timedelta", lambda x, encoder: [x._value, x.unit], _timedelta_again),
    pd.Period: Codec(
        "period",
        lambda x, encoder: [x.ordinal, encoder.value(x.freq)],
        lambda decoder, ordinal, freq: pd.Period(ordinal=expected(ordinal, int), freq=decoder.value(freq)),
    ),
    type(pd.NaT): Codec("NaT", lambda x, encoder: [], lambda decoder: pd.NaT),
    type(pd.NA): Codec("NA", lambda x, encoder: [], lambda decoder: pd.NA),
}
