"""Some attempts in a row as one recording, which serves again."""

import torch

from skode.dynamics import MLPField
from skode.solvers import devices, solve_ivp
from skode.solvers.device import bundle, replay
from skode.solvers.device.kinds import KINDS
from tests.solvers.device.recorded import gradients, solve


def test_bundles_are_used_again(ahead, mlp, y0, monkeypatch):
    made, make = [], replay.Bundle.__init__

    def noted(self, *arguments, **settings):
        made.append(self)
        make(self, *arguments, **settings)

    monkeypatch.setattr(replay.Bundle, "__init__", noted)
    field = mlp()
    for _ in range(3):
        gradients(field, y0)
    n_made = len(made)
    for _ in range(4):
        gradients(field, y0)
    assert len(made) == n_made  # those of solves that are gone
    kept = [solve(field, y0) for _ in range(4)]
    assert len(made) == n_made + 3
    kept.clear()
    kept = [solve(field, y0) for _ in range(4)]
    assert len(made) == n_made + 3


def test_few_recordings_are_made_where_the_step_size_is_bounded(ahead, mlp, y0, replays):
    """The steps that are left are counted with the size that they will have."""
    field = mlp()
    for _ in range(2):
        solve(field, y0)
    (recorded,) = replays
    assert sum(map(len, recorded.idle.values())) <= 3


def test_ways_back_are_few_however_steps_are_rejected(ahead, monkeypatch):
    """A recording is not made for each of the ways in which attempts may be good or not."""
    monkeypatch.setattr(bundle, "MOST_WAYS_BACK", 3)
    generator = torch.Generator().manual_seed(0)
    field = MLPField(2, (16,), "tanh", False, generator=generator).double()
    with torch.no_grad():
        field.layers[0].weight.mul_(4.0)
    found = []
    for _ in range(30):
        start = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
        settings = {"t_eval": [3.0], "rtol": 1e-5, "atol": 1e-5, "first_step": 1.0}
        end = solve_ivp(field, (0.0, 3.0), start, **settings).y.square().sum()
        found.append((start, torch.autograd.grad(end, start)[0], settings))
    bundles = [b for (kept,) in KINDS.kept.values() for idle in kept.idle.values() for b in idle]
    assert max(len(one.backward) for one in bundles) > 3
    assert all(len(steps) == 1 for one in bundles for steps, *_ in list(one.backward)[3:])
    devices.ASYNCHRONOUS.discard("cpu")
    for start, gradient, settings in found:
        end = solve_ivp(field, (0.0, 3.0), start, **settings).y.square().sum()
        torch.testing.assert_close(torch.autograd.grad(end, start)[0], gradient, rtol=1e-9, atol=1e-9)
