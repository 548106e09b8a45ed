"""Adam in the eigenbasis of the gradients' second moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy import linalg
from torch import Tensor

from skode.training.optimizer import Optimizer

#: Shares of the past in the running means: of gradients, of their squares in the eigenbasis, of their outer products.
MEAN, SQUARE, OUTER = 0.9, 0.99, 0.95

#: Updates after which the eigenbases are brought up to date.
EVERY = 10

#: Sides longer than this have no eigenbasis, for its decomposition takes longer than it saves.
LONGEST_SIDE = 512

TINY = 1e-8

#: Directions whose second moment is a smaller share of the largest have no eigenvectors to speak of.
SEEN = 1e-4


class SOAP(Optimizer):
    r"""SOAP (Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025, algorithm 3).

    With :math:`L` and :math:`R` the running means of :math:`G G^T` and :math:`G^T G` over a matrix's gradients, and
    :math:`Q_L, Q_R` their eigenvectors, Adam is applied to :math:`Q_L^T G Q_R`, whose entries are less correlated than
    those of :math:`G`, and its step turned back. Eigenvectors are brought up to date by one step of subspace iteration,
    the QR decomposition of :math:`L Q_L`. Parameters that are no matrices have Adam's steps as they are. The first
    gradient, which in the bases of itself alone would be diagonal but for rounding, only sets the bases.
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, decay: float = 0.0) -> None:
        super().__init__(parameters, learning_rate, decay)
        self._states: dict[int, dict[str, Any]] = {}

    @torch.no_grad()
    def step(self) -> None:
        for i, parameter in enumerate(self.parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            if self.decay and parameter.ndim > 1:
                gradient = gradient.add(parameter, alpha=self.decay)
            step = self._step(self._states.setdefault(i, {}), parameter, gradient)
            if self.found_inf is not None:
                step = torch.where(self.found_inf > 0.0, 0.0, step)
            parameter.sub_(step, alpha=self.learning_rate)

    def state(self) -> dict[int, dict[str, Any]]:
        return {i: dict(own) for i, own in self._states.items()}

    def go_on_from(self, state: dict[int, dict[str, Any]]) -> None:
        for i, own in state.items():
            like = self.parameters[i]
            self._states[i] = {
                name: value.to(device=like.device, dtype=like.dtype, copy=True) if isinstance(value, Tensor) else value
                for name, value in own.items()
            }

    def _step(self, state: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
        """Adam's step of length one, in the eigenbases of the parameter's sides where it is a matrix."""
        if not state:
            state.update(n=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        left = right = None
        if parameter.ndim == 2:
            left = _basis(state, "left", gradient)
            right = _basis(state, "right", gradient.T)
        n = state["n"]
        state["n"] += 1
        if not n:
            return torch.zeros_like(parameter)
        turned = _turned(gradient, left, right)
        state["mean"].lerp_(gradient, 1.0 - MEAN)
        state["square"].mul_(SQUARE).addcmul_(turned, turned, value=1.0 - SQUARE)
        mean = _turned(state["mean"], left, right) / (1.0 - MEAN**n)
        step = mean / (state["square"] / (1.0 - SQUARE**n)).sqrt_().add_(TINY)
        return _turned(step, None if left is None else left.T, None if right is None else right.T)


def _basis(state: dict[str, Any], side: str, gradient: Tensor) -> Tensor | None:
    """The eigenbasis of the rows' second moments, with this gradient's in them; None where there are too many rows."""
    size, n = len(gradient), state["n"]
    if size > LONGEST_SIDE:
        return None
    outer = state.setdefault(f"{side}_outer", gradient.new_zeros(size, size))
    outer.mul_(OUTER).addmm_(gradient, gradient.T, alpha=1.0 - OUTER)
    if n == 0:
        state[side] = _eigenvectors(outer)
    elif n % EVERY == 0:
        # The shift leaves eigenvectors as they are; without it rounding would turn those of small eigenvalues.
        shifted = outer @ state[side] + SEEN * torch.linalg.matrix_norm(outer) * state[side]
        state[side] = torch.linalg.qr(shifted)[0]
    return state[side]


def _eigenvectors(outer: Tensor) -> Tensor:
    """Eigenvectors of second moments, by rising eigenvalue; where there are none to speak of, the axes as they are.

    A first gradient has few directions. In the others any basis is one of eigenvectors, which rounding would choose.
    """
    values, vectors = torch.linalg.eigh(outer.double())
    unseen = vectors[:, values <= SEEN * values[-1].clamp_min(0.0)]
    n = unseen.shape[1]
    if n > 1:
        # Of the axes as they lie in these directions, those that span them best, made orthogonal.
        axes = _pivots(unseen)
        basis = unseen @ torch.linalg.qr(unseen[axes].T)[0]
        signs = torch.sign(torch.diagonal(basis[axes]))
        vectors = torch.cat([basis * torch.where(signs == 0.0, 1.0, signs), vectors[:, n:]], dim=1)
    return vectors.to(outer)


def _pivots(basis: Tensor) -> Tensor:
    """Rows of an orthonormal basis of a subspace, as many as its columns, by pivoting: those least like each other."""
    _, order = linalg.qr(basis.T.cpu().numpy(), mode="r", pivoting=True)
    return torch.from_numpy(order[: basis.shape[1]]).to(basis.device)


def _turned(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """A matrix in the coordinates of two bases of its sides, the columns of ``left`` and ``right``."""
    if left is not None:
        matrix = left.T @ matrix
    return matrix if right is None else matrix @ right
