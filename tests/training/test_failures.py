import re

import numpy as np
import pytest
import torch
from torch import nn

from skode import CNFDensityEstimator, ODENetRegressor
from skode.solvers import MaxStepsError, NonFiniteDerivativeError, SolverError, StepSizeUnderflowError
from skode.training.failures import ADVICE, in_terms_of_parameters

X = np.random.RandomState(0).normal(size=(20, 2))


class Field(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, t, z):
        return self.rate(t, z)


FAILING = {
    MaxStepsError: lambda t, z: -1e7 * (z - torch.cos(torch.as_tensor(t))),
    NonFiniteDerivativeError: lambda t, z: z * torch.nan,
}


def regressor(**settings):
    return ODENetRegressor(state_size=2, max_iter=1, random_state=0, **settings)


@pytest.mark.parametrize("kind", FAILING)
def test_what_a_fit_fails_by_is_told_by_the_estimators_parameters(kind):
    estimator = regressor(field=Field(FAILING[kind]))
    with pytest.raises(kind) as caught:
        estimator.fit(X, X[:, 0])
    assert "max_steps" not in str(caught.value)
    assert "func" not in str(caught.value)
    assert caught.value.advice == ADVICE[kind]


def test_every_parameter_that_is_advised_exists():
    parameters = regressor().get_params().keys() & CNFDensityEstimator().get_params().keys()
    for advice in ADVICE.values():
        named = set(re.findall(r"[a-z]+(?:_[a-z]+)+|[ra]tol|method|dtype|alpha", advice))
        assert named <= parameters


def test_a_grid_that_is_too_fine_is_counted_in_full():
    with pytest.raises(
        MaxStepsError, match=r"The grid has 1000000 steps, more than 1000;.*Raise step_size\.$"
    ) as caught:
        regressor(method="euler", step_size=1e-6).fit(X, X[:, 0])
    assert caught.value.step_size == 1e-6


def test_what_the_solver_said_of_place_and_time_is_kept():
    error = StepSizeUnderflowError("Too small", time=0.5, step_size=1e-9, advice="Use float64.", sample=3)
    told = in_terms_of_parameters(error, adaptive=True)
    assert (type(told), told.reason, told.time, told.step_size, told.sample) == (
        StepSizeUnderflowError,
        "Too small",
        0.5,
        1e-9,
        3,
    )
    assert told.advice != error.advice


def test_a_failure_of_another_kind_keeps_its_advice():
    error = SolverError("Odd", time=0.5, step_size=1e-9, advice="Try again.")
    assert in_terms_of_parameters(error, adaptive=True).advice == "Try again."
