"""Programs as they are run: in onnxruntime, by torch.export, and by their module."""

import onnxruntime
import torch

from tests.serving.loops import python_loop


def in_onnxruntime(path, **inputs):
    """Outputs of a file in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # of initial values that are not used
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def by_module(program, monkeypatch, *inputs):
    """Outputs of a program's module, whose loops Python runs: the same values without the making of a graph."""
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "while_loop", python_loop)
        outputs = program.module(*(torch.as_tensor(x) for x in inputs))
    return [x.numpy() for x in outputs] if isinstance(outputs, tuple) else outputs.numpy()
