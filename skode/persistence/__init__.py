"""Files that hold estimators, without pickle."""

from skode.persistence.archive import read_archive, write_archive
from skode.persistence.errors import (
    DamagedFileError,
    ForeignFileError,
    IncompatibleFileError,
    UnreadableFileError,
    UnsavableError,
    UntrustedError,
)

__all__ = [
    "DamagedFileError",
    "ForeignFileError",
    "IncompatibleFileError",
    "UnreadableFileError",
    "UnsavableError",
    "UntrustedError",
    "read_archive",
    "write_archive",
]
