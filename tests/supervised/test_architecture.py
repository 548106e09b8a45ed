import pytest
from torch import nn

from skode.supervised.architecture import Architecture


def architecture(**changed):
    parameters = {
        "state_size": 4,
        "augment_dim": 0,
        "image_shape": None,
        "n_blocks": 1,
        "field": None,
        "hidden_layer_sizes": (8,),
        "activation": "tanh",
        "time_dependent": True,
        "evolving_weights": False,
    }
    return Architecture(**{**parameters, **changed})


def test_parameters_of_built_in_fields_do_not_count_for_a_users_field():
    everything = set(architecture().effective())
    assert everything == set(Architecture.__dataclass_fields__)
    of_own = set(architecture(field=nn.Identity()).effective())
    assert everything - of_own == {"hidden_layer_sizes", "activation", "time_dependent", "evolving_weights"}
    assert everything - set(architecture(image_shape=(1, 8, 8)).effective()) == {"activation"}


@pytest.mark.parametrize(
    "contradiction",
    [
        {"field": nn.Identity(), "evolving_weights": True},
        {"field": "mlp", "evolving_weights": True},
        {"field": "mlp", "time_dependent": False},
    ],
)
def test_contradictions_are_refused(contradiction):
    with pytest.raises(ValueError, match="field"):
        architecture(**contradiction).check()
    architecture(**{**contradiction, "field": None}).check()
