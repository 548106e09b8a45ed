"""``interp``: the line, and the cubic, through both ends of a step."""

import itertools

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline

from skode.solvers import METHODS, odeint
from skode.solvers.tableaus.interpolation import INTERPOLATIONS, cubic, linear

FIXED = [name for name, method in METHODS.items() if not method.adaptive]
RUNGE_KUTTA = [name for name in FIXED if not name.endswith("adams")]
NODES = np.linspace(0.0, 1.0, 5)
INSIDE = np.array([0.0, 0.05, 0.1, 0.3, 0.5, 0.61, 0.9, 1.0])


def field(t, y):
    return torch.cos(3 * t) * y - 0.1 * y**2


def solved(times, method, adjoint="discrete", y0=None, **options):
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64) if y0 is None else y0
    return odeint(field, y0, times, method=method, adjoint=adjoint, options={"step_size": 0.25, **options})


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("interp", sorted(INTERPOLATIONS))
def test_the_ends_of_steps_stay_what_they_were(method, interp):
    torch.testing.assert_close(solved(NODES, method, interp=interp), solved(NODES, method), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", FIXED)
def test_linear_is_numpys_interpolation(method):
    ends, found = solved(NODES, method), solved(INSIDE, method, interp="linear")
    for k in range(2):
        np.testing.assert_allclose(found[:, k], np.interp(INSIDE, NODES, ends[:, k]), rtol=1e-12)


@pytest.mark.parametrize("method", RUNGE_KUTTA)
@pytest.mark.parametrize("end", [1.0, -1.0])
def test_cubic_is_scipys_hermite_polynomial(method, end):
    nodes, inside = NODES * end, INSIDE * end
    ends, found = solved(nodes, method), solved(inside, method, interp="cubic")
    slopes = torch.stack([field(torch.tensor(t), y) for t, y in zip(nodes, ends, strict=True)])
    order = np.argsort(nodes)
    expected = CubicHermiteSpline(nodes[order], ends.numpy()[order], slopes.numpy()[order])(inside)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_adams_methods_keep_their_polynomials(method):
    assert torch.equal(solved(INSIDE, method, interp="cubic"), solved(INSIDE, method))


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_the_cubic_costs_one_evaluation_more(method, counted):
    plain, with_slopes = counted(field), counted(field)
    y0 = torch.ones(1, dtype=torch.float64)
    odeint(plain, y0, INSIDE, method=method, options={"step_size": 0.25})
    odeint(with_slopes, y0, INSIDE, method=method, options={"step_size": 0.25, "interp": "cubic"})
    assert with_slopes.n_calls == plain.n_calls + 1


@pytest.mark.parametrize("method", ["euler", "heun3", "rk4", "gl4", "trbdf2", "implicit_adams"])
@pytest.mark.parametrize("interp", sorted(INTERPOLATIONS))
def test_gradients_are_those_of_what_is_read_off(method, interp, exact_adjoint):
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    found = solved(INSIDE, method, exact_adjoint, y0, interp=interp)
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((cotangent * found).sum(), y0)
    for k, h in itertools.product(range(2), [1e-6]):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[k] = h
        above, below = (solved(INSIDE, method, y0=y0.detach() + s * shift, interp=interp) for s in (1, -1))
        assert float(gradient[k]) == pytest.approx(float((cotangent * (above - below)).sum()) / (2 * h), rel=1e-6)


def test_the_stages_added_are_explicit():
    for name in RUNGE_KUTTA:
        tableau = cubic(METHODS[name])
        assert tableau.fsal
        assert not any(tableau.a[0])
        assert linear(METHODS[name]).a == METHODS[name].a


@pytest.mark.parametrize(
    ("method", "interp", "message"),
    [
        ("rk4", "quintic", r"options\['interp'\]='quintic' is not known"),
        ("rk4", 3, r"options\['interp'\]=3 is not known"),
        ("dopri5", "cubic", r"options \['interp'\] play no part with method='dopri5'"),
        ("scipy_solver", "linear", r"options \['interp'\] play no part with method='scipy_solver'"),
    ],
)
def test_what_is_no_interpolation_is_refused(method, interp, message):
    with pytest.raises(ValueError, match=message):
        odeint(field, torch.ones(1), [0.0, 1.0], method=method, options={"interp": interp})
