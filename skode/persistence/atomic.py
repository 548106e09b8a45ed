"""Files that are replaced once their successors are complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where a file that someone has open can't be removed
    fcntl = None  # type: ignore[assignment]

#: End of the names of files that are not complete.
ENDING = ".partial"


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file beside another one, which it replaces where the block ends; an error or a kill leaves the old one.

    Incomplete files of writers that were killed are removed.

    Parameters
    ----------
    path : str or PathLike
        The file to replace or make; of a symbolic link, what it leads to.

    Yields
    ------
    file
        The file to be written.

    Raises
    ------
    FileExistsError
        Where the path is that of a folder or a device.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a folder, or a device, which would be gone
        raise FileExistsError(f"{os.fspath(path)!r} is no regular file, and is not replaced by one.")
    _remove_abandoned(target)
    partial, file = _created(target)
    try:
        if target.exists():
            os.chmod(partial, stat.S_IMODE(target.stat().st_mode))
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()
        os.replace(partial, target)
    except BaseException:
        if fcntl is None:
            file.close()
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    finally:
        file.close()
    _synchronise(target.parent)


def _created(target: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside a target, whose lock says that someone is writing it."""
    while True:
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{ENDING}")
        file = open(partial, "xb")  # noqa: SIM115 (closed by the caller)
        if fcntl is None:
            return partial, file
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks, on which nobody takes it for abandoned either
            return partial, file
        if partial.exists():
            return partial, file
        file.close()  # before it was locked another writer took it for abandoned


def _remove_abandoned(target: Path) -> None:
    """Remove files that writers left which were killed."""
    start = f".{target.name}."
    for entry in os.scandir(target.parent):
        if not (entry.name.startswith(start) and entry.name.endswith(ENDING)):
            continue
        with contextlib.suppress(OSError):
            if fcntl is None:
                os.unlink(entry.path)
                continue
            descriptor = os.open(entry.path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)
            finally:
                os.close(descriptor)


def _synchronise(folder: Path) -> None:
    """Have the names in a folder written to the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems know this for files only, and the new one is in place
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
