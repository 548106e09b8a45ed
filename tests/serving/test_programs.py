"""Files of programs: whole or not at all, and told what they hold."""

import importlib.util
import json

import pytest
import torch
from torch import nn

from skode.serving import Input, Program
from skode.serving.programs import DESCRIPTION


def program(module):
    return Program(module, (Input("x", torch.zeros(3, 2), ("n", None)),), ("y",), {"what": "a test"})


class Branching(nn.Module):
    """A module that can't be made a graph."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_a_graph_leaves_the_file_that_is_there(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_text("before")
    with pytest.raises(ValueError, match=r"torch\.export can't make a graph of the model"):
        program(Branching()).write(path, "torch")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_operation_that_onnx_does_not_have_is_named(tmp_path, monkeypatch):
    def missing(*args, **options):
        raise torch.onnx.OnnxExporterError("Next steps: ...") from ValueError("No matrix_exp\nTrace: ...")

    monkeypatch.setattr(torch.onnx, "export", missing)
    with pytest.raises(ValueError, match=r"export with format='torch'.*message: No matrix_exp$"):
        program(nn.Tanh()).write(tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_whole_leaves_the_one_that_is_there(tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_text("before")

    def full(exported, file, **options):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(OSError, match="No space left"):
        program(nn.Tanh()).write(path, "torch")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx and onnxscript.*skode\[onnx\]"):
        program(nn.Tanh()).write("model.onnx", "onnx")


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        ("model.xml", "pmml", r"format='pmml' is not known; choose one of \['onnx', 'torch'\]"),
        ("model.pt", "torch", r"path='model\.pt' must end in '\.pt2'"),
        ("model.pt2", "onnx", r"path='model\.pt2' ends in '\.pt2', the ending of format='torch'"),
    ],
)
def test_formats_and_names_are_checked(path, format, message):
    with pytest.raises(ValueError, match=message):
        program(nn.Tanh()).write(path, format)


def test_the_description_names_what_goes_in_and_comes_out(tmp_path):
    path = tmp_path / "tanh.pt2"
    program(nn.Tanh()).write(path, "torch")
    extra = {DESCRIPTION: ""}
    loaded = torch.export.load(path, extra_files=extra)
    told = json.loads(extra[DESCRIPTION])
    assert told["inputs"] == {"x": {"shape": ["n", 2], "dtype": "float32"}}
    assert told["what"] == "a test"
    x = torch.randn(7, 2)
    assert torch.equal(loaded.module()(x), torch.tanh(x))
