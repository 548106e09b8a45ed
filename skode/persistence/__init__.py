"""Estimators in files, without pickle."""

from skode.persistence.archive import read_archive as read_archive
from skode.persistence.archive import write_archive as write_archive
from skode.persistence.errors import (
    DamagedFileError,
    ForeignFileError,
    IncompatibleFileError,
    UnreadableFileError,
    UnsavableError,
    UntrustedError,
)
from skode.persistence.estimators import InconsistentSkodeVersionWarning, load

__all__ = [
    "DamagedFileError",
    "ForeignFileError",
    "IncompatibleFileError",
    "InconsistentSkodeVersionWarning",
    "UnreadableFileError",
    "UnsavableError",
    "UntrustedError",
    "load",
]
