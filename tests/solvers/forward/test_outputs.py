"""Outputs inside a step, off its interpolant."""

import numpy as np
import pytest
import torch

from skode.solvers.forward.outputs import MANY_OUTPUTS, inside_samples


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("order", ["sorted", "shuffled", "few"])
def test_of_samples_few_or_many_in_any_order(shape, per_sample, order):
    rng, n = np.random.default_rng(0), 3
    y, stages = (torch.from_numpy(rng.standard_normal((*size, *shape))) for size in ((n,), (7, n)))
    rows = rng.choice([0, 2], 4 if order == "few" else n * MANY_OUTPUTS + 5)  # none of sample 1
    rows = rows if order == "shuffled" else np.sort(rows)
    weights = torch.from_numpy(rng.standard_normal((7, len(rows)))).t()  # as the tableaus lay them out
    sizes = torch.from_numpy(rng.standard_normal(n))
    h = sizes.view(n, *[1] * len(shape)) if per_sample else 0.3
    found = inside_samples(y, stages.reshape(7, -1), h, weights, rows)
    steps = sizes if per_sample else torch.full_like(sizes, 0.3)
    expected = torch.stack(
        [y[i] + steps[i] * torch.tensordot(some, stages[:, i], 1) for i, some in zip(rows, weights, strict=True)]
    )
    assert found.shape == (len(rows), *shape)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
