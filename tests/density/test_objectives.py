import numpy as np
import pytest
import torch

from skode.density.flow import Flow, Measured
from skode.density.objectives import FlowMatching, Likelihood
from skode.dynamics import MLPField
from skode.training import Solver

N, D = 20, 2
ROWS = np.arange(N)


SOLVER = Solver(rtol=1e-9, atol=1e-10, step_control="shared")


@pytest.fixture
def flow():
    return Flow(MLPField(D, (6,), generator=torch.Generator().manual_seed(0)), D).double()


@pytest.fixture
def x():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def likelihood(flow, x, weights=None, kinetic_energy=0.0, jacobian_norm=0.0, estimate=False, solver=SOLVER):
    weights = torch.ones(len(x), dtype=torch.float64) if weights is None else weights
    generator = torch.Generator().manual_seed(0)
    strengths = {"kinetic_energy": kinetic_energy, "jacobian_norm": jacobian_norm}
    return Likelihood(flow, x, weights, solver, **strengths, estimate=estimate, generator=generator)


def test_the_loss_is_the_mean_negative_log_likelihood(flow, x):
    expected = -flow.log_prob(x, SOLVER)[0].mean()
    torch.testing.assert_close(likelihood(flow, x).loss(ROWS), expected, rtol=1e-7, atol=1e-8)


def test_the_kinetic_energy_counts_in_nats_over_all_dimensions(flow, x):
    log_prob, integrals = flow.log_prob(x, SOLVER, measured=Measured(energy=True))
    expected = (0.3 * D * integrals[:, 0] - log_prob).mean()
    found = likelihood(flow, x, kinetic_energy=0.3).loss(ROWS)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_both_penalties_are_told_apart(flow, x):
    def loss(**strengths):
        return likelihood(flow, x, **strengths).loss(ROWS).item()

    plain, kinetic, jacobian = loss(), loss(kinetic_energy=0.5), loss(jacobian_norm=0.5)
    both = loss(kinetic_energy=0.5, jacobian_norm=0.5)
    assert both - plain == pytest.approx((kinetic - plain) + (jacobian - plain), rel=1e-6)
    assert kinetic > plain
    assert jacobian > plain


def test_a_weight_of_two_is_a_sample_given_twice(flow, x):
    weights = torch.ones(N, dtype=torch.float64)
    weights[3] = 2.0
    twice = torch.cat([x, x[3:4]])
    weighted = likelihood(flow, x, weights / weights.mean()).loss(ROWS)
    torch.testing.assert_close(weighted, likelihood(flow, twice).loss(np.arange(N + 1)), rtol=1e-7, atol=1e-8)


def test_the_estimated_divergence_is_random_and_right_in_the_mean(flow, x):
    loose = SOLVER.replace(rtol=1e-5, atol=1e-5)  # the deviations are larger by far
    objective = likelihood(flow, x, estimate=True, solver=loose)
    with torch.no_grad():
        losses = np.array([float(objective.loss(ROWS)) for _ in range(200)])
        exact = float(likelihood(flow, x).loss(ROWS))
    assert losses.std() > 0
    assert abs(losses.mean() - exact) < 4 * losses.std() / np.sqrt(200)


def test_steps_begin_as_long_as_the_last_ones_were(flow, x):
    objective = likelihood(flow, x)
    objective.loss(ROWS)
    first = objective.solver.solves[-1]
    objective.loss(ROWS)
    second = objective.solver.solves[-1]
    assert objective.solver.first_step == pytest.approx(1.0 / second.n_accepted)
    assert second.nfev < first.nfev


def test_flow_matching_compares_the_field_with_the_paths_velocities(flow, x):
    with torch.no_grad():
        for parameter in flow.field.parameters():
            parameter.zero_()  # f = 0: the loss is E|x - z|^2 = |x|^2 + d
    objective = FlowMatching(flow, x, torch.ones(N, dtype=torch.float64), torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = np.array([float(objective.loss(ROWS)) for _ in range(400)])
    expected = float(x.square().sum(1).mean()) + D
    assert abs(losses.mean() - expected) < 4 * losses.std() / np.sqrt(400)
    assert objective.solver is None


def test_flow_matching_weighs_samples(flow, x):
    def loss(weights):
        return FlowMatching(flow, x, weights, torch.Generator().manual_seed(0)).loss(ROWS).item()

    ones = torch.ones(N, dtype=torch.float64)
    assert loss(2.0 * ones) == pytest.approx(2.0 * loss(ones))
