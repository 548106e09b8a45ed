"""Functions that runtimes of ONNX lack, against torch's own."""

import torch

from skode.serving import asinh, hypot1


def test_to_rounding_from_the_smallest_to_the_largest_numbers():
    sizes = torch.logspace(-300, 300, 601, dtype=torch.float64)
    x = torch.cat([-sizes, torch.zeros(1, dtype=torch.float64), sizes])
    torch.testing.assert_close(asinh(x), torch.asinh(x), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(hypot1(x), torch.hypot(torch.ones_like(x), x), rtol=1e-15, atol=0.0)
