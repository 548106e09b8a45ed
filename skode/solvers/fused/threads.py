"""The threads of NumPy's products, and up to which size a problem is small."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

from skode.solvers.cached import cached
from skode.solvers.forks import Lock, in_forked_children

#: Numbers in a layer's values up to which NumPy with one thread is as fast as torch with several.
SMALL = 2**15

#: Multiply-adds of a product up to which OpenBLAS takes one thread by itself.
ONE_THREAD = 2**16


def holding_threads(n: int, width: int) -> AbstractContextManager[None]:
    """Where the products of ``n`` states and layers of at most this width take one thread."""
    return one_thread if n * width * (width + 1) > ONE_THREAD else nullcontext()


def is_small(n: int, width: int) -> bool:
    """Whether NumPy is the faster library for ``n`` states and layers of at most this width."""
    return n * width <= SMALL or torch.get_num_threads() == 1


class _OneThread:
    """Holds OpenBLAS to one thread while any solve needs it: small products take longer by several."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.users = 0
        self.before: list[tuple[Any, int]] = []
        in_forked_children(self.restore)

    @cached
    def libraries(self) -> list[Any]:
        """The libraries of NumPy's products."""
        return ThreadpoolController().select(user_api="blas").lib_controllers

    def restore(self) -> None:
        """Let OpenBLAS have its threads, as no solve needs them held any longer: none does in a forked child."""
        self.users = 0
        for library, number in self.before:
            library.set_num_threads(number)
        self.before = []

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                numbers = [(library, library.get_num_threads()) for library in self.libraries]
                self.before = [(library, number) for library, number in numbers if number != 1]
                for library, _ in self.before:
                    library.set_num_threads(1)
            self.users += 1

    def __exit__(self, *exception: Any) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.restore()


one_thread = _OneThread()
