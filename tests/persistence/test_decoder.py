"""Files that are made to attack are refused, and nothing runs."""

import os

import numpy as np
import pytest

import skode
from skode.persistence import UnreadableFileError, UntrustedError, decoder
from tests.persistence import models
from tests.persistence.attacks import ATTACKS, estimator, objects
from tests.persistence.damage import forged
from tests.persistence.watched import watched


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("attacks") / "file.skode"


@pytest.fixture(scope="module", autouse=True)
def imported(path):
    """All that loading imports has been imported."""
    for model in (skode.ODENetClassifier(), skode.CNFDensityEstimator()):
        model.save(path)
        skode.load(path)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_and_run_nothing(attack, path):
    path.write_bytes(ATTACKS[attack])
    with watched() as ran, pytest.raises(UnreadableFileError):
        skode.load(path)
    assert ran == []


def test_what_runs_is_noticed(path):
    with watched() as ran:
        os.system("true")
        compile("1", "", "eval")
    assert [event.split()[0] for event in ran] == ["os.system", "compile"]


def test_a_well_meant_file_of_the_same_kind_is_read(path):
    path.write_bytes(estimator(alpha=0.25))
    assert skode.load(path).alpha == 0.25


def test_forged_files_are_refused_or_harmless(path):
    skode.ODENetClassifier(hidden_layer_sizes=(4,), max_iter=1, alpha=1.0).fit(np.eye(4), [0, 1, 0, 1]).save(path)
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    with watched() as ran:
        for _ in range(100):
            path.write_bytes(forged(content, rng))
            try:
                skode.load(path)
            except UnreadableFileError:
                refused += 1
    assert ran == []
    assert refused > 50


def test_trusted_names_are_imported_and_no_others(path):
    path.write_bytes(
        objects(["users", models.__name__, "Field"], ["users", "no.such.module", "name"], ["list", [[0], [1]]])
    )
    with pytest.raises(UntrustedError) as refused:
        skode.load(path)
    assert refused.value.names == sorted(["no.such.module.name", f"{models.__name__}.Field"])
    with pytest.raises(ModuleNotFoundError):
        skode.load(path, trusted=refused.value.names)


def test_errors_of_the_machine_are_no_damage():
    def out_of_memory():
        raise MemoryError

    with pytest.raises(MemoryError):
        decoder.in_terms_of_the_file(out_of_memory)
