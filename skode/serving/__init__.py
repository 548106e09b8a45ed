"""Fitted models as files that run without skode: graphs of ``torch.export`` and of ONNX."""

from skode.serving.estimators import Exports
from skode.serving.fields import DivergenceGraph, traceable
from skode.serving.functions import asinh, hypot1
from skode.serving.programs import Input, Program
from skode.serving.solver import TracedSolver

__all__ = ["DivergenceGraph", "Exports", "Input", "Program", "TracedSolver", "asinh", "hypot1", "traceable"]
