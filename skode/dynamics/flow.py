"""A state carried together with its log-density: the dynamics of a continuous normalizing flow.

Along ``dz/dt = f(t, z)`` the density of ``z(t)`` follows ``d log p(z(t)) / dt = -tr(df/dz)`` (the instantaneous
change of variables, theorem 1 of Chen et al. 2018). The joint state has the log-density as the column after the
states', and after it, where they are wanted, the kinetic energy of the path and the norm of the Jacobian along it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from skode.dynamics.bound_mlp import BoundMLP
from skode.dynamics.divergence import field_divergence, noise_divergence, offers_divergence
from skode.dynamics.energies import mean_square
from skode.dynamics.flow_tape import FlowSession, FlowTape, FoldedFlow
from skode.dynamics.fused_flow import FlowForm
from skode.dynamics.mlp import MLPField
from skode.dynamics.mlp_divergence import add_divergence_gradients, combine_slopes, divergence_weights
from skode.solvers.cached import cached


def flow_field(
    field: Callable[[Any, Tensor], Tensor],
    *,
    noise: Tensor | None = None,
    estimate: bool = False,
    energy: bool = False,
    jacobian: bool = False,
) -> FlowField:
    """The joint dynamics of a field's states and their log-density, by the fastest path that the field allows.

    Parameters
    ----------
    field : callable
        ``f(t, z)`` over states of shape (n, d), each row by itself.
    noise : Tensor of shape (n, d), default=None
        The noise of the estimates, of mean 0 and covariance 1, the same for the whole solve.
    estimate : bool, default=False
        Whether the divergence is estimated with the noise (Hutchinson's estimator) rather than exact.
    energy, jacobian : bool, default=False
        Whether ``|f|^2 / d`` and ``|noise^T df/dz|^2 / d`` are integrated as well, in columns behind the log-density.
    """
    if not estimate and not jacobian and _is_bound_flow(field):
        return MLPFlowField(field, energy=energy)
    return FlowField(field, noise=noise, estimate=estimate, energy=energy, jacobian=jacobian)


def _is_bound_flow(field: Any) -> TypeGuard[MLPField]:
    """Whether :class:`BoundFlow` is a field's flow: a perceptron with :class:`MLPField`'s own value and divergence."""
    kind = type(field)
    return (
        isinstance(field, MLPField)
        and kind.bind is MLPField.bind
        and kind.value_and_divergence is MLPField.value_and_divergence
        and offers_divergence(field)
    )


class FlowField(nn.Module):
    """``d[z, log p, ...]/dt = [f, -tr(df/dz), ...]``, differentiated by autograd.

    Parameters
    ----------
    field, noise, estimate, energy, jacobian : Any
        See :func:`flow_field`.

    Attributes
    ----------
    n_columns : int
        Columns of the joint state behind the state's.
    """

    def __init__(
        self,
        field: Callable[[Any, Tensor], Tensor],
        *,
        noise: Tensor | None = None,
        estimate: bool = False,
        energy: bool = False,
        jacobian: bool = False,
    ) -> None:
        super().__init__()
        if noise is None and (estimate or jacobian):
            raise ValueError("An estimated divergence, or a Jacobian's norm, needs noise.")
        self.field, self.noise = field, noise
        self.estimate, self.energy, self.jacobian = estimate, energy, jacobian
        self.n_columns = 1 + energy + jacobian
        if noise is not None:  # each solve draws other noise
            self.recordable = False

    def forward(self, t: Any, state: Tensor) -> Tensor:
        """Rates of joint states of shape (n, d + n_columns)."""
        z = state[:, : -self.n_columns]
        pulled = None
        if self.noise is not None and (self.estimate or self.jacobian):
            value, divergence, pulled = noise_divergence(self.field, t, z, self.noise)
        if not self.estimate:
            value, divergence = field_divergence(self.field, t, z)
        rates = [value, -divergence[:, None]]
        if self.energy:
            rates.append(mean_square(value))
        if self.jacobian:
            assert pulled is not None
            rates.append(mean_square(pulled))
        return torch.cat(rates, dim=1)


class MLPFlowField(FlowField):
    """The flow of a perceptron with one or two hidden layers, with analytic divergence and its own pullback.

    Parameters
    ----------
    field : MLPField
        The perceptron.
    energy : bool, default=False
        Whether the kinetic energy is integrated as well.
    """

    field: MLPField

    #: See :class:`MLPField`.
    recordable = True

    def __init__(self, field: MLPField, *, energy: bool = False) -> None:
        super().__init__(field, energy=energy)

    def forward(self, t: Any, state: Tensor) -> Tensor:
        return self.bind()(t, state)

    def fused(self, like: Tensor) -> FlowForm | None:
        """Form of the joint dynamics for the solver's fused path; None for states that it does not take."""
        n_features = self.field.n_features
        inner = self.field.fused(like[:, :n_features])
        if inner is None or like.shape[1] != n_features + self.n_columns:
            return None
        return FlowForm(inner, self.n_columns)

    def bind(self) -> BoundFlow:
        """The joint dynamics over views of the current weights."""
        return BoundFlow(self.field.bind(), self.n_columns)

    def linearize(self, t: float | Tensor, state: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`BoundFlow.linearize`."""
        return self.bind().linearize(t, state)

    def pullback(self, residuals: Any, cotangent: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`BoundFlow.pullback`."""
        return self.bind().pullback(residuals, cotangent)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """See :meth:`BoundFlow.parameter_gradients`."""
        return self.bind().parameter_gradients(tape)


class FlowProducts:
    """A perceptron's flow as plain matrix products, with their pullback.

    Parameters
    ----------
    field : BoundMLP
        The perceptron, with one or two hidden layers. It may have inputs behind the state, which do not change in time.
    n_columns : int, default=1
        1, or 2 with the kinetic energy.
    """

    def __init__(self, field: BoundMLP, n_columns: int = 1) -> None:
        self.field, self.n_columns = field, n_columns
        first, *rest = field.weights
        self.n_features = len(rest[-1])
        self.state_weights = [first[:, : self.n_features], *rest]
        self.weights = divergence_weights(self.state_weights)

    def perceptron_inputs(self, z: Tensor) -> Tensor:
        """The perceptron's inputs but time, of which the state is the first."""
        return z

    def parameters(self) -> list[Tensor]:
        """The perceptron's parameters."""
        return self.field.parameters()

    def __call__(self, t: float | Tensor, state: Tensor) -> Tensor:
        """The value."""
        return self.linearize(t, state)[0]

    def linearize(self, t: float | Tensor, state: Tensor) -> tuple[Tensor, Any]:
        """The value, and the field's residuals, the slopes of its hidden layers, and its value."""
        value, residuals = self.field.linearize(t, self.perceptron_inputs(state[:, : -self.n_columns]))
        slopes = [self.field.h.slope(k) for k in self.field.kept(residuals)]
        divergence = combine_slopes(self.weights, slopes)
        rates = [value, -divergence[:, None]]
        if self.n_columns > 1:
            rates.append(mean_square(value))
        return torch.cat(rates, dim=1), (residuals, slopes, value)

    def pullback(self, residuals: Any, cotangent: Tensor) -> tuple[Tensor, Any]:
        """Reverse of :meth:`linearize`, the gradient of the divergence included.

        The divergence reaches the hidden layers' inputs through their slopes, by ``h''``: with ``c`` the cotangent
        of the divergence, ``pbar1 = c u`` (one hidden layer), or ``pbar1 = (c p2) Q`` and ``pbar2 = c (p1 Q^T)``.
        The energy's cotangent ``e`` adds ``2 e f / d`` to that of the value.
        """
        inner, slopes, value = residuals
        field, weights, d = self.field, self.weights, self.n_features
        kept = field.kept(inner)
        value_bar, c = cotangent[:, :d], -cotangent[:, d : d + 1]
        if self.n_columns > 1:
            value_bar = value_bar + (2.0 / d) * cotangent[:, d + 1 :] * value
        slope_bars = [c * weights] if len(slopes) == 1 else [c * slopes[1] @ weights, c * (slopes[0] @ weights.t())]
        delta = value_bar
        deltas = [delta]
        for i in reversed(range(len(kept))):
            k, p = kept[i], slopes[i]
            delta = (delta @ field.weights[i + 1]) * p + slope_bars[i] * field.h.curvature(k, p)
            deltas.append(delta)
        deltas.reverse()
        grad_state = torch.cat([(delta @ field.first_factor)[:, :d], torch.zeros_like(cotangent[:, d:])], dim=1)
        return grad_state, (tuple(deltas), c)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """Gradients in the order of the field's parameters: those of its value, and through the divergence's weights.

        The cotangent of those weights is ``ubar = sum c p1`` or ``Qbar = sum (c p2) p1^T``, over all samples.
        """
        field = self.field
        gradients = field.parameter_gradients([(residuals[0], deltas[0]) for residuals, deltas in tape])
        c = torch.cat([deltas[1] for _, deltas in tape])
        slopes = [torch.cat(parts) for parts in zip(*(residuals[1] for residuals, _ in tape), strict=True)]
        u_bar = (slopes[0].t() @ c)[:, 0] if len(slopes) == 1 else (c * slopes[1]).t() @ slopes[0]
        add_divergence_gradients(gradients, self.state_weights, u_bar)
        return gradients


class BoundFlow(FlowProducts):
    """A perceptron's flow over views of its current weights; see :class:`FlowProducts`."""

    def tape(self, like: Tensor, n_slots: int) -> FlowTape:
        """A tape in preallocated memory; see :class:`skode.solvers.fields.protocols.Tape`."""
        return self.folded.tape(like, n_slots)  # type: ignore[return-value]

    def session(self) -> FlowSession:
        """A reverse sweep over such tapes."""
        return FlowSession(self.folded)

    def replay_key(self) -> Hashable:
        """See :meth:`BoundMLP.replay_key`."""
        return ("flow", self.n_columns, self.field.replay_key())

    def over(self, parameters: Sequence[Tensor]) -> BoundFlow:
        """A flow of the same form with other parameters."""
        return BoundFlow(self.field.over(parameters), self.n_columns)

    def refresh(self) -> None:
        """See :meth:`FoldedMLP.refresh`."""
        self.folded.refresh()

    @cached
    def folded(self) -> FoldedFlow:
        """The weights as the tapes use them."""
        field = self.field
        return FoldedFlow(field.weights, field.biases, field.time_column, field.h, self.n_columns)
