"""Memory is handed on by its key, within bounds."""

import torch

from skode.solvers import free_idle_memory, odeint
from skode.solvers.idle_memory import IdleMemory


class Piece:
    def __init__(self, size=10):
        self.size = size

    def nbytes(self):
        return self.size


def test_what_is_given_is_taken_again_once_and_by_its_key_only():
    pool, piece = IdleMemory(), Piece()
    pool.give("a", piece)
    assert pool.bytes == 10
    assert pool.take("b", Piece) is not piece
    assert pool.take("a", Piece) is piece
    assert pool.bytes == 0
    assert pool.take("a", Piece) is not piece


def test_a_pool_holds_no_more_than_its_bound_and_lets_go_of_what_came_first():
    pool, pieces = IdleMemory(most_bytes=30), [Piece() for _ in range(5)]
    for piece in pieces:
        pool.give("a", piece)
    assert pool.bytes == 30
    assert pool.idle["a"] == pieces[2:]
    pool.give("b", Piece(20))
    assert pool.bytes == 30
    assert pool.idle["a"] == pieces[4:]
    pool.give("c", Piece(40))  # too large by itself
    assert pool.bytes == 0
    assert not pool.idle
    pool.give("a", Piece())
    pool.clear()
    assert pool.bytes == 0
    assert not pool.idle


def test_all_idle_memory_can_be_freed():
    odeint(lambda t, y: -y, torch.ones(3), [0.0, 1.0])
    assert any(pool.bytes for pool in IdleMemory.pools)
    free_idle_memory()
    assert not any(pool.bytes or pool.idle for pool in IdleMemory.pools)
