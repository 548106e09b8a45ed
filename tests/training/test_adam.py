import pickle
import subprocess
import sys

import pytest
import torch

from skode.training.adam import Adam


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (3,), (), (2, 2, 2))
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def with_gradients(tensors, seed, without=()):
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(tensors):
        p.grad = None if i in without else torch.randn(p.shape, generator=generator, dtype=p.dtype)


def torchs(tensors, decay):
    weights, others = [p for p in tensors if p.ndim > 1], [p for p in tensors if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.Adam(groups, lr=0.1, fused=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_updates_are_torchs_to_the_bit(dtype, decay):
    own, other = parameters(dtype), parameters(dtype)
    ours, theirs = Adam(own, 0.1, decay), torchs(other, decay)
    for seed in range(5):
        without = (1, 3) if seed == 2 else ()
        with_gradients(own, seed, without)
        with_gradients(other, seed, without)
        ours.learning_rate = theirs.param_groups[0]["lr"] = theirs.param_groups[1]["lr"] = 0.1 / (1 + seed)
        ours.step()
        theirs.step()
    for mine, reference in zip(own, other, strict=True):
        assert torch.equal(mine, reference)
    ours.clear()
    assert all(p.grad is None for p in own)


def test_a_parameter_that_never_has_a_gradient_stays_as_it_is():
    own = parameters()
    before = own[0].detach().clone()
    optimiser = Adam(own, 0.1, 0.3)
    with_gradients(own, 0, without=(0,))
    optimiser.step()
    assert torch.equal(own[0], before)
    assert len(optimiser.state()) == len(own) - 1


def test_it_goes_on_from_a_pickled_state_as_if_it_had_never_stopped():
    own, other = parameters(), parameters()
    whole, first = Adam(own, 0.1, 0.3), Adam(other, 0.1, 0.3)
    for seed in range(2):
        with_gradients(own, seed)
        with_gradients(other, seed)
        whole.step()
        first.step()
    second = Adam(other, 0.1, 0.3)
    second.go_on_from(pickle.loads(pickle.dumps(first.state())))
    for seed in range(2, 4):
        with_gradients(own, seed)
        with_gradients(other, seed)
        whole.step()
        second.step()
    for mine, reference in zip(other, own, strict=True):
        assert torch.equal(mine, reference)
    assert float(first.state()[0]["step"]) == 2  # the state was copied


def test_a_state_of_torchs_optimiser_is_taken_over():
    """Estimators that were pickled before this optimiser hold one."""
    own, other = parameters(), parameters()
    theirs = torchs(other, 0.3)
    with_gradients(other, 0)
    theirs.step()
    with torch.no_grad():
        for mine, reference in zip(own, other, strict=True):
            mine.copy_(reference)
    ours = Adam(own, 0.1, 0.3)
    ours.go_on_from(theirs.state_dict()["state"])
    with_gradients(own, 1)
    with_gradients(other, 1)
    ours.step()
    theirs.step()
    for mine, reference in zip(own, other, strict=True):
        assert torch.equal(mine, reference)


def test_a_step_is_skipped_where_something_was_infinite():
    own = parameters()
    optimiser = Adam(own, 0.1)
    with_gradients(own, 0)
    optimiser.step()
    before = [p.detach().clone() for p in own]
    optimiser.found_inf = torch.ones(())
    optimiser.step()
    assert all(torch.equal(p, b) for p, b in zip(own, before, strict=True))
    assert float(optimiser.state()[0]["step"]) == 1
    optimiser.found_inf = torch.zeros(())
    optimiser.step()
    assert not torch.equal(own[0], before[0])


def test_a_fit_does_not_load_torchs_compiler():
    """Which takes longer than many a fit."""
    program = (
        "import sys, numpy as np; from skode import *; X = np.arange(12.0).reshape(6, 2); y = X[:, 0];"
        "ODENetRegressor(max_iter=1).fit(X, y); CNFDensityEstimator(max_iter=1, early_stopping=False).fit(X);"
        "LatentODERegressor(max_iter=1).fit(X, y);"
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
