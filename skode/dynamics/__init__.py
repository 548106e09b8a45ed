"""Vector fields, with their pullbacks and divergences. They need torch only."""

from skode.dynamics.activations import ACTIVATIONS
from skode.dynamics.concatsquash import ConcatSquashField
from skode.dynamics.convolutional import ConvField
from skode.dynamics.divergence import analytic_divergence, exact_divergence
from skode.dynamics.evolving import EvolvingField
from skode.dynamics.flow import FlowField, flow_field
from skode.dynamics.gated_planar import GatedPlanarField
from skode.dynamics.mlp import MLPField, affine

__all__ = [
    "ACTIVATIONS",
    "ConcatSquashField",
    "ConvField",
    "EvolvingField",
    "FlowField",
    "GatedPlanarField",
    "MLPField",
    "affine",
    "analytic_divergence",
    "exact_divergence",
    "flow_field",
]
