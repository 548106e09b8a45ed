import numpy as np
import pytest
import torch
from torch import nn

from skode import CNFDensityEstimator, ODENetClassifier
from skode.training import users_field


class TooWide(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(5, 5)

    def forward(self, t, z):
        return self.map(z)


@pytest.mark.parametrize(
    ("estimator", "shape"),
    [
        (ODENetClassifier(field=TooWide(), state_size=3, augment_dim=1, max_iter=1), "(n, 4)"),
        (CNFDensityEstimator(field=TooWide(), max_iter=1), "(n, 2)"),
    ],
)
def test_an_error_inside_a_field_of_the_users_says_how_it_is_called(estimator, shape):
    X = np.random.RandomState(0).normal(size=(20, 2))
    with pytest.raises(RuntimeError) as caught:
        estimator.fit(X, X[:, 0] > 0)
    (note,) = caught.value.__notes__
    assert note.startswith(f"field=TooWide(...) is called as field(t, z) with a time t and states z of shape {shape},")


def test_errors_of_other_kinds_pass_without_a_note():
    with pytest.raises(KeyError) as caught, users_field(TooWide(), np.random.RandomState(0), "(n, 2)"):
        raise KeyError
    assert not hasattr(caught.value, "__notes__")


def test_random_numbers_inside_follow_the_seed_and_leave_torchs_generator_alone():
    field = TooWide()
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    drawn = []
    for _ in range(2):
        with users_field(field, np.random.RandomState(0), "(n, 2)"):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("field", ["mlp", None])
def test_nothing_is_drawn_for_a_built_in_field(field):
    rng = np.random.RandomState(0)
    with users_field(field, rng, "(n, 2)"):
        pass
    assert rng.rand() == np.random.RandomState(0).rand()
