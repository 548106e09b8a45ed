import numpy as np
import pytest
import torch

from skode.dynamics.activations import ACTIVATIONS


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_values_slopes_and_curvatures(name):
    arrays, exact = ACTIVATIONS[name].arrays, getattr(torch, name, None) or getattr(torch.nn.functional, name, None)
    exact = torch.sigmoid if name == "logistic" else exact
    x = torch.tensor([-30.0, -3.0, -0.7, -1e-3, 1e-3, 0.2, 1.5, 4.0, 30.0], dtype=torch.float64, requires_grad=True)
    value = exact(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    curvature = torch.zeros_like(x)
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), x)
    u = arrays.into * x.detach().numpy()
    s = np.empty_like(u) if arrays.of_input else u
    arrays.value(u, s)
    np.testing.assert_allclose(arrays.outof * s + arrays.shift, value.detach(), rtol=1e-13, atol=1e-15)
    p, kept = np.empty_like(u), u if arrays.of_input else s
    arrays.slope(kept, p)
    np.testing.assert_allclose(arrays.outof * arrays.into * p, slope.detach(), rtol=1e-12, atol=1e-13)
    v = np.full_like(u, 2.0)
    arrays.curvature(kept, p, v)
    np.testing.assert_allclose(arrays.outof * arrays.into**2 * v, 2.0 * curvature, rtol=1e-10, atol=1e-12)
