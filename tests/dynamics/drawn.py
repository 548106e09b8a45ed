"""Fields with random parameters, and times to evaluate them at, for the tests of dynamics."""

import torch
from torch import nn

#: Number of samples, and of features.
N, D = 6, 3

#: A time of the batch, or one of each sample.
TIMES = {
    "float": 0.3,
    "scalar": torch.tensor(0.3, dtype=torch.float64),
    "per sample": torch.linspace(0, 1, N, dtype=torch.float64)[:, None],
}


def drawn(field, generator, scale=1.0):
    """The field in float64, with all parameters, biases too, away from 0."""
    field = field.double()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return field


class ValueAndDivergence(nn.Module):
    """``value_and_divergence`` as a ``forward``, for functional_call."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, t, z):
        return self.field.value_and_divergence(t, z)
