import numpy as np
import pytest

from skode import ODERegressor
from skode.solvers import SolverError
from tests.equations.systems import decay

T = np.arange(1.0, 8.0)


@pytest.mark.parametrize(
    ("noise", "start", "message"),
    [
        ("lognormal", 0.0, r"the output at t=1 is \[0.0\]; with noise='lognormal' it must be positive"),
        ("poisson", -1.0, r"the output at t=1 is \[-1.0\]; with noise='poisson' it must be positive"),
        ("binomial", 2.0, r"the output at t=1 is \[2.0\]; with noise='binomial' it must be between 0 and 1"),
    ],
)
def test_a_start_from_which_observations_are_impossible_is_named(noise, start, message):
    with pytest.raises(ValueError, match=message):
        ODERegressor(decay, {"rate": (1.0, 0, None)}, initial=[start], noise=noise).fit(T[:, None], np.ones(7))


@pytest.mark.parametrize("noise", ["poisson", "combined"])
def test_a_start_that_can_not_be_solved_is_the_solvers(noise):
    def explosive(t, y, p):
        return p["rate"][..., None] * y**2

    # Five times are too few to be smoothed: the user's start is the only one.
    model = ODERegressor(explosive, {"rate": 10.0}, initial=[1.0], noise=noise, n_restarts=0)
    with pytest.raises(SolverError, match="can't be solved from their start"):
        model.fit(T[:5, None], np.ones(5))
