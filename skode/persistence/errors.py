"""Errors of files: why one is not written, or not read."""

from __future__ import annotations

from collections.abc import Iterable


class UnsavableError(TypeError):
    """An object holds something that files of skode do not hold."""


class UnreadableFileError(ValueError):
    """A file that is not loaded; its subclasses say why."""


class ForeignFileError(UnreadableFileError):
    """A file that skode did not write, or that holds another type of content than expected."""


class DamagedFileError(UnreadableFileError):
    """A file whose bytes are not those that were written, or do not say what skode would have written."""


class IncompatibleFileError(UnreadableFileError):
    """A file of another version of skode that this one can't read."""


class UntrustedError(UnreadableFileError):
    """A file that needs classes or functions that are not skode's, which the caller has not allowed.

    Parameters
    ----------
    path : str
        The file.
    names : iterable of str
        The names that are not allowed.

    Attributes
    ----------
    names : list of str
        The same, sorted.
    """

    def __init__(self, path: str, names: Iterable[str]) -> None:
        self.path, self.names = path, sorted(names)
        super().__init__(
            f"{path} needs {', '.join(self.names)}, which skode does not know. Code of these runs when the object is "
            f"used: where you trust it, load with trusted={self.names!r}, or with the classes and functions themselves "
            "in that list."
        )

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.names)
