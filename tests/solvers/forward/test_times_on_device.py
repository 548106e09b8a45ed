"""Outputs at times of each sample's own that are on the device: read off all steps at once."""

import math

import pytest
import torch

from skode.dynamics import MLPField
from skode.solvers import solve_ivp

NAN = math.nan

SPANS = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [0.5, 1.0], [0.0, 3.0], [2.0, 2.0]], dtype=torch.float64)
TIMES = torch.tensor(
    [[0.5, 1.0, 0.0], [0.1, 2.0, 2.0], [0.9, 0.0, 0.2], [0.7, NAN, 0.5], [1.0, 3.0, 1.0], [2.0, 2.0, NAN]],
    dtype=torch.float64,
)


def swinging(t, y):
    return torch.sin(2.0 * y.flip(-1)) - 0.3 * t * y


def gradients(field, y0, times=TIMES, **settings):
    settings = {"rtol": 1e-6, "atol": 1e-6} | settings
    y = solve_ivp(field, SPANS, y0, t_eval=times, **settings).y
    weights = torch.linspace(0.1, 1.0, y.numel(), dtype=y.dtype).view(y.shape)
    parameters = list(field.parameters()) if isinstance(field, torch.nn.Module) else []
    loss = (torch.nan_to_num(y) * weights).sum()
    return [y.detach(), *torch.autograd.grad(loss, [y0, *parameters], retain_graph=True)]


def thrice(compute):
    """A computation again and again: recordings are made from the second time on."""
    return lambda: [result for _ in range(3) for result in compute()]


@pytest.fixture(params=["own pullback", "own pullback, no time", "function"])
def field(request):
    generator = torch.Generator().manual_seed(0)
    if request.param == "function":
        return swinging
    return MLPField(3, (8, 5), "tanh", request.param == "own pullback", generator=generator).double()


@pytest.fixture
def y0():
    start = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return start.requires_grad_()


def test_they_are_read_off_recordings(agree, y0):
    field = MLPField(3, (8,), generator=torch.Generator().manual_seed(0)).double()
    agree(thrice(lambda: gradients(field, y0)), rtol=1e-10, n_replayed=2)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "dopri8", "fehlberg2"])
def test_they_are_those_of_the_usual_way(agree, field, y0, method):
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if method == "fehlberg2" else {}
    agree(thrice(lambda: gradients(field, y0, method=method, **tolerance)), rtol=1e-10)


def test_nothing_of_them_passes_through_the_host(ahead, y0, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("times were taken to the host")

    monkeypatch.setattr("skode.solvers.ivp_call.RequestedTimes", refuse)
    gradients(swinging, y0)


@pytest.mark.parametrize("budget", [0, 3_000, None])
def test_whatever_is_kept(agree, field, y0, budget):
    agree(thrice(lambda: gradients(field, y0, memory_budget=budget)), rtol=1e-10)


def test_without_gradients(agree, field, y0):
    with torch.no_grad():
        agree(thrice(lambda: [solve_ivp(field, SPANS, y0, t_eval=TIMES, rtol=1e-6, atol=1e-6).y]), rtol=1e-10)


def test_images(agree):
    y0 = torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    agree(lambda: gradients(lambda t, y: torch.cos(t) - y, y0), rtol=1e-10)


@pytest.mark.parametrize("late", [1.5, math.inf])
def test_a_time_outside_its_span_is_refused(ahead, field, y0, late):
    times = TIMES.clone()
    times[0, 1] = late
    for _ in range(3):
        with pytest.raises(ValueError, match=r"t_eval (must lie inside t_span|contains infinity)"):
            solve_ivp(field, SPANS, y0, t_eval=times)
        assert torch.isfinite(solve_ivp(field, SPANS, y0, t_eval=TIMES).y[0]).all()  # the next one is right


def test_a_span_that_is_not_finite_is_refused(ahead, y0):
    spans = SPANS.clone()
    spans[2, 1] = NAN
    with pytest.raises(ValueError, match="t_span contains NaN"):
        solve_ivp(swinging, spans, y0, t_eval=TIMES)


def test_a_state_that_is_not_finite_is_refused(ahead, field, y0):
    with torch.no_grad():
        y0[3, 1] = NAN
    for _ in range(3):
        with pytest.raises(ValueError, match="y0 contains NaN"):
            solve_ivp(field, SPANS, y0, t_eval=TIMES)


def test_single_precision(agree, y0):
    start = y0.detach().float().requires_grad_()
    steps = {"rtol": 1.0, "atol": 1.0, "first_step": 0.1, "max_step": 0.1}
    agree(lambda: gradients(swinging, start, **steps), rtol=1e-5)


def test_a_time_off_a_span_of_no_length_is_refused(ahead, field, y0):
    times = TIMES.clone()
    times[5, 1] = 2.4
    with pytest.raises(ValueError, match="t_eval must lie inside t_span"):
        solve_ivp(field, SPANS, y0, t_eval=times)


def test_solves_over_other_spans_may_be_alive_at_once(agree, field, y0):
    """As a latent ODE solves ahead and back before it asks for gradients."""

    def compute():
        results = []
        for _ in range(3):
            one = solve_ivp(field, SPANS, y0, t_eval=SPANS[:, 1:], rtol=1e-6, atol=1e-6).y
            other = solve_ivp(field, 0.5 * SPANS, y0, t_eval=0.5 * SPANS[:, 1:], rtol=1e-6, atol=1e-6).y
            parameters = list(field.parameters()) if isinstance(field, torch.nn.Module) else []
            loss = one.square().sum() + other.sum()
            results += [loss.detach(), *torch.autograd.grad(loss, [y0, *parameters])]
        return results

    agree(compute, rtol=1e-10)
