"""Solves that run ahead of the host, on the CPU: the same code as on a GPU, with recordings that are called again."""

from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch

from skode.dynamics import MLPField
from skode.solvers import SolverError, devices, free_idle_memory, solve_ivp, stepping
from skode.solvers.device import kinds, replay


@contextmanager
def running_ahead():
    """While the CPU passes for a device that is not to be waited for."""
    kinds.KINDS.__init__()  # nothing is known of models that are gone
    devices.ASYNCHRONOUS.add("cpu")
    try:
        yield
    finally:
        devices.ASYNCHRONOUS.discard("cpu")
        free_idle_memory()


@pytest.fixture
def ahead():
    """The CPU passes for such a device, in the whole test."""
    with running_ahead():
        yield


@pytest.fixture
def replays(monkeypatch):
    """The recordings by which solves were begun, one entry for each solve."""
    begun, start = [], replay.Replay.start

    def noted(self, *arguments):
        begun.append(self)
        return start(self, *arguments)

    monkeypatch.setattr(replay.Replay, "start", noted)
    return begun


def outcome(compute):
    """The result of a computation, or the error that it raises."""
    try:
        return compute()
    except (SolverError, ValueError) as error:
        return error


def flattened(results):
    """Leaves of nested lists and tuples, in order."""
    if isinstance(results, list | tuple):
        return [part for inner in results for part in flattened(inner)]
    return [results]


def assert_agrees(found, expected, rtol):
    """Tensors up to rounding, relative to their largest element; errors by what they say; numbers exactly."""
    assert type(found) is type(expected), (found, expected)
    if isinstance(expected, SolverError):
        assert found.time == pytest.approx(expected.time, rel=1e-9)
        assert found.sample == expected.sample
        assert found.reason == expected.reason
    elif isinstance(expected, Exception):
        assert str(found) == str(expected)
    elif isinstance(expected, torch.Tensor):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert torch.equal(found.isnan(), expected.isnan())
        size = torch.nan_to_num(expected.detach()).abs().amax() if expected.numel() else 0.0
        off = torch.nan_to_num(found.detach() - expected.detach()).abs()
        assert (off <= rtol * size).all(), float(off.amax() / size)
    else:
        assert found == expected


class Agreement:
    """Checks that a computation gives ahead of the host what it gives otherwise.

    Parameters
    ----------
    replays : list
        Grows by each solve that uses recordings.
    """

    def __init__(self, replays):
        self.replays = replays

    def __call__(self, compute, *, rtol=1e-12, n_replayed=None):
        """Compare ``compute()``: tensors, numbers and errors, in lists; some of its solves are to use recordings.

        Where they may differ by rounding, both sum stages in the same order: plain functions' are summed term by term
        otherwise, whose rounding the sizes of steps make visible.
        """
        same = mock.patch.object(stepping, "RecordedStepper", stepping.ExplicitStepper) if rtol else nullcontext()
        with same:
            expected = flattened(compute())
        assert not self.replays
        with running_ahead():
            found = flattened(compute())
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_agrees(one, other, rtol)
        if n_replayed is not None:
            assert len(self.replays) == n_replayed
        self.replays.clear()


@pytest.fixture
def agree(replays):
    return Agreement(replays)


@pytest.fixture(name="outcome")
def outcome_fixture():
    return outcome


def with_gradients(outputs, leaves, **settings):
    """Outputs, and the gradients by some tensors of a loss in which every number has a weight of its own."""
    weights = torch.linspace(-1.0, 2.0, outputs.numel(), dtype=outputs.dtype).view(outputs.shape)
    loss = (weights * torch.nan_to_num(outputs)).sum()
    return [outputs.detach(), *torch.autograd.grad(loss, leaves, **settings)]


@pytest.fixture(name="with_gradients")
def with_gradients_fixture():
    return with_gradients


def numbers(solution):
    """Work that was done."""
    counts = (solution.nfev, solution.n_accepted, solution.n_rejected)
    return [count.tolist() if isinstance(count, torch.Tensor) else count for count in counts]


@pytest.fixture
def solved():
    """A function that solves: times, states, gradients and counts."""

    def solve(func, y0, t_span=(0.0, 1.0), *, leaves=None, counts=True, **settings):
        parameters = leaves if leaves is not None else list(getattr(func, "parameters", list)())
        y0 = y0.clone().requires_grad_()
        solution = solve_ivp(func, t_span, y0, **settings)
        found = [solution.t, *with_gradients(solution.y, [y0, *parameters])]
        return [*found, *numbers(solution)] if counts else found

    return solve


def randn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(name="randn")
def randn_fixture():
    """Random numbers, the same for the same shape and seed."""
    return randn


@pytest.fixture
def mlp():
    """A function that makes perceptrons of three features, the same for the same arguments."""

    def make(hidden=(8,), **settings):
        field = MLPField(3, hidden, generator=torch.Generator().manual_seed(0), **settings).double()
        with torch.no_grad():
            for parameter in field.parameters():
                parameter *= 1.5
        return field

    return make


@pytest.fixture
def move():
    """A function that changes parameters in place, as an optimiser does."""

    def change(module, i):
        with torch.no_grad():
            for j, parameter in enumerate(module.parameters()):
                parameter += 0.1 * randn(*parameter.shape, seed=100 * i + j)

    return change


@pytest.fixture
def y0(randn):
    """Four states of three features."""
    return randn(4, 3)
