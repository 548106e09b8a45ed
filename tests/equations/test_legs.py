"""States and sensitivities across doses and jumps of inputs, against closed forms."""

import numpy as np
import pytest
import torch

from skode.equations.dynamics import Driver, System
from skode.equations.inputs import Inputs
from skode.equations.legs import solve_course
from skode.equations.sensitivities import SolverSettings
from skode.equations.shooting import course_from_start
from tests.equations.systems import decay, one_compartment, superposed, system

DOSES = [(0.0, 3.0), (1.0, 2.0), (1.0, 1.0), (2.5, 4.0)]
KA, KE, SHARE = 1.5, 0.3, 0.7


def driven(times, columns, amounts, codes=None, *, linear=True, names=()):
    codes = np.zeros(len(times), dtype=int) if codes is None else codes
    columns, amounts = np.reshape(columns, (len(times), -1)), np.reshape(amounts, (len(times), -1))
    return Inputs.of(list(names), codes, np.asarray(times), columns, linear=linear, amounts=amounts)


def followed(equations, inputs, y0, values, times, *, slopes=True, before=None, **settings):
    """States (n_times, 1 + k, n_states) of one series, from time 0."""
    settings = SolverSettings(**{"method": "dopri5", "rtol": 1e-10, "atol": 1e-12, **settings})
    values = torch.tensor([values], dtype=torch.float64)
    course = course_from_start(inputs, np.zeros(1, int), np.zeros(1), np.array([times]), before)
    own = values, torch.ones_like(values) if slopes else None
    driver = Driver(inputs, torch.zeros(1, dtype=torch.int64))
    return solve_course(equations, settings, own, driver, torch.tensor([y0], dtype=torch.float64), course)[0][0].numpy()


@pytest.mark.parametrize(
    ("method", "times", "rtol"),
    [("dopri5", [0.0, 0.5, 1.0, 2.0, 4.0], 1e-10), ("dopri5", [4.0], 1e-10), ("kvaerno5", [0.0, 1.0, 4.0], 1e-6)],
)
def test_doses_add_up_with_exact_sensitivities(method, times, rtol):
    inputs = driven([time for time, _ in DOSES], [], [amount for _, amount in DOSES])
    oral = System(one_compartment, (1,), ("gut", "blood"), ("ka", "ke", "F"), {}, ((0, "F"),))
    found = followed(oral, inputs, [0.0, 0.0], [KA, KE, SHARE], times, method=method, rtol=rtol, atol=1e-2 * rtol)
    t = np.array(times)
    np.testing.assert_allclose(found[:, 0], superposed(t, DOSES, KA, KE, SHARE), atol=1e2 * rtol)
    for j, step in enumerate(1e-5 * np.eye(3)):
        ahead, behind = (superposed(t, DOSES, *(np.array([KA, KE, SHARE]) + s)) for s in (step, -step))
        np.testing.assert_allclose(found[:, 3 + j], (ahead - behind) / 2e-5, atol=1e-7 + 1e2 * rtol)
    np.testing.assert_allclose(found[:, 1, 0], np.exp(-KA * t), atol=1e2 * rtol)  # by the gut at the start
    plain = followed(oral, inputs, [0.0, 0.0], [KA, KE, SHARE], times, slopes=False, method=method)
    np.testing.assert_allclose(plain[:, 0], found[:, 0], atol=1e2 * rtol)


def test_an_output_belongs_between_the_doses_of_its_time():
    inputs = driven([time for time, _ in DOSES], [], [amount for _, amount in DOSES])
    plain = System(one_compartment, (1,), ("gut", "blood"), ("ka", "ke"), {}, ((0, None),))
    times, before = [0.0, 0.0, 1.0, 1.0, 1.0], np.array([[0, 1, 1, 2, 3]])
    gut = followed(plain, inputs, [0.0, 0.0], [KA, KE], times, before=before)[:, 0, 0]
    left = 3.0 * np.exp(-KA)
    np.testing.assert_allclose(gut, [0.0, 3.0, left, left + 2.0, left + 3.0], atol=1e-8)


