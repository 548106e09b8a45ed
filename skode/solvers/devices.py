"""Devices on which operations are put into a queue, so that waiting for a number costs more than computing it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: Their kinds.
ASYNCHRONOUS = {"cuda"}

_here = threading.local()


def is_asynchronous(device: torch.device) -> bool:
    """Whether a device is one of them."""
    return device.type in ASYNCHRONOUS


@functools.cache
def total_memory(device: torch.device) -> int | None:
    """A device's memory in bytes; None where it is not known."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def capturing() -> bool:
    """Whether the operations of this thread are being recorded, so that memory may not be shared with others."""
    return getattr(_here, "capturing", False)


@contextmanager
def marked_as_captured() -> Iterator[None]:
    """While operations are recorded."""
    before, _here.capturing = capturing(), True
    try:
        yield
    finally:
        _here.capturing = before
