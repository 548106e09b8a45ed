import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from skode.equations.dynamics import Driver, PlainField, load_forward_ad
from skode.equations.inputs import Inputs
from skode.equations.sensitivities import SolverSettings, solve_sensitivities, solve_states
from tests.equations.systems import lotka_volterra, robertson, sir, system

NAMES = ("a", "b", "c", "d")
VALUES = torch.tensor([[1.0, 0.5, 1.2, 0.4], [0.7, 0.6, 1.0, 0.3]], dtype=torch.float64)
Y0 = torch.tensor([[3.0, 1.0], [2.0, 2.0]], dtype=torch.float64)
SPANS = torch.tensor([[0.0, 4.0], [1.0, 3.0]], dtype=torch.float64)
TIMES = torch.tensor([[0.0, 1.5, 4.0], [2.0, 3.0, torch.nan]], dtype=torch.float64)
DRIVER = Driver(None, torch.arange(2))
LOTKA = system(lotka_volterra, ("x", "y"), NAMES)


def arguments(settings, system=LOTKA):
    return system, settings, (VALUES, 0.5 * VALUES), DRIVER, Y0, SPANS, TIMES


def by_repetition(system, settings, parameters, driver, y0, spans, times):
    """The same by forward-mode AD through the solver, on samples that are repeated for each direction."""
    (n_samples, n), (values, slopes) = y0.shape, parameters
    k = n + values.shape[1]
    directions = torch.eye(k, dtype=y0.dtype).repeat(n_samples, 1)
    load_forward_ad()

    def repeated(x):
        return x.repeat_interleave(k, dim=0)

    with torch.no_grad(), forward_ad.dual_level():
        start = forward_ad.make_dual(repeated(y0), directions[:, :n].contiguous())
        own = forward_ad.make_dual(repeated(values), directions[:, n:] * repeated(slopes))
        field = PlainField(system, own, driver.take(repeated(torch.arange(n_samples))))
        solution = settings.solve(field, repeated(spans), start, repeated(times), adjoint="backprop")
        states, tangents = forward_ad.unpack_dual(solution.y)
    shape = (n_samples, k, times.shape[1], n)
    return torch.cat([states.reshape(shape)[:, :1], tangents.reshape(shape)], dim=1).transpose(1, 2)


def test_states_are_those_of_the_plain_solve():
    settings = SolverSettings("dopri5", 1e-6, 1e-9)
    states, n_steps = solve_sensitivities(*arguments(settings))
    plain = solve_states(LOTKA, settings, VALUES, DRIVER, Y0, SPANS, TIMES)
    torch.testing.assert_close(states[:, :, 0], plain, equal_nan=True, rtol=1e-13, atol=1e-13)
    assert n_steps.shape == (2,)
    assert (n_steps > 2).all()


@pytest.mark.parametrize(
    ("method", "tolerance", "rtol"),
    [("dopri5", 1e-4, 1e-11), ("tsit5", 1e-4, 1e-11), ("bosh3", 1e-4, 1e-11), ("kvaerno5", 1e-6, 1e-8)],
)
def test_both_ways_give_the_derivative_of_the_computed_solution(method, tolerance, rtol):
    """Up to what Newton's method leaves, a thousandth of the tolerance, in implicit ones."""
    settings = SolverSettings(method, tolerance, 1e-2 * tolerance)
    beside, _ = solve_sensitivities(*arguments(settings))
    through = by_repetition(*arguments(settings))
    there = ~torch.isnan(TIMES)
    torch.testing.assert_close(beside[there], through[there], rtol=rtol, atol=rtol)
    assert torch.isnan(beside[~there]).all()


@pytest.mark.parametrize("method", ["trbdf2", "radauIIA5", "gl4", "implicit_adams"])
def test_implicit_steps_of_a_fixed_size_are_differentiated_to_rounding(method):
    settings = SolverSettings(method, 0.0, 0.0, step_size=0.25)
    there = ~torch.isnan(TIMES)
    beside, through = solve_sensitivities(*arguments(settings))[0], by_repetition(*arguments(settings))
    torch.testing.assert_close(beside[there], through[there], rtol=1e-11, atol=1e-11)