def test_a_function_of_the_amount_and_parameters():
    def jump(amount, p):
        return torch.stack([amount * torch.exp(p["ka"]), amount**2], dim=-1)

    inputs = driven([1.0], [], [2.0])
    equations = System(one_compartment, (1,), ("gut", "blood"), ("ka", "ke"), {}, (jump,))
    found = followed(equations, inputs, [0.0, 0.0], [KA, KE], [1.0])[0]
    np.testing.assert_allclose(found[0], [2.0 * np.exp(KA), 4.0], rtol=1e-12)
    np.testing.assert_allclose(found[3], [2.0 * np.exp(KA), 0.0], rtol=1e-12)
    np.testing.assert_allclose(found[4], [0.0, 0.0], atol=1e-12)


def integrator(t, y, p):
    return (p["gain"] * p["u"])[..., None] + 0.0 * y


TIMES = np.array([0.0, 0.3, 1.1, 2.0])
LEVELS = np.array([1.0, 50.0, -3.0, 1000.0])


@pytest.mark.parametrize("method", ["dopri5", "kvaerno5", "dopri8"])
def test_steps_end_where_inputs_jump(method):
    inputs = driven(TIMES, LEVELS, [], linear=False, names=["u"])
    equations = system(integrator, ("y",), ("gain",))
    found = followed(equations, inputs, [0.0], [2.0], [0.2, 0.3, 1.0, 2.0, 2.5], method=method)
    exact = np.array([0.2, 0.3, 0.3 + 35.0, 0.3 + 40.0 - 2.7, 0.3 + 40.0 - 2.7 + 500.0])
    np.testing.assert_allclose(found[:, 0, 0], 2.0 * exact, rtol=1e-12)
    np.testing.assert_allclose(found[:, 2, 0], exact, rtol=1e-12)


def test_inputs_jump_on_the_way_back_as_well():
    inputs = driven([-2.0, -1.0, 0.0], [1.0, 10.0, 5.0], [], linear=False, names=["u"])
    back = followed(system(integrator, ("y",), ("gain",)), inputs, [0.0], [1.0], [-0.5, -1.0, -2.0])
    np.testing.assert_allclose(back[:, 0, 0], [-5.0, -10.0, -11.0], rtol=1e-12)


def test_fixed_steps_go_from_event_to_event():
    inputs = driven(TIMES, LEVELS, [0.0, 7.0, 0.0, 0.0], linear=False, names=["u"])
    equations = System(integrator, (0,), ("y",), ("gain",), {}, ((0, None),))
    settings = {"method": "rk4", "rtol": 0.0, "atol": 0.0, "step_size": 0.5}
    found = followed(equations, inputs, [0.0], [1.0], [0.3, 2.0], before=np.array([[0, 2]]), **settings)
    np.testing.assert_allclose(found[:, 0, 0], [0.3, 0.3 + 7.0 + 40.0 - 2.7], rtol=1e-12)


def test_series_have_events_of_their_own():
    codes = np.array([0, 0, 1, 2])
    inputs = driven([0.0, 1.0, 3.0, 0.0], [], [1.0, 2.0, 4.0, 0.0], codes)
    equations = System(decay, (0,), ("y",), ("rate",), {}, ((0, None),))
    times = np.array([[0.5, 2.0, np.nan], [2.0, 3.0, 4.0], [1.0, np.nan, np.nan]])
    values, series = torch.full((3, 1), 0.5, dtype=torch.float64), np.arange(3)
    course = course_from_start(inputs, series, np.zeros(3), times)
    states, steps = solve_course(
        equations, SolverSettings("dopri5", 1e-10, 1e-12), (values, torch.ones_like(values)),
        Driver(inputs, torch.arange(3)), torch.ones(3, 1, dtype=torch.float64), course,
    )  # fmt: skip
    e = lambda t: np.exp(-0.5 * t)  # noqa: E731
    exact = [[2 * e(0.5), 2 * e(2) + 2 * e(1), np.nan], [e(2), e(3) + 4, e(4) + 4 * e(1)], [e(1), np.nan, np.nan]]
    np.testing.assert_allclose(states[:, :, 0, 0], exact, atol=1e-9)
    assert (steps > 0).all()


def test_a_leg_that_can_not_be_solved_ends_in_nan():
    def explosive(t, y, p):
        return p["rate"][..., None] * y**2

    inputs = driven([0.5], [], [3.0])
    equations = System(explosive, (0,), ("y",), ("rate",), {}, ((0, None),))
    found = followed(equations, inputs, [0.1], [1.0], [0.4, 0.6, 5.0], rtol=1e-6)[:, 0, 0]
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2])
