"""Processes as torchrun starts them, each with the same function, and what the function returns in each."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Job:
    """Two processes or more in which a function of ``module:name`` runs, with arguments that can be pickled.

    Each may have a prefix to its command, and all have further variables of the ``environment``.
    """

    def __init__(self, folder, target, *args, size=2, prefixes=None, environment=None):
        self.folder, self.size, port = Path(folder), size, free_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "call").write_bytes(pickle.dumps((target, args)))
        self.ranks = []
        for rank in range(size):
            variables = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            }
            variables |= environment or {}
            prefix = prefixes[rank] if prefixes else []
            command = [*prefix, sys.executable, "-m", "tests.distributed.launch", str(self.folder)]
            with open(self.folder / f"output.{rank}", "w") as output:
                self.ranks.append(subprocess.Popen(command, env=variables, cwd=ROOT, stdout=output, stderr=output))

    def output(self, rank):
        """All that a process has printed."""
        return (self.folder / f"output.{rank}").read_text()

    def results(self, timeout=120):
        """What the function returned in each process; its exception where it raised one; None where it was killed."""
        until = time.monotonic() + timeout
        try:
            for rank in self.ranks:
                rank.wait(max(until - time.monotonic(), 0.1))
        finally:
            self.kill()
        found = []
        for rank in range(self.size):
            path = self.folder / f"result.{rank}"
            found.append(pickle.loads(path.read_bytes()) if path.exists() else None)
        return found

    def kill(self):
        """End all processes that are left."""
        for rank in self.ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()


def main(folder):
    target, args = pickle.loads(Path(folder, "call").read_bytes())
    module, name = target.split(":")
    function = getattr(__import__(module, fromlist=[name]), name)
    try:
        result = function(*args)
    except Exception as error:
        result = error
    path = Path(folder, f"result.{os.environ['RANK']}")
    path.write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
