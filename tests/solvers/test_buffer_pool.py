"""Memory is handed on by its key, within bounds."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.dynamics.flow import flow_field
from skode.solvers import free_idle_memory, odeint, set_idle_memory_limit, solve_ivp
from skode.solvers.buffer_pool import (
    ARRAY_VIEW,
    LITTLE,
    MOST_IDLE_BYTES,
    TENSOR_VIEW,
    BufferPool,
    no_more_idle_memory,
)
from skode.solvers.fields.parameters import held_tensors


class Piece:
    def __init__(self, size=10):
        self.size = size

    def nbytes(self):
        return self.size


@pytest.fixture(autouse=True)
def empty():
    free_idle_memory()
    yield
    free_idle_memory()


def test_what_is_given_is_taken_again_once_and_by_its_key_only():
    pool, piece = BufferPool(), Piece()
    pool.release("a", piece)
    assert BufferPool.total == 10
    assert pool.acquire("b", Piece) is not piece
    assert BufferPool().acquire("a", Piece) is not piece
    assert pool.acquire("a", Piece) is piece
    assert BufferPool.total == 0
    assert pool.acquire("a", Piece) is not piece


def test_all_pools_hold_no_more_than_their_bound_and_let_go_of_what_came_first(monkeypatch):
    monkeypatch.setattr(BufferPool, "most", 30)
    pool, other, pieces = BufferPool(), BufferPool(), [Piece() for _ in range(5)]

    def idle(pool):
        found = {}
        for (owner, key), piece, _ in BufferPool.held.values():
            if owner is pool:
                found.setdefault(key, []).append(piece)
        return found

    for i, piece in enumerate(pieces):
        (pool, other)[i % 2].release("a", piece)
    assert BufferPool.total == 30
    assert idle(pool) == {"a": [pieces[2], pieces[4]]}
    assert idle(other) == {"a": [pieces[3]]}
    pool.release("b", Piece(20))
    assert BufferPool.total == 30
    assert idle(pool)["a"] == [pieces[4]]
    assert not idle(other)
    other.release("c", Piece(40))  # too large by itself
    assert BufferPool.total == 0
    assert not BufferPool.held
    assert not BufferPool.idle


def test_the_bound_can_be_set():
    pool = BufferPool()
    for key in "abc":
        pool.release(key, Piece())
    try:
        set_idle_memory_limit(25)
        assert BufferPool.total == 20
        set_idle_memory_limit(0)
        assert BufferPool.total == 0
        odeint(MLPField(3, (4,)), torch.ones(2, 3), [0.0, 1.0])
        assert BufferPool.total == 0
        with pytest.raises(ValueError, match="n_bytes=-1"):
            set_idle_memory_limit(-1)
    finally:
        set_idle_memory_limit(MOST_IDLE_BYTES)


def test_memory_that_the_garbage_collection_gives_in_the_midst_of_giving_is_kept():
    pool, other = BufferPool(), Piece()

    class Collected(Piece):
        def nbytes(self):
            pool.release("other", other)
            return 10

    pool.release("a", Collected())
    assert BufferPool.total == 20
    assert pool.acquire("other", Piece) is other


def test_memory_given_last_can_be_let_go_of():
    pool, first = BufferPool(), Piece(2 * LITTLE)
    pool.release("a", first)
    with no_more_idle_memory():
        pool.release("a", Piece())
        pool.release("b", Piece())
        assert pool.acquire("a", Piece) is not first
    assert BufferPool.total == 2 * LITTLE
    assert pool.acquire("a", Piece) is first
    with no_more_idle_memory():
        pool.release("a", Piece(LITTLE - 10))
        pool.release("b", Piece())
        pool.release("b", Piece())
    assert BufferPool.total == LITTLE


def test_all_idle_memory_can_be_freed():
    odeint(MLPField(3, (4,)), torch.ones(2, 3), [0.0, 1.0])
    assert BufferPool.total
    free_idle_memory()
    assert not BufferPool.total
    assert not BufferPool.held


def arrays_in(thing, seen):
    """The arrays that an object holds, in objects of skode, lists and tuples."""
    if isinstance(thing, np.ndarray):
        yield thing
    elif id(thing) not in seen:
        seen.add(id(thing))
        if isinstance(thing, list | tuple):
            parts = thing
        else:
            parts = vars(thing).values() if hasattr(thing, "__dict__") and "skode" in type(thing).__module__ else ()
        for part in parts:
            yield from arrays_in(part, seen)


def size_of(thing):
    """Bytes of the tensors and arrays that an object holds, each memory once; and about those of their views."""
    tensors, arrays = list(held_tensors(thing)), list(arrays_in(thing, set()))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    owners = [array if array.base is None else array.base for array in arrays]
    own = sum(storages.values()) + sum({id(array): array.nbytes for array in owners}.values())
    n_views = len({id(tensor) for tensor in tensors}), len({id(array) for array in arrays})
    return own, n_views[0] * TENSOR_VIEW + n_views[1] * ARRAY_VIEW


@pytest.mark.parametrize(
    "field",
    [
        MLPField(20, (30, 40), activation="tanh"),
        MLPField(20, (30, 40), activation="silu"),
        flow_field(MLPField(19, (30,))),
        flow_field(MLPField(18, (30, 40), activation="silu"), energy=True),
        lambda t, y: -y,
    ],
    ids=["tanh", "silu", "flow", "flow with energy", "plain"],
)
def test_what_pools_hold_is_what_they_say(field, adjoint):
    for how in ({}, {"method": "rk4", "options": {"step_size": 0.25}}, {"method": "kvaerno3"}):
        y0 = torch.ones(50, 20, requires_grad=True)
        odeint(field, y0, [0.0, 1.0], adjoint=adjoint, rtol=1e-2, atol=1e-2, **how)[-1].sum().backward()
    kept = [memory for _, memory, _ in BufferPool.held.values()]
    for memory in kept:
        own, views = size_of(memory)
        assert 0.7 * views <= memory.nbytes() - own <= 1.5 * views + 1024
    assert sum(memory.nbytes() for memory in kept) == BufferPool.total <= MOST_IDLE_BYTES


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
@pytest.mark.parametrize("n_samples", [7, 2000])
def test_the_continuous_adjoint_leaves_little_behind(n_samples, method, step_control):
    field, y0 = MLPField(3, (20,)), torch.ones(n_samples, 3, requires_grad=True)
    settings = {"method": method, "step_control": step_control, "rtol": 1e-2, "atol": 1e-2, "adjoint": "continuous"}
    y = solve_ivp(field, (0.0, 1.0), y0, t_eval=[0.5, 1.0], **settings).y
    assert BufferPool.total <= LITTLE
    y.sum().backward()
    assert BufferPool.total <= LITTLE
    settings["adjoint"] = "discrete"
    y = solve_ivp(field, (0.0, 1.0), y0, t_eval=[0.5, 1.0], **settings).y
    y.sum().backward()
    assert n_samples == 7 or BufferPool.total > LITTLE


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


def test_memory_that_is_not_kept_goes_without_a_garbage_collection(adjoint, monkeypatch):
    monkeypatch.setattr(BufferPool, "most", 0)
    fields = MLPField(3, (4,)), flow_field(MLPField(2, (4,))), lambda t, y: -y
    gc.collect()
    gc.disable()
    try:
        for field in fields:
            for settings in {"method": "dopri5"}, {"method": "rk4", "options": {"step_size": 0.5}}:
                y0 = torch.ones(5, 3, requires_grad=True)
                y = odeint(field, y0, [0.0, 1.0], adjoint=adjoint, rtol=1e-2, **settings)
                y = odeint(field, y0, [0.0, 1.0], adjoint=adjoint, rtol=1e-2, **settings)
                y.sum().backward()
        del field, y0, y
        assert gc.collect() == 0
    finally:
        gc.enable()
