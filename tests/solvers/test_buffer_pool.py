"""Memory is handed on by its key, within bounds."""

import gc
import weakref

import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.solvers import free_idle_memory, odeint
from skode.solvers.buffer_pool import BufferPool


class Piece:
    def __init__(self, size=10):
        self.size = size

    def nbytes(self):
        return self.size


def test_what_is_given_is_taken_again_once_and_by_its_key_only():
    pool, piece = BufferPool(), Piece()
    pool.release("a", piece)
    assert pool.bytes == 10
    assert pool.acquire("b", Piece) is not piece
    assert pool.acquire("a", Piece) is piece
    assert pool.bytes == 0
    assert pool.acquire("a", Piece) is not piece


def test_a_pool_holds_no_more_than_its_bound_and_lets_go_of_what_came_first():
    pool, pieces = BufferPool(most_bytes=30), [Piece() for _ in range(5)]
    for piece in pieces:
        pool.release("a", piece)
    assert pool.bytes == 30
    assert pool.idle["a"] == pieces[2:]
    pool.release("b", Piece(20))
    assert pool.bytes == 30
    assert pool.idle["a"] == pieces[4:]
    pool.release("c", Piece(40))  # too large by itself
    assert pool.bytes == 0
    assert not pool.idle
    pool.release("a", Piece())
    pool.clear()
    assert pool.bytes == 0
    assert not pool.idle


def test_all_idle_memory_can_be_freed():
    odeint(lambda t, y: -y, torch.ones(3), [0.0, 1.0])
    assert any(pool.bytes for pool in BufferPool.pools)
    free_idle_memory()
    assert not any(pool.bytes or pool.idle for pool in BufferPool.pools)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_solve_in_inference_mode_leaves_later_ones_alone(adjoint, method):
    field, plain = MLPField(3, (4,)), nn.Linear(3, 3)
    for func in (field, lambda t, y: plain(y)):
        settings = {"method": method, "options": {"step_size": 0.25} if method == "rk4" else None}
        with torch.inference_mode():
            inside = odeint(func, torch.ones(7, 3), [0.0, 1.0], **settings)
        y0 = torch.ones(7, 3, requires_grad=True)
        y = odeint(func, y0, [0.0, 1.0], adjoint=adjoint, **settings)
        y.sum().backward()
        torch.testing.assert_close(y.detach(), inside.clone())


def test_memory_kept_for_later_solves_keeps_no_model_alive():
    field = MLPField(2, (30,))
    with torch.no_grad():
        odeint(field, torch.ones(5, 2), [0.0, 1.0])
    gone = weakref.ref(field.layers[0].weight)
    del field
    gc.collect()
    assert gone() is None
