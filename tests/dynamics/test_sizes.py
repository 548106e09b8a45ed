import numpy as np
import pytest
import torch

from skode.dynamics import ConcatSquashField, ConvField, EvolvingField, GatedPlanarField, MLPField

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
