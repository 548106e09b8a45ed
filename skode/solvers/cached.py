"""Properties that are computed once, without a lock."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self, TypeVar, overload

T = TypeVar("T")


class cached(cached_property[T]):  # noqa: N801, as property
    """A property that is computed when it is first read, and kept.

    :func:`functools.cached_property` of Python 3.11 has one lock for all instances, so that threads wait for each
    other, and a process that forks while another thread holds it hands the child a lock that nobody releases. Here two
    threads may both compute the value; both get the one that was there first.
    """

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return vars(instance).setdefault(self.attrname, self.func(instance))
