import numpy as np
import pytest
import torch
from torch.nn import functional

from skode.supervised.objective import (
    Samples,
    SupervisedObjective,
    binary_cross_entropies,
    cross_entropies,
    squared_errors,
)
from skode.supervised.odenet import ODENet
from skode.training import Regularisation, Solver

N, D = 8, 3


@pytest.fixture
def network():
    generator = torch.Generator().manual_seed(0)
    options = {"hidden_layer_sizes": (5,), "activation": "tanh", "time_dependent": True}
    net = ODENet(D, 2, state_size=4, augment_dim=0, field=None, field_options=options, generator=generator)
    return net.double()


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(N, k, generator=generator, dtype=torch.float64) for k in (D, 2))
    weights = torch.rand(N, generator=generator, dtype=torch.float64)
    return Samples(x, y, weights / weights.mean())


def objective(network, samples, *, dropout=0.0, augmented=lambda x, generator: x, **strengths):
    return SupervisedObjective(
        network,
        samples,
        squared_errors,
        Solver(rtol=1e-8, atol=1e-8).counting(),
        regularisation=Regularisation(**strengths),
        augmented=augmented,
        dropout=dropout,
        generator=torch.Generator().manual_seed(2),
    )


@pytest.mark.parametrize("rows", [np.arange(N), torch.tensor([4, 1, 1]), np.array([2])], ids=["all", "some", "one"])
def test_the_loss_is_the_weighted_mean(network, samples, rows):
    made = objective(network, samples)
    outputs, _ = network.outputs(samples.x[rows], made.solver)
    errors = 0.5 * (outputs - samples.y[rows]).square().mean(1)
    torch.testing.assert_close(made.loss(rows), (samples.weights[rows] * errors).mean(), rtol=1e-6, atol=1e-9)


def test_solves_are_counted(network, samples):
    made = objective(network, samples)
    for _ in range(3):
        made.loss(np.arange(N))
    assert len(made.solver.solves) == 3


def test_penalties_are_added_where_gradients_are_recorded(network, samples):
    rows = np.arange(N)
    plain, penalised = objective(network, samples), objective(network, samples, kinetic_energy=2.0)
    assert penalised.loss(rows) > plain.loss(rows)
    with torch.no_grad():
        assert penalised.loss(rows) == plain.loss(rows)


def test_dropout_keeps_features_in_the_mean(network, samples):
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 4, dtype=torch.float64)

    network.embedding = Recorder()
    ones = Samples(torch.ones(2000, D, dtype=torch.float64), torch.ones(2000, 2), torch.ones(2000))
    made = objective(network, ones, dropout=0.25)
    made.loss(np.arange(2000))
    (x,) = seen
    assert x.unique().tolist() == pytest.approx([0.0, 1.0 / 0.75], rel=1e-6)
    assert x.mean().item() == pytest.approx(1.0, abs=0.03)


def test_batches_are_augmented(network, samples):
    doubled = objective(network, samples, augmented=lambda x, generator: 2.0 * x)
    expected = objective(network, Samples(2.0 * samples.x, samples.y, samples.weights))
    assert doubled.loss(np.arange(N)) == expected.loss(np.arange(N))


def test_losses_of_samples():
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 4, (N,), generator=generator)
    labels = torch.randint(0, 2, (N, 4), generator=generator).double()
    log_p = outputs - outputs.exp().sum(1, keepdim=True).log()
    torch.testing.assert_close(cross_entropies(outputs, classes), -log_p[torch.arange(N), classes])
    by_label = -(labels * functional.logsigmoid(outputs) + (1 - labels) * functional.logsigmoid(-outputs))
    torch.testing.assert_close(binary_cross_entropies(outputs, labels), by_label.sum(1))
    torch.testing.assert_close(squared_errors(outputs, labels), ((outputs - labels) ** 2).mean(1) / 2)
