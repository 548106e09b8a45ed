"""The vector fields that estimators know by name. To import here a class with a ``name`` is to register it."""
# ruff: noqa: F401

from collections.abc import Callable

from torch import nn

from skode.dynamics.concatsquash import ConcatSquashField
from skode.dynamics.gated_planar import GatedPlanarField
from skode.dynamics.mlp import MLPField

#: Fields of states of shape (n, n_features), each made as ``FIELDS[name](n_features, hidden_layer_sizes, activation,
#: generator=generator)``; tests/dynamics/test_fields.py is about all of them.
FIELDS: dict[str, Callable[..., nn.Module]] = {
    vars(imported)["name"]: imported
    for imported in tuple(globals().values())
    if isinstance(imported, type) and "name" in vars(imported)
}