def test_derivatives_are_those_of_differences():
    settings = SolverSettings("dopri5", 1e-11, 1e-12)
    found, _ = solve_sensitivities(*arguments(settings))
    step = 1e-5
    for j in range(6):
        ends = []
        for sign in (1.0, -1.0):
            y0, values = Y0.clone(), VALUES.clone()
            if j < 2:
                y0[:, j] += sign * step
            else:
                values[:, j - 2] += sign * step * 0.5 * VALUES[:, j - 2]
            ends.append(solve_states(LOTKA, settings, values, DRIVER, y0, SPANS, TIMES))
        difference = (ends[0] - ends[1]) / (2.0 * step)
        torch.testing.assert_close(found[:, :, 1 + j], difference, equal_nan=True, rtol=2e-5, atol=1e-7)


def test_an_implicit_method_differentiates_stiff_equations():
    stiff = system(robertson, ("a", "b", "c"), ("k1", "k2", "k3"))
    settings, driver = SolverSettings("kvaerno5", 1e-7, 1e-12), Driver(None, torch.zeros(1, dtype=torch.int64))
    values = torch.tensor([[0.04, 3e7, 1e4]], dtype=torch.float64)
    y0, spans = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 0.4]], dtype=torch.float64)
    times = torch.tensor([[0.1, 0.4]], dtype=torch.float64)
    found, _ = solve_sensitivities(stiff, settings, (values, values), driver, y0, spans, times)
    for j in range(3):
        factor = torch.ones_like(values)
        factor[0, j] += 1e-3
        up, down = (solve_states(stiff, settings, values * f, driver, y0, spans, times) for f in (factor, 2.0 - factor))
        torch.testing.assert_close(found[:, :, 4 + j], (up - down) / 2e-3, rtol=2e-3, atol=1e-9)


def test_samples_that_can_not_be_solved_are_nan():
    explosive = system(lambda t, y, p: p["rate"][..., None] * y**2, ("y",), ("rate",))
    values = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    spans = torch.tensor([[0.0, 2.0], [0.0, 2.0]], dtype=torch.float64)
    y0, settings = torch.ones(2, 1, dtype=torch.float64), SolverSettings("dopri5", 1e-6, 1e-9)
    found, _ = solve_sensitivities(explosive, settings, (values, values), DRIVER, y0, spans, spans[:, 1:])
    assert torch.isnan(found[0]).all()
    np.testing.assert_allclose(found[1, 0, 0], 1.0 / 3.0, rtol=1e-5)


def test_inputs_drive_the_solution():
    driven = system(lambda t, y, p: (p["gain"] * p["u"] + 0.0 * y[..., 0])[..., None], ("y",), ("gain",))
    inputs = Inputs.of(["u"], np.zeros(2, dtype=int), np.array([0.0, 2.0]), np.array([[0.0], [2.0]]), linear=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    settings, driver = SolverSettings("dopri5", 1e-8, 1e-10), Driver(inputs, torch.zeros(1, dtype=torch.int64))
    spans = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    found, _ = solve_sensitivities(driven, settings, (3.0 * one, one), driver, one, spans, spans[:, 1:])
    np.testing.assert_allclose(found[0, 0, :, 0], [1.0 + 3.0 * 2.0, 1.0, 2.0], rtol=1e-10)


def test_sir_is_solved_as_by_any_other_way():
    epidemic = system(sir, ("S", "I", "R"), ("beta", "gamma"))
    y0 = torch.tensor([[0.99, 0.01, 0.0]], dtype=torch.float64)
    values = torch.tensor([[0.4, 0.1]], dtype=torch.float64)
    spans = torch.tensor([[0.0, 80.0]], dtype=torch.float64)
    settings, driver = SolverSettings("dopri5", 1e-8, 1e-10), Driver(None, torch.zeros(1, dtype=torch.int64))
    states, _ = solve_sensitivities(epidemic, settings, (values, values), driver, y0, spans, spans[:, 1:])
    np.testing.assert_allclose(states[0, 0, 0].sum(), 1.0, rtol=1e-10)
    np.testing.assert_allclose(states[0, 0, 1:].sum(dim=1)[:3], 1.0, rtol=1e-9)  # a unit more of any is one more in all
    np.testing.assert_allclose(states[0, 0, 4:].sum(dim=1), 0.0, atol=1e-9)
