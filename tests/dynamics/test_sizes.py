import numpy as np
import pytest
import torch

from skode.dynamics import ConcatSquashField, ConvField, EvolvingField, GatedPlanarField, MLPField, sizes
from skode.dynamics.sizes import check_memory, physical_memory

GENERATOR = torch.Generator().manual_seed(0)
FIELDS = [MLPField, ConcatSquashField, EvolvingField, GatedPlanarField]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("wrong", [0, -1, 2.0, "2", True])
def test_a_state_size_that_is_none_is_refused(field, wrong):
    with pytest.raises(ValueError, match=rf"n_features must be an integer > 0, got {wrong!r}\."):
        field(wrong)


@pytest.mark.parametrize("field", [MLPField, ConcatSquashField, EvolvingField])
@pytest.mark.parametrize("wrong", [8, (8.0,), (8, 0), "8", None])
def test_hidden_layers_are_a_sequence_of_widths(field, wrong):
    with pytest.raises(ValueError, match=r"hidden_layer_sizes must be a sequence of integers > 0, such as \(64,\)"):
        field(2, wrong)


def test_images_have_channels():
    with pytest.raises(ValueError, match="n_channels must be an integer > 0, got 0"):
        ConvField(0, generator=GENERATOR)


@pytest.mark.parametrize("name", ["n_units", "hidden"])
def test_gates_have_units(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer > 0, got 0"):
        GatedPlanarField(2, **{name: 0})


def test_numpys_integers_are_integers():
    assert MLPField(np.int64(2), np.array([3, 4])).hidden_layer_sizes == (3, 4)


@pytest.mark.parametrize("field", [MLPField, ConcatSquashField, EvolvingField])
@pytest.mark.parametrize("widths", [(10**9,), (8, 10**10), (10**6, 10**6)])
def test_layers_that_no_memory_holds_are_refused_before_it_is_filled(field, widths):
    with pytest.raises(MemoryError, match=r"weights of shape \(\d+, \d+\) take .* GiB in training"):
        field(8, widths)


def test_weights_are_refused_from_the_memory_on_that_there_is(monkeypatch):
    monkeypatch.setattr(sizes, "physical_memory", lambda: 32 * 100)
    check_memory(10, 10)
    with pytest.raises(MemoryError):
        check_memory(10, 10, 2)


def test_where_the_system_does_not_tell_its_memory_nothing_is_refused(monkeypatch):
    def unknown(name):
        raise ValueError(name)

    assert physical_memory() > 2**28
    monkeypatch.setattr(sizes.os, "sysconf", unknown)
    assert physical_memory() == np.inf
    check_memory(10**30)
