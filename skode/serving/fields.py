"""Vector fields in the form that graphs are made of: plain functions of tensors, without memory that is used again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from skode.dynamics import MLPField
from skode.dynamics.divergence import exact_divergence
from skode.dynamics.flow import FlowField
from skode.dynamics.mlp_divergence import combine_slopes, divergence_weights

#: Number of samples that graphs of fields are made by: one that no size of a layer is likely to be.
EXAMPLE_ROWS = 1009


def traceable(func: Any) -> Callable[..., Tensor]:
    """A field that a graph can be made of, of the same values.

    Parameters
    ----------
    func : callable
        ``func(t, y)``, of times of shape (n, 1, ...) and states.
    """
    if isinstance(func, FlowField):
        return TraceableFlow(func)
    if isinstance(func, MLPField) and func._is_plain() and type(func).forward is MLPField.forward:
        return TraceablePerceptron(func)
    return func


class TraceablePerceptron:
    """An :class:`MLPField`, layer by layer, with its divergence.

    Parameters
    ----------
    field : MLPField
        The perceptron, of torch's own layers.
    """

    def __init__(self, field: MLPField) -> None:
        self.layers, self.h, self.n_features = field.linear_layers(), field.h, field.n_features
        self.time_dependent = field.time_dependent

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """The value."""
        return self.value_and_slopes(t, z)[0]

    def value_and_divergence(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the exact divergence, of one or two hidden layers."""
        value, slopes = self.value_and_slopes(t, z)
        first, *rest = (layer.weight for layer in self.layers)
        return value, combine_slopes(divergence_weights([first[:, : self.n_features], *rest]), slopes)

    def value_and_slopes(self, t: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The value, and the slopes of the hidden layers' activations."""
        if self.time_dependent:
            z = torch.cat([z, t.to(z.dtype).reshape(-1, 1)], dim=1)
        x, slopes = self.layers[0](z), []
        for layer in self.layers[1:]:
            s = self.h.value(x)
            slopes.append(self.h.slope(self.h.kept(x, s)))
            x = layer(s)
        return x, slopes


class TraceableFlow:
    """The joint dynamics of states and their log-density, by the exact divergence.

    Parameters
    ----------
    flow : FlowField
        The joint dynamics, with no integral beside the log-density, of a field that offers its divergence.
    """

    def __init__(self, flow: FlowField) -> None:
        self.field: Any = traceable(flow.field)

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        """Rates of joint states of shape (n, d + 1)."""
        value, divergence = self.field.value_and_divergence(t, state[:, :-1])
        return torch.cat([value, -divergence[:, None]], dim=1)


class DivergenceGraph(nn.Module):
    """Any field with its exact divergence, as the graph of the vector-Jacobian products that this takes.

    A graph that is made of such products can't be made of a loop around them, so that theirs is made in advance.

    Parameters
    ----------
    field : nn.Module
        ``f(t, z)``, each row by itself.
    n_features : int
        Size of the state.

    Raises
    ------
    ValueError
        Where the field has branches that depend on values, or is bound to one number of samples, as by ``len(z)``.
    """

    def __init__(self, field: nn.Module, n_features: int) -> None:
        super().__init__()
        like = next(field.parameters(), torch.zeros(0, dtype=torch.float64))
        t, z = torch.rand(EXAMPLE_ROWS, 1).to(like), torch.rand(EXAMPLE_ROWS, n_features).to(like)
        made = make_fx(lambda t, z: exact_divergence(field, t, z), tracing_mode="symbolic", _allow_non_fake_inputs=True)
        try:
            self.graph = with_plain_sizes(made(t, z))
        except Exception as error:
            raise ValueError(
                f"The field {type(field).__name__} can't be exported: torch can't make a graph of it. It must be made "
                "of operations on tensors, without branches that depend on their values."
            ) from error
        t, z = torch.rand(5, 1).to(like), torch.rand(5, n_features).to(like)
        expected = exact_divergence(field, t, z)
        try:
            same = all(torch.allclose(x, y) for x, y in zip(self.graph(t, z), expected, strict=True))
        except (RuntimeError, AssertionError):
            same = False
        if not same:
            raise ValueError(
                f"The field {type(field).__name__} can't be exported: its graph answers for one number of samples. "
                "Write z.shape[0] in place of len(z)."
            )

    def value_and_divergence(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the exact divergence."""
        value, divergence = self.graph(t, z)
        return value, divergence

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The value."""
        return self.graph(t, z)[0]


def with_plain_sizes(graph: GraphModule) -> GraphModule:
    """The same graph with sizes read by ``x.size(i)``, which torch.export can trace."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.sym_size.int:
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.call_method("size", node.args))
            graph.graph.erase_node(node)
    graph.recompile()
    return graph
