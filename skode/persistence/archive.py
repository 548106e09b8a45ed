"""Objects in one file, without pickle: written whole or not at all, and read without running code that it names."""

from __future__ import annotations

import contextlib
import io
import os
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

from skode.persistence.atomic import replaced
from skode.persistence.codecs import BY_TAG, codec_of
from skode.persistence.codecs.references import imported, trusted_ones
from skode.persistence.decoder import Decoder, expected, in_terms_of_the_file
from skode.persistence.encoder import Encoder
from skode.persistence.errors import DamagedFileError, ForeignFileError, IncompatibleFileError
from skode.persistence.tensor_file import TensorFile, opened, packed
from skode.version import __version__

#: The number of the format. Files of any smaller one are read; one that is larger is refused.
FORMAT = 1


def write_archive(path: str | os.PathLike[str], content: Any, *, kind: str) -> None:
    """Write an object to a file, which is replaced once all is written.

    Parameters
    ----------
    path : str or PathLike
        The file.
    content : object
        Object to write: numbers, strings, containers, arrays, tensors, modules, frames, objects of skode, and objects
        and functions of the user's that can be imported by name.
    kind : str
        Type of content, such as "estimator".

    Raises
    ------
    UnsavableError
        If it holds something that files do not hold. No file is written then.
    OSError
        If the file can't be written. A former file is left as it was.
    """
    archive, _ = archive_of(content, kind=kind)
    with replaced(path) as file:
        file.write(archive)


def archive_of(content: Any, *, kind: str) -> tuple[bytearray, list[Any]]:
    """The bytes that :func:`write_archive` writes, and the user's classes and functions that are named there."""
    encoder = Encoder(codec_of)
    root = encoder.value(content)
    document = {"format": FORMAT, "kind": kind, "versions": versions(), "root": root, "objects": encoder.entries}
    return packed(document, encoder.tensors), encoder.users


def read_archive(path: str | os.PathLike[str], *, kind: str, trusted: Iterable[Any] = ()) -> Any:
    """Read the object that :func:`write_archive` wrote; its tensors are on the CPU.

    No code runs that the file names, whatever it holds: classes and functions are looked up among those of skode and
    in ``trusted``, constructors are not called, and modules are imported for names in ``trusted`` only.

    Parameters
    ----------
    path : str or PathLike
        The file.
    kind : str
        Type of content that is expected.
    trusted : iterable of str, class or function, default=()
        Classes and functions beside skode's that the file may name: by name, such as ``"package.module.Name"``, which
        is imported, or themselves.

    Raises
    ------
    ForeignFileError
        If skode did not write the file, or it is of another kind.
    DamagedFileError
        If its bytes are not those that were written, or say what skode would not have written.
    IncompatibleFileError
        If another version of skode wrote what this one can't read.
    UntrustedError
        If it names classes or functions that are neither skode's nor in ``trusted``.
    OSError
        If the file can't be read.
    """
    name = os.fspath(path)
    with _in_terms_of(name), opened(path) as file:
        return _read(file, kind, trusted)


def content_of(archive: bytes, *, kind: str, trusted: Iterable[Any] = ()) -> Any:
    """The object whose bytes :func:`archive_of` returned; see :func:`read_archive`."""
    name = "The archive"
    with _in_terms_of(name):
        return _read(TensorFile(name, io.BytesIO(archive), len(archive)), kind, trusted)


def versions() -> dict[str, str]:
    """Versions of what a file is written with."""
    libraries = {name: metadata.version(name) for name in ("torch", "numpy", "scikit-learn")}
    return {"skode": __version__, **libraries, "python": platform.python_version()}


@contextlib.contextmanager
def _in_terms_of(name: str) -> Iterator[None]:
    """Say which file is damaged."""
    try:
        yield
    except DamagedFileError as error:
        raise DamagedFileError(f"{name} is damaged: {error}.") from error


def _read(file: TensorFile, kind: str, trusted: Iterable[Any]) -> Any:
    if isinstance(trusted, str) or not all(isinstance(thing, str) or callable(thing) for thing in trusted):
        raise TypeError(f"trusted must be a list of names, classes or functions, got {trusted!r}.")
    writer, users = in_terms_of_the_file(lambda: _heading(file, kind, trusted))
    found = {key: imported(thing) for key, thing in users.items()}
    try:
        return in_terms_of_the_file(lambda: _content(file, found))
    except DamagedFileError as error:
        if writer == __version__:
            raise
        raise IncompatibleFileError(
            f"{file.name} was written with skode {writer}, whose objects skode {__version__} can't read ({error})."
        ) from error


def _heading(file: TensorFile, kind: str, trusted: Iterable[Any]) -> tuple[str, dict[str, Any]]:
    """The version of skode that wrote a file, and what the file needs of that which is trusted."""
    document = file.document
    number, writer = document["format"], expected(document["versions"]["skode"], str)
    if expected(number, int) < 1:
        raise DamagedFileError("its format has no number")
    if number > FORMAT:
        raise IncompatibleFileError(
            f"{file.name} has the format {number} of skode {writer}; skode {__version__} reads up to {FORMAT}. "
            "Load it with a version that is not older than the one it was written with."
        )
    if document["kind"] != kind:
        raise ForeignFileError(f"{file.name} holds another kind of object ({document['kind']!r}), not {kind!r}.")
    return writer, trusted_ones(file.name, document["objects"], trusted)


def _content(file: TensorFile, users: dict[str, Any]) -> Any:
    decoder = Decoder(file.document["objects"], file, users, BY_TAG)
    content = decoder.value(file.document["root"])
    file.check_all_taken()
    return content
