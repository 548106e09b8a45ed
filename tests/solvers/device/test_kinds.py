"""How recordings are kept, and let go of."""

import gc
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from skode.solvers import free_idle_memory
from skode.solvers.device import kinds, replay
from skode.solvers.device.kinds import KINDS
from tests.solvers.device.recorded import Plain, convolutions, gradients, n_kept, solve


def test_the_first_solve_makes_no_recording(ahead, mlp, y0, replays):
    field, numbers = mlp(), []
    for _ in range(4):
        solve(field, y0)
        numbers.append((len(replays), n_kept()))
    assert numbers == [(0, 0), (1, 1), (2, 1), (3, 1)]


def test_recordings_go_with_their_model(ahead, mlp, y0):
    field, other = mlp(), convolutions()
    known = len(KINDS.known)
    for _ in range(3):
        gradients(field, y0)
        solve(field, y0, adjoint="continuous")
        gradients(other, torch.ones(2, 4, 3, 3, dtype=torch.float64))
    assert n_kept() == 3
    del field
    gc.collect()
    assert n_kept() == 1
    del other
    gc.collect()
    assert n_kept() == 0
    assert len(KINDS.known) == known


def test_modules_keep_their_parameters(ahead, randn, y0):
    """Also while they are recorded."""
    field, seen = Plain(randn), []
    parameters = dict(field.named_parameters())

    def event(t, y):
        seen.append(all(one is parameters[name] for name, one in field.named_parameters()))
        return y[0, 0] - 100.0

    for _ in range(4):
        solve(field, y0, events=event)
    assert all(seen)
    assert all(one is parameters[name] for name, one in field.named_parameters())
    assert all(type(one) is nn.Parameter for one in field.parameters())


def test_recordings_do_not_keep_the_model(ahead, mlp, y0):
    """Nor what autograd knows of it."""
    field = mlp()
    held = [weakref.ref(parameter) for parameter in field.parameters()]
    for _ in range(3):
        y = solve(field, y0)
        y.sum().backward()
    del field, y
    gc.collect()
    assert not any(ref() is not None for ref in held)


def test_a_model_that_goes_while_its_solution_is_kept(agree, mlp, y0):
    def compute():
        field, start = mlp(), y0.clone().requires_grad_()
        for _ in range(3):
            y = solve(field, start)
        parameters = list(field.parameters())
        del field
        gc.collect()
        found = torch.autograd.grad(y.sum(), [start, *parameters], retain_graph=True)
        del parameters
        return [*found, *torch.autograd.grad(y.sum(), start)]

    agree(compute)


def test_models_that_come_and_go_at_the_same_addresses(agree, mlp, move, y0):
    def compute():
        found = []
        for i in range(6):
            field = mlp()
            move(field, i)
            found += [gradients(field, y0) for _ in range(3)]
            del field
        return found

    agree(compute)


def test_only_so_many_kinds_are_kept(ahead, mlp, randn, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_KINDS", 3)
    fields = [mlp() for _ in range(3)]

    def sizes():
        return [key[3][0][0] for key in KINDS.kept]

    for i in range(6):
        for _ in range(2):
            solve(fields[i % 3], randn(i + 1, 3))
        assert len(KINDS.kept) == min(i + 1, 3)
    assert sizes() == [4, 5, 6]
    solve(fields[0], randn(4, 3))
    assert sizes() == [5, 6, 4]
    solve(fields[0], randn(1, 3))  # once more
    assert sizes() == [6, 4, 1]


def test_a_field_of_more_kinds_than_are_kept(agree, mlp, randn, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_KINDS", 3)

    def compute():
        field = mlp()
        return [gradients(field, randn(n, 3)) for n in (1, 2, 3, 4, 5) for _ in range(3)]

    agree(compute)


def test_only_so_many_bytes_are_kept(ahead, mlp, randn, monkeypatch):
    monkeypatch.setattr(kinds, "total_memory", lambda device: 0)
    field = mlp()
    for n in range(1, 4):
        for _ in range(3):
            solve(field, randn(n, 3))
        assert len(KINDS.kept) == 1


def test_only_so_many_kinds_are_remembered(ahead, mlp, randn, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_SEEN", 3)
    field = mlp()
    for n in range(1, 7):
        solve(field, randn(n, 3))
        assert len(KINDS.known) == min(n, 3)


def test_free_idle_memory_forgets_them(ahead, mlp, y0, replays):
    field = mlp()
    for _ in range(3):
        solve(field, y0)
    free_idle_memory()
    assert not n_kept()
    before = gradients(field, y0)
    assert n_kept() == 1
    torch.testing.assert_close(gradients(field, y0), before, rtol=1e-12, atol=1e-12)
    assert len(set(map(id, replays))) >= 2


def test_a_recording_that_cannot_be_made_is_not_tried_again(ahead, mlp, y0, monkeypatch):
    def refuse(*arguments, **settings):
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(replay, "Bundle", refuse)
    field = mlp()
    expected = solve(field, y0)
    with pytest.warns(UserWarning, match="could not be captured as CUDA graphs, and runs without: no graphs here"):
        assert torch.equal(solve(field, y0), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(solve(field, y0), expected)


def test_no_two_solves_have_the_same_recordings(ahead, mlp, randn, monkeypatch):
    """Threads that wait for each other in the middle of their solves."""
    field, y0 = mlp(), randn(4, 3)
    for _ in range(3):
        expected = solve(field, y0)
    together, used, ahead_of = threading.Barrier(4), [], replay.Replay.ahead

    def waiting(self, n, *, opens_solve):
        lease = ahead_of(self, n, opens_solve=opens_solve)
        if opens_solve:
            used.append(self)
            together.wait(20.0)
        return lease

    monkeypatch.setattr(replay.Replay, "ahead", waiting)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: solve(field, y0, t_eval=[0.35, 1.0]), range(4)))
    assert len(set(map(id, used))) == 4
    for y in found:
        torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
