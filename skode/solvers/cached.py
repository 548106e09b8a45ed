"""Properties that are computed once, without a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class cached(Generic[T]):  # noqa: N801, as property
    """A property that is computed when it is first read, and kept.

    :func:`functools.cached_property` of Python 3.11 has one lock for all instances, so that threads wait for each
    other, and a process that forks while another thread holds it hands the child a lock that nobody releases. Here two
    threads may both compute the value; both get the one that was there first.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Any, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return vars(instance).setdefault(self.name, self.function(instance))

    if TYPE_CHECKING:  # an instance's own value goes first

        def __set__(self, instance: Any, value: T) -> None: ...
