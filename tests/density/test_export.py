"""Exported densities answer as they do themselves."""

import numpy as np
import pandas as pd
import pytest
import torch

from skode import CNFDensityEstimator
from tests.serving.run import by_module

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 1, "random_state": 0, "stacking": False}


pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def X():
    rng = np.random.RandomState(0)
    X = rng.standard_t(3, size=(40, 2))
    X[:, 1] += X[:, 0] ** 2
    return X


class Own(torch.nn.Module):
    """A field of one's own, with no divergence."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, t, z):
        return torch.tanh(self.layer(z)) * (1.0 + torch.as_tensor(t))


class OfLength(Own):
    """One that asks for the number of samples as a number."""

    def forward(self, t, z):
        return super().forward(t, z) + torch.zeros(len(z), 1, dtype=z.dtype)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"marginals": "johnson", "hidden_layer_sizes": (4, 4)},
        {"field": "concatsquash"},
        {"field": "gated_planar", "stacking": True},
        {"hidden_layer_sizes": (4, 4, 4)},
        {"field": Own()},
    ],
    ids=["perceptron", "johnson", "concatsquash", "gated_planar", "without analytic divergence", "own"],
)
def test_fields_and_marginals(X, options, monkeypatch):
    density = CNFDensityEstimator(**{**SMALL, **options}).fit(X)
    found = by_module(density._program(), monkeypatch, X)
    np.testing.assert_allclose(found, density.score_samples(X), rtol=0, atol=1e-9)


def test_discrete_columns_are_taken_as_numbers(X, monkeypatch):
    frame = pd.DataFrame({"colour": np.array(["red", "blue", "green"])[np.arange(40) % 3], "size": X[:, 0]})
    density = CNFDensityEstimator(**SMALL).fit(frame)
    program = density._program()
    categories = program.description["categories"]["0"]
    table = np.column_stack([[categories.index(colour) for colour in frame["colour"]], X[:, 0]])[:4]
    found = by_module(program, monkeypatch, table)
    np.testing.assert_allclose(found, density.score_samples(frame[:4]), rtol=0, atol=1e-9)


def test_nan_is_not_a_value_that_was_not_seen(X, monkeypatch):
    X = np.column_stack([X[:, 0], np.arange(40) % 3])
    density = CNFDensityEstimator(**SMALL).fit(X)
    X[1, 1], X[2, 1] = np.nan, 7.0
    found = by_module(density._program(), monkeypatch, X[:4])
    np.testing.assert_allclose(found[[0, 2, 3]], density.score_samples(X[[0, 2, 3]]), rtol=0, atol=1e-9)
    assert np.isnan(found[1])


class Branching(Own):
    """One with a branch that depends on values."""

    def forward(self, t, z):
        return super().forward(t, z) if z.sum() > 0.0 else -z


def test_a_field_with_branches_is_refused(X):
    density = CNFDensityEstimator(**SMALL, field=Branching()).fit(X)
    with pytest.raises(ValueError, match=r"Branching can't be exported: .* without branches"):
        density._program()


def test_a_field_bound_to_one_number_of_samples_is_refused(X):
    density = CNFDensityEstimator(**SMALL, field=OfLength()).fit(X)
    with pytest.raises(ValueError, match=r"OfLength can't be exported.*z\.shape\[0\]"):
        density._program()
