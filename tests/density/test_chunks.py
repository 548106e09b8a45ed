import numpy as np
import pytest
import torch

from skode.density import chunks

POINTS = np.random.default_rng(0).normal(size=(10, 2))


@pytest.mark.parametrize("size", [1, 3, 10, 100])
def test_values_do_not_depend_on_the_chunks(size, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", size)
    like = torch.zeros(1, dtype=torch.float64)
    np.testing.assert_array_equal(chunks.in_chunks(lambda z: z.sum(1), POINTS, like), POINTS.sum(1))
    found = chunks.in_chunks(lambda z: torch.stack([z, 2 * z]), POINTS, like, axis=1)
    np.testing.assert_array_equal(found, np.stack([POINTS, 2 * POINTS]))


def test_no_graph_is_built_and_the_dtype_is_that_of_the_flow():
    weight = torch.ones(2, requires_grad=True)
    kinds = []

    def function(z):
        kinds.append((z.dtype, (z * weight).requires_grad))
        return z

    assert chunks.in_chunks(function, POINTS, weight).dtype == np.float32
    assert kinds == [(torch.float32, False)]
