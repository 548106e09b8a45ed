"""A field of a user's."""

from torch import nn


class Swirl(nn.Module):
    """A field of a user's own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, t, z):
        return self.layers(z)
