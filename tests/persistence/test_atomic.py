"""A file is the old one or the new one, whatever happens to those that write it."""

import contextlib
import os
import stat
import subprocess
import sys
import threading

import pytest

from skode.persistence import atomic
from skode.persistence.atomic import ENDING, replaced

#: A process that is killed while it writes. It needs the one file of the package, not the package.
WRITER = """
import runpy, sys, time
with runpy.run_path(sys.argv[1])["replaced"](sys.argv[2]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def leftovers(folder):
    return [path for path in folder.iterdir() if path.name.endswith(ENDING)]


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with replaced(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with contextlib.suppress(type(error)), replaced(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", WRITER, atomic.__file__, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        assert len(leftovers(tmp_path)) == 1
        writer.kill()
    assert path.read_bytes() == b"old"
    with replaced(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert leftovers(tmp_path) == []


def test_links_stay_links(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with replaced(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_a_killed_writer_left_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / f".file.0123{ENDING}").write_bytes(b"of a writer that was killed")
    with replaced(path) as outer:
        outer.write(b"first")
        assert len(leftovers(tmp_path)) == 1
        with replaced(path) as inner:
            inner.write(b"second")
            assert len(leftovers(tmp_path)) == 2
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert leftovers(tmp_path) == []


def test_many_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "file"

    def write(letter):
        for _ in range(20):
            with replaced(path) as file:
                file.write(letter * 1000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(path.read_bytes())) == 1
    assert len(path.read_bytes()) == 1000
    assert list(tmp_path.iterdir()) == [path]


def test_file_systems_without_locks_and_without_synchronised_folders_will_do(tmp_path, monkeypatch):
    def refused(*args):
        raise OSError("Function not implemented")

    def synchronise(descriptor, fsync=os.fsync):
        return refused() if stat.S_ISDIR(os.fstat(descriptor).st_mode) else fsync(descriptor)

    path = tmp_path / "file"
    monkeypatch.setattr(atomic.fcntl, "flock", refused)
    monkeypatch.setattr(atomic.os, "fsync", synchronise)
    with replaced(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "pipe"):
        with pytest.raises(FileExistsError, match="no regular file"), replaced(tmp_path / name):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
