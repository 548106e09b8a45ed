r"""Recursions over the slots of series, many slots at once.

Slots are cut into blocks of about the square root of their number. All blocks go through the recursion together, each
as if nothing came before it; then the last values of the blocks follow from each other; and last, every slot gets its
share of what came before its block. The work is linear in the slots, and the calls are few (G. E. Blelloch, "Prefix
sums and their applications", Carnegie Mellon University, CMU-CS-90-190, 1990).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class AffineScan:
    r"""Recursions :math:`x_k = a_k x_{k-1} + b_k` from :math:`x_{-1} = 0`, of the same factors and any terms.

    Nothing is divided by the products of the factors: they may vanish. Gradients are not recorded.

    Parameters
    ----------
    factors : Tensor of shape (n_series, n_slots, n_outputs)
        The :math:`a_k`; :math:`a_0` does not count.
    """

    def __init__(self, factors: Tensor) -> None:
        self.n_slots = factors.shape[1]
        self._factors = in_blocks(factors)
        #: Products of the factors of each block's slots so far.
        self._products = self._factors.cumprod(2)

    @torch.no_grad()
    def __call__(self, terms: Tensor) -> Tensor:
        """All :math:`x_k`, for terms of shape (n_copies, n_series, n_slots, n_outputs), in the same shape."""
        x = in_blocks(terms)
        values, factors = x.unbind(3), self._factors.unbind(2)
        for slot in range(1, len(values)):
            values[slot].addcmul_(factors[slot], values[slot - 1])
        ends, products = values[-1].unbind(2), self._products[:, :, -1].unbind(1)
        for block in range(1, len(ends)):
            ends[block].addcmul_(products[block], ends[block - 1])
        x[:, :, 1:, :-1].addcmul_(self._products[:, 1:, :-1], x[:, :, :-1, -1:])
        return x.flatten(2, 3)[:, :, : self.n_slots]


@torch.no_grad()
def filtered_variances(kept: Tensor, added: Tensor, white: Tensor) -> Tensor:
    r"""Variances of a state, given the observations so far, from 0 on: the Riccati equation of a scalar filter.

    A step to the next slot, and the observation in it, map a variance :math:`P` to :math:`a^2 P / (1 + J P) + C`. Such
    maps are closed under composition: after :math:`(a_1, C_1, J_1)`, :math:`(a_2, C_2, J_2)` makes

    .. math::

        a = \frac{a_1 a_2}{1 + C_1 J_2}, \quad
        C = \frac{a_2^2 C_1}{1 + C_1 J_2} + C_2, \quad
        J = \frac{a_1^2 J_2}{1 + C_1 J_2} + J_1

    (S. Särkkä, Á. F. García-Fernández, "Temporal parallelization of Bayesian smoothers", IEEE Transactions on Automatic
    Control 66, 2021, section IV). No term is negative, so that nothing cancels.

    Parameters
    ----------
    kept, added : Tensor of shape (n_series, n_slots, n_outputs)
        A slot's state is that of the slot before times ``kept``, and noise of variance ``added``.
    white : Tensor of the same shape
        Variance of what each slot's observation differs by from the state; infinite where there is none.

    Returns
    -------
    Tensor of the same shape
    """
    total = added + white
    seen = torch.isfinite(white)
    share = torch.where(seen, white / total, 1.0)
    maps = (in_blocks(x).unbind(2) for x in (kept * share, added * share, torch.where(seen, kept**2 / total, 0.0)))
    steps = list(zip(*maps, strict=True))
    so_far = [steps[0]]
    for a2, c2, j2 in steps[1:]:
        a1, c1, j1 = so_far[-1]
        shrunk = 1.0 / (1.0 + c1 * j2)
        so_far.append((a1 * a2 * shrunk, a2**2 * c1 * shrunk + c2, a1**2 * j2 * shrunk + j1))
    before = torch.zeros_like(so_far[0][0])
    a, c, j = so_far[-1]
    for block in range(1, before.shape[1]):
        known = before[:, block - 1]
        before[:, block] = a[:, block - 1] ** 2 * known / (1.0 + j[:, block - 1] * known) + c[:, block - 1]
    a, c, j = (torch.stack(parts, dim=2) for parts in zip(*so_far, strict=True))
    before = before[:, :, None]
    return (a**2 * before / (1.0 + j * before) + c).flatten(1, 2)[:, : kept.shape[1]]


def in_blocks(values: Tensor) -> Tensor:
    """A copy of values of shape (..., n_slots, n_outputs) as (..., n_blocks, length, n_outputs), filled up with 0."""
    *shape, n_slots, n_outputs = values.shape
    length = max(math.isqrt(n_slots), 1)
    n_blocks = -(-n_slots // length)
    blocks = values.new_empty(*shape, n_blocks * length, n_outputs)
    blocks[..., :n_slots, :], blocks[..., n_slots:, :] = values, 0.0
    return blocks.unflatten(-2, (n_blocks, length))
