"""Whether anything runs that a file names."""

import contextlib
import sys

#: Events of Python's auditing by which code of others would begin to run, or leave the process.
FORBIDDEN = ("exec", "compile", "import", "pickle.", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "marshal.")
#: Of these what loading does: the file is looked at.
ALLOWED = ("os.fspath",)

_watching: list[list[str]] = []
_hooked = False


def _notice(event, arguments):
    if _watching and event.startswith(FORBIDDEN) and event not in ALLOWED:
        _watching[-1].append(f"{event} {arguments!r}"[:200])


@contextlib.contextmanager
def watched():
    """The list of what ran in the block."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_notice)
        _hooked = True
    _watching.append([])
    try:
        yield _watching[-1]
    finally:
        _watching.pop()
