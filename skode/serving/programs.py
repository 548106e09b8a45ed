"""Files of graphs: made of a module by ``torch.export``, and written as that or as ONNX."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skode.persistence.atomic import replaced
from skode.training.failures import reason_of
from skode.version import __version__

#: Version of ONNX's operators that files are written in.
OPSET = 20

#: The key of the description, in the metadata of ONNX and among the extra files of ``torch.export``.
DESCRIPTION = "skode.json"

#: Rows of tables that graphs are made by.
EXAMPLE_ROWS = 3

#: Formats of files, with the packages that writing them takes beside torch.
FORMATS = {"onnx": ("onnx", "onnxscript"), "torch": ()}


@dataclass(frozen=True)
class Input:
    """An input of a program.

    Attributes
    ----------
    name : str
        Its name.
    example : Tensor
        A value to make the graph by.
    sizes : tuple of str or None
        Of each dimension the name of its size, which the user of the program chooses; None: as in the example.
    """

    name: str
    example: Tensor
    sizes: tuple[str | None, ...]

    @classmethod
    def table(cls, n_features: int, dtype: torch.dtype) -> Input:
        """Samples ``X`` of shape (n_samples, n_features), of any number."""
        return cls("X", torch.zeros(EXAMPLE_ROWS, n_features, dtype=dtype), ("n_samples", None))


@dataclass(frozen=True)
class Program:
    """A module to be written, with names of what goes in and comes out.

    Attributes
    ----------
    module : nn.Module
        Its forward is the program.
    inputs : sequence of Input
        Its inputs.
    outputs : sequence of str
        Names of its outputs.
    description : dict
        Description of the model, written to the file as JSON.
    """

    module: nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    description: dict[str, Any]

    def write(self, path: Any, format: str) -> None:
        """Write a file; one that is there is replaced only by a whole one.

        Parameters
        ----------
        path : str or path-like
            The file.
        format : {"onnx", "torch"}
            Its format.

        Raises
        ------
        ImportError
            Where a package is missing; the message says which.
        ValueError
            Where the format is not known, or the graph can't be made, as of a user's field with control flow.
        """
        check_format(format)
        path = Path(path)
        if format == "torch" and path.suffix != ".pt2":
            raise ValueError(f"path={str(path)!r} must end in '.pt2', as torch.export.load wants it.")
        if format == "onnx" and path.suffix == ".pt2":
            raise ValueError(f"path={str(path)!r} ends in '.pt2', the ending of format='torch', but format='onnx'.")
        text = json.dumps({"skode": __version__, **self.description, **self._interface()}, default=str)
        exported = self.exported
        with replaced(path) as file, quiet():
            if format == "torch":
                torch.export.save(exported, file, extra_files={DESCRIPTION: text})
                return
            program = self._in_onnx(exported)
            program.model.metadata_props[DESCRIPTION] = text
            file.write(program.model_proto.SerializeToString())

    def _in_onnx(self, exported: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
        """The graph in operators of ONNX."""
        try:
            program = torch.onnx.export(
                exported,
                dynamo=True,
                input_names=[x.name for x in self.inputs],
                output_names=list(self.outputs),
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ValueError(
                "The model has operations that torch.onnx can't write in those of ONNX: export with format='torch'. "
                f"Its message: {reason_of(error.__cause__ or error)}"
            ) from error
        assert program is not None
        return program

    def _interface(self) -> dict[str, Any]:
        """Names, shapes and types of inputs, and names of outputs."""
        inputs = {
            x.name: {
                "shape": [name or int(size) for name, size in zip(x.sizes, x.example.shape, strict=True)],
                "dtype": str(x.example.dtype).removeprefix("torch."),
            }
            for x in self.inputs
        }
        return {"inputs": inputs, "outputs": list(self.outputs)}

    @cached_property
    def exported(self) -> torch.export.ExportedProgram:
        """The graph, with the sizes that have a name free."""
        free = {name: torch.export.Dim(name, min=1) for x in self.inputs for name in x.sizes if name}
        shapes = tuple({i: free[name] for i, name in enumerate(x.sizes) if name} for x in self.inputs)
        examples = tuple(x.example for x in self.inputs)
        with torch.no_grad(), quiet():
            try:
                # Of weights that need no gradient, so that answers need none; on the CPU, from where programs can move.
                frozen = copy.deepcopy(self.module).cpu().eval().requires_grad_(False)
                return without_traces(torch.export.export(frozen, examples, dynamic_shapes=shapes, strict=True))
            except Exception as error:
                raise ValueError(
                    "torch.export can't make a graph of the model. A field of one's own must be a module whose forward "
                    "torch.export takes: operations on tensors, without branches that depend on their values. Its "
                    f"message: {reason_of(error)}"
                ) from error


def without_traces(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same without notes on which lines of whose files its operations come from, which torch can't always write."""
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            for note in ("nn_module_stack", "stack_trace", "source_fn_stack"):
                node.meta.pop(note, None)
    return program


def check_format(format: str) -> None:
    """Raise a ValueError for a format that is not known, and an ImportError where its packages are missing."""
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not known; choose one of {sorted(FORMATS)}.")
    if not hasattr(torch, "while_loop"):
        raise ImportError(f"Exporting needs torch 2.13 or later, whose graphs have loops; this is {torch.__version__}.")
    missing = [name for name in FORMATS[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"format={format!r} needs {' and '.join(missing)}: install them by pip install 'skode[onnx]', or choose "
            "format='torch'."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and messages of the exporter, which are about torch itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
