"""The table of classes that files may name has all that it needs, and nothing that runs code."""

import pytest
import torch
from torch import nn

from skode.dynamics.fields import FIELDS
from skode.equations.noise import NOISES
from skode.persistence.classes import PLACES, functions, name_of, named
from skode.timeseries.encoders import ENCODERS
from skode.timeseries.likelihoods import LIKELIHOODS


@pytest.mark.parametrize("name", PLACES)
def test_each_name_is_of_one_class(name):
    assert isinstance(named(name), type)
    assert name_of(named(name)) == name


@pytest.mark.parametrize(
    "kind", [*FIELDS.values(), *ENCODERS.values(), *LIKELIHOODS.values(), *(type(noise) for noise in NOISES.values())]
)
def test_what_users_choose_by_name_can_be_saved(kind):
    assert name_of(kind) in PLACES


def test_layers_and_functions_of_torch_are_known():
    assert named(name_of(nn.Linear)) is nn.Linear
    assert all(named(name_of(function)) is function for function in functions().values())


@pytest.mark.parametrize("thing", [torch.load, torch.save, nn.functional, eval, print, nn.Module.__init__])
def test_other_functions_are_not(thing):
    assert name_of(thing) is None


@pytest.mark.parametrize(
    "name", ["torch.load", "torch.nn.functional", "torch.nn.Parameter", "os.system", "", "torch.nn.", "a.b"]
)
def test_other_names_are_not(name):
    with pytest.raises(KeyError):
        named(name)
