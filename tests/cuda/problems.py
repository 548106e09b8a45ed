"""Numbers that several test modules draw."""

import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=1):
    """Normal numbers in float64, the same for the same shape and seed."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)
