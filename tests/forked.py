"""Children of this process, by ``os.fork``, that do something and end."""

import faulthandler
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def outcome(function: Callable[[], Any], timeout: float = 20.0) -> str:
    """Return "true", "false", "hung" or "failed" after what a function called in a forked child does.

    A child that hangs, or fails, says on standard error where.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 on, that there are threads
        child = os.fork()
    if not child:
        status = 3
        try:
            faulthandler.dump_traceback_later(timeout, exit=True)  # with status 1
            status = 0 if function() else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {0: "true", 1: "hung", 2: "false"}.get(code, "failed")


@contextmanager
def meanwhile(*functions: Callable[[Callable[[], bool]], Any]) -> Iterator[None]:
    """While threads call functions, with one that says whether they are to go on."""
    over = threading.Event()
    threads = [threading.Thread(target=function, args=(lambda: not over.is_set(),)) for function in functions]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def held_by_another_thread(lock: Any) -> Iterator[None]:
    """While another thread has a lock, or is inside any other context."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()
