"""The classes and functions that files may name without the caller's leave, by the names that stand in files.

Nothing else is ever imported on behalf of a file. A name in a file stays as it is where its class moves to another
module: the parts of :data:`MODULES` are what files of older releases say, whatever becomes of the modules.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import nn

#: Modules with the classes that estimators and checkpoints hold, beside the layers of ``torch.nn``. Files say
#: ``"supervised.Columns"``.
MODULES: dict[str, dict[str, tuple[str, ...]]] = {
    "supervised": {
        "skode.supervised.classifier": ("ODENetClassifier",),
        "skode.supervised.regressor": ("ODENetRegressor",),
        "skode.supervised.columns": ("CategoricalFeatures", "Columns"),
        "skode.supervised.odenet": ("ODENet",),
        "skode.supervised.conv_odenet": ("ConvODENet",),
        "skode.supervised.residuals": ("Residuals",),
    },
    "density": {
        "skode.density.estimator": ("CNFDensityEstimator",),
        "skode.density.discrete": ("DiscreteVariable", "Dequantiser"),
        "skode.density.flow": ("Flow",),
        "skode.density.gaussianisation": ("Johnson", "Gaussianisation"),
        "skode.density.gaussians": ("Gaussians",),
        "skode.density.stacking": ("Partners",),
        "skode.density.tables": ("Categories",),
    },
    "conditional": {
        "skode.conditional.estimator": ("CNFRegressor",),
        "skode.conditional.flow": ("ConditionalDensity",),
    },
    "timeseries": {
        "skode.timeseries.estimator": ("LatentODERegressor",),
        "skode.timeseries.cycles": ("Cycles", "CyclicModel"),
        "skode.timeseries.decoder": ("Decoder",),
        "skode.timeseries.doses": ("Doses",),
        "skode.timeseries.driven": ("DrivenField",),
        "skode.timeseries.encoders.gru": ("GRU",),
        "skode.timeseries.encoders.ode_rnn": ("ODERNNEncoder",),
        "skode.timeseries.encoders.recurrent": ("GRUEncoder", "RNNEncoder"),
        "skode.timeseries.known_dynamics": ("KnownDynamics", "KnownEquations"),
        "skode.timeseries.known_ode": ("KnownODE",),
        "skode.timeseries.latent_ode": ("LatentODE",),
        "skode.timeseries.likelihoods": ("Gaussian", "Bernoulli", "Poisson"),
        "skode.timeseries.panel": ("Panel",),
        "skode.timeseries.population": ("Bounds", "Population"),
        "skode.timeseries.posterior": ("Posterior",),
        "skode.timeseries.sizes": ("Sizes",),
        "skode.timeseries.units": ("Units",),
    },
    "equations": {
        "skode.equations.estimator": ("ODERegressor",),
        "skode.equations.columns": ("Columns",),
        "skode.equations.control": ("Control",),
        "skode.equations.dynamics": ("System",),
        "skode.equations.events": ("Course", "Events"),
        "skode.equations.fitting": ("Optimum",),
        "skode.equations.inference": ("Information",),
        "skode.equations.initial": ("InitialStates",),
        "skode.equations.inputs": ("Inputs",),
        "skode.equations.layout": ("Layout",),
        "skode.equations.levenberg_marquardt": ("Task",),
        "skode.equations.noise": (
            "Gaussian",
            "Student",
            "Combined",
            "Proportional",
            "LogNormal",
            "Poisson",
            "Binomial",
        ),
        "skode.equations.parameters": ("Parameter", "Scales"),
        "skode.equations.prior": ("Prior",),
        "skode.equations.reading": ("Clock", "Reading"),
        "skode.equations.sensitivities": ("SolverSettings",),
        "skode.equations.shooting": ("Model", "Shots"),
    },
    "identification": {
        "skode.identification.estimator": ("NeuralODERegressor",),
        "skode.identification.fields": ("PolynomialField", "NetworkField", "ModuleField"),
        "skode.identification.fitted": ("Uncertainty",),
        "skode.identification.matching": ("Matched",),
        "skode.identification.observations": ("KnownSeries",),
        "skode.identification.predictive": ("Paths",),
        "skode.identification.problem": ("Problem",),
        "skode.identification.states": ("SmoothedStates",),
        "skode.identification.system": ("FieldSystem", "Units"),
    },
    "dynamics": {
        "skode.dynamics.mlp": ("MLPField",),
        "skode.dynamics.conditional": ("ConditionalMLPField",),
        "skode.dynamics.concatsquash": ("ConcatSquashLayer", "ConcatSquashField"),
        "skode.dynamics.convolutional": ("ConvField", "InBfloat16"),
        "skode.dynamics.evolving": ("WeightODE", "EvolvingLayer", "EvolvingField"),
        "skode.dynamics.gated_planar": ("TimeGates", "GatedPlanarField"),
    },
    "training": {
        "skode.training.record": ("TrainingRecord",),
    },
    "sklearn": {
        "sklearn.preprocessing": ("StandardScaler", "OrdinalEncoder"),
    },
    "torch": {
        "torch.nn.modules.linear": ("NonDynamicallyQuantizableLinear",),  # of its attention
    },
}

#: Where each class is found.
PLACES = {
    f"{part}.{name}": module for part, modules in MODULES.items() for module in modules for name in modules[module]
}

#: torch's functions that modules may hold as attributes, by their names in ``torch.nn.functional`` or ``torch``.
FUNCTIONAL = (
    *("conv1d", "conv2d", "conv3d", "linear"),
    *("elu", "gelu", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu", "relu6", "selu", "silu", "softplus"),
    *("log_softmax", "softmax", "softsign", "tanhshrink"),
)
MATHEMATICAL = ("abs", "cos", "erf", "exp", "log1p", "relu", "sigmoid", "sin", "square", "tanh")


@functools.cache
def functions() -> dict[str, Any]:
    """The functions by the names in files."""
    found = {f"torch.nn.functional.{name}": getattr(nn.functional, name) for name in FUNCTIONAL}
    return found | {f"torch.{name}": getattr(torch, name) for name in MATHEMATICAL}


def name_of(thing: Any) -> str | None:
    """The name in files of a class or function; None if it is not one of these."""
    if not isinstance(thing, type):
        return next((name for name, function in functions().items() if function is thing), None)
    own = thing.__qualname__
    if issubclass(thing, nn.Module) and vars(nn).get(own) is thing:
        return f"torch.nn.{own}"
    part = thing.__module__.split(".")[1 if thing.__module__.startswith("skode.") else 0]
    name = f"{part}.{own}"
    return name if name in PLACES and named(name) is thing else None


def named(name: str) -> Any:
    """The class or function of a name in files.

    Raises
    ------
    KeyError
        If there is none.
    """
    if name in PLACES:
        return getattr(importlib.import_module(PLACES[name]), name.rpartition(".")[2])
    if name in functions():
        return functions()[name]
    package, _, own = name.rpartition(".")
    found = getattr(nn, own, None) if package == "torch.nn" else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise KeyError(name)
    return found
