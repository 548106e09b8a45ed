"""The divergence of a perceptron with one or two hidden layers, from its weights and its hidden layers' slopes."""

from __future__ import annotations

from torch import Tensor


def divergence_weights(weights: list[Tensor]) -> Tensor:
    """The factor of a perceptron's divergence that depends on its weights alone.

    One hidden layer, ``W2 h(W1 z)``: ``u_m = sum_i W1_mi W2_im``, of shape (width,). Two hidden layers,
    ``W3 h(W2 h(W1 z))``: ``Q_ab = W2_ab (W1 W3)_ba``, of shape (second width, first width).
    """
    first, *rest = weights
    if len(rest) == 1:
        return (first * rest[0].t()).sum(1)
    return rest[0] * (first @ rest[1]).t()


def combine_slopes(weights: Tensor, slopes: list[Tensor]) -> Tensor:
    """The divergence from :func:`divergence_weights` and the hidden layers' slopes: ``p1.u`` or ``p2.(Q p1)``."""
    if len(slopes) == 1:
        return slopes[0] @ weights
    return ((slopes[0] @ weights.t()) * slopes[1]).sum(1)


def add_divergence_gradients(gradients: list[Tensor], weights: list[Tensor], u_bar: Tensor) -> None:
    """Add the gradients through :func:`divergence_weights`, by the product rule on its definition.

    Parameters
    ----------
    gradients : list of Tensor
        Of weights and biases, layer by layer; the first may have a column for time.
    weights : list of Tensor
        The layers' weights, without time's column.
    u_bar : Tensor
        Cotangent of :func:`divergence_weights`.
    """
    first, *rest = weights
    to_state = gradients[0][:, : first.shape[1]]
    if len(rest) == 1:
        to_state += u_bar[:, None] * rest[0].t()
        gradients[2] += (u_bar[:, None] * first).t()
        return
    product_bar = (u_bar * rest[0]).t()  # the cotangent of W1 W3
    to_state += product_bar @ rest[1].t()
    gradients[2] += u_bar * (first @ rest[1]).t()
    gradients[4] += first.t() @ product_bar
