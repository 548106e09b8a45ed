"""A file is refused where a byte of it is not the one that was written, and is one that others can read."""

import os

import numpy as np
import pytest
import safetensors.torch
import torch

from skode import ODENetClassifier, load
from skode.persistence import DamagedFileError, ForeignFileError, UnreadableFileError, UnsavableError, tensor_file
from skode.persistence.archive import read_archive, write_archive
from tests.persistence.damage import DAMAGES, damaged

CONTENT = {"weights": torch.arange(6.0).reshape(2, 3), "name": "a"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "file.skode"
    ODENetClassifier(hidden_layer_sizes=(4,), max_iter=1, alpha=1.0, random_state=0).fit(np.eye(4), [0, 1, 0, 1]).save(
        path
    )
    return path.read_bytes()


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_refused_by_name(kind, written, tmp_path):
    path = tmp_path / "file.skode"
    for seed in range(10):
        path.write_bytes(damaged(written, kind, np.random.default_rng(seed)))
        with pytest.raises(UnreadableFileError, match=r"file\.skode is (damaged|not a file that skode wrote)"):
            load(path)


def test_each_byte_of_a_small_file_counts(tmp_path):
    path = tmp_path / "file.skode"
    write_archive(path, CONTENT, kind="test")
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x20
        path.write_bytes(changed)
        with pytest.raises(UnreadableFileError):
            read_archive(path, kind="test")


def test_the_tensors_can_be_read_by_safetensors(tmp_path):
    write_archive(tmp_path / "file", CONTENT, kind="test")
    (found,) = safetensors.torch.load_file(tmp_path / "file").values()
    torch.testing.assert_close(found, CONTENT["weights"], rtol=0.0, atol=0.0)


def test_the_same_content_makes_the_same_bytes(tmp_path):
    for name in "ab":
        write_archive(tmp_path / name, [CONTENT, {"x", "y", "z"}], kind="test")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ForeignFileError, match="is not a file"):
            load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")


def test_descriptions_that_could_not_be_read_are_not_written(tmp_path):
    with pytest.raises(UnsavableError, match="too many parts"):
        write_archive(tmp_path / "file", ["ä" * tensor_file.LONGEST_HEADER], kind="test")
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_is_of_everything_else(written, tmp_path):
    path = tmp_path / "file.skode"
    changed = bytearray(written)
    changed[tensor_file.DIGEST_AT] = ord("z")
    path.write_bytes(changed)
    with pytest.raises(DamagedFileError, match="not those that were written"):
        load(path)
