"""The device that these tests are about, and how its results are held against the CPU's.

``python -m pytest tests/cuda`` runs them where there is a CUDA device; elsewhere they are skipped.
``SKODE_TEST_DEVICE=cpu`` runs their code without one (and skips what is about the device itself). As results then agree
in any case, ``SKODE_TEST_JITTER=1e-15`` moves the states and parameters of one of the two runs by as much as rounding
does: what fails by that would fail on a GPU as well.
"""

import copy
import os
import warnings

import pytest
import torch
from torch import nn

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def device():
    """The device to compute on."""
    chosen = torch.device(os.environ.get("SKODE_TEST_DEVICE", "cuda"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with warnings.catch_warnings():  # of cuBLAS, that the first product in a thread makes a context
        warnings.simplefilter("ignore")
        x = torch.eye(2, device=chosen, requires_grad=True)
        (x @ x).sum().backward()
    return chosen


@pytest.fixture(scope="session")
def gpu(device):
    """The device of tests that only mean something on a GPU."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device, whatever SKODE_TEST_DEVICE says")
    return device


class Place:
    """A device, to which a problem is copied before it is solved there.

    Parameters
    ----------
    device : torch.device
        The device.
    jitter : float
        Relative size of random changes to what is copied.
    """

    def __init__(self, device, jitter=0.0):
        self.device, self.jitter = device, jitter
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, thing):
        """A copy of a tensor, of a tuple of tensors or of a module, which shares nothing with the original."""
        if isinstance(thing, tuple):
            return tuple(self(part) for part in thing)
        if isinstance(thing, nn.Module):
            moved = copy.deepcopy(thing)
            with torch.no_grad():
                for parameter in moved.parameters():
                    parameter.copy_(self._moved_a_little(parameter))
            return moved.to(self.device)
        return self._moved_a_little(thing.detach()).to(self.device).requires_grad_(thing.requires_grad)

    def _moved_a_little(self, tensor):
        noise = torch.randn(tensor.shape, generator=self.generator, dtype=tensor.dtype)
        return tensor * (1.0 + self.jitter * noise) if self.jitter else tensor.clone()

    def here(self, tensor):
        """A tensor, which must be on this device."""
        assert tensor.device.type == self.device.type
        return tensor


class Agreement:
    """Checks that a computation gives on a device what it gives on the CPU.

    Parameters
    ----------
    device : torch.device
        The device.
    """

    def __init__(self, device):
        self.device = device

    def __call__(self, compute, *, rtol=1e-9, atol=1e-9):
        """Compare ``compute(place)``, tensors in lists or tuples, where None stands for a gradient that isn't there."""
        expected = flattened(compute(Place(CPU)))
        found = flattened(compute(Place(self.device, float(os.environ.get("SKODE_TEST_JITTER", "0")))))
        assert [one is None for one in found] == [one is None for one in expected]
        for one, other in zip(found, expected, strict=True):
            if one is not None:
                torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=rtol, atol=atol, equal_nan=True)


def flattened(results):
    """The tensors in nested lists and tuples, in order; numbers become tensors."""
    if isinstance(results, list | tuple):
        return [tensor for part in results for tensor in flattened(part)]
    if results is None or isinstance(results, torch.Tensor):
        return [results]
    return [torch.as_tensor(results)]


@pytest.fixture
def agree(device):
    return Agreement(device)


def _with_gradients(outputs, leaves):
    """Outputs, and the gradients by some tensors of a loss in which every number has a weight of its own."""
    loss = 0.0
    for i, output in enumerate(outputs):
        weights = torch.linspace(-1.0, 2.0, output.numel(), dtype=torch.float64).view(output.shape) + 0.1 * i
        loss = loss + (weights.to(output) * torch.nan_to_num(output)).sum().cpu().double()
    return [*outputs, *torch.autograd.grad(loss, leaves, allow_unused=True)]


@pytest.fixture
def with_gradients():
    return _with_gradients
