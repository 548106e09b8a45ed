import copy
import math
import pickle

import pytest
import torch
from torch.func import jacrev, vmap

from skode.dynamics import FlowField, MLPField, exact_divergence, flow_field
from skode.solvers import solve_ivp
from tests.dynamics.drawn import drawn

N, D = 5, 3
TIGHT = {"rtol": 1e-11, "atol": 1e-12}


def double_field(hidden, activation="tanh", time_dependent=True, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    return drawn(MLPField(D, hidden, activation, time_dependent, generator=generator), generator, scale)


def joint_states(n_columns=1):
    return torch.randn(N, D + n_columns, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def joint_by_autograd(field, t, state):
    value, divergence = exact_divergence(field, t, state[:, :-1])
    return torch.cat([value, -divergence[:, None]], dim=1)


def joint_with_energy(field, t, state):
    value, divergence = exact_divergence(field, t, state[:, :-2])
    return torch.cat([value, -divergence[:, None], value.square().mean(1, keepdim=True)], dim=1)


@pytest.fixture(params=["scalar", "per sample"])
def t(request):
    return {
        "scalar": torch.tensor(0.3, dtype=torch.float64),
        "per sample": torch.linspace(0, 1, N, dtype=torch.float64)[:, None],
    }[request.param]


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("time_dependent", [True, False])
@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_pullback_is_autograds_through_the_exact_divergence(hidden, time_dependent, energy, smooth_activation, t):
    field = double_field(hidden, smooth_activation, time_dependent)
    flow, state = flow_field(field, energy=energy), joint_states(1 + energy)
    cotangent = torch.randn(N, D + 1 + energy, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        value, residuals = flow.linearize(t, state)
        grad_state, deltas = flow.pullback(residuals, cotangent)
        grad_parameters = flow.parameter_gradients([(residuals, deltas)])

    state.requires_grad_()
    joint = joint_with_energy(field, t, state) if energy else joint_by_autograd(field, t, state)
    expected = torch.autograd.grad(
        joint, [state, *field.parameters()], cotangent, allow_unused=True, materialize_grads=True
    )
    torch.testing.assert_close(value, joint, rtol=1e-12, atol=1e-12)
    for found, wanted in zip([grad_state, *grad_parameters], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("fold_tanh", [False, True])
@pytest.mark.parametrize("time_dependent", [True, False])
@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_tapes_pull_back_as_the_plain_products_do(hidden, time_dependent, fold_tanh, energy, smooth_activation, t):
    field = double_field(hidden, smooth_activation, time_dependent)
    field.fold_tanh = fold_tanh
    bound = flow_field(field, energy=energy).bind()
    n_slots, n_columns = 3, 1 + energy
    states = [joint_states(n_columns) + i for i in range(n_slots)]
    cotangents = torch.randn(n_slots, N, D + n_columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        tape, session, held = bound.tape(states[0], n_slots), bound.session(), []
        for i, state in enumerate(states):
            tape.place(i).copy_(state.reshape(-1))
            value = torch.empty_like(state)
            tape.evaluate(i, t + i, value)
            expected, residuals = bound.linearize(t + i, state)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
            held.append(residuals)
        deltas = []
        for i in reversed(range(n_slots)):
            out = torch.empty_like(states[i])
            session.place(tape, i).copy_(cotangents[i].reshape(-1))
            session.pull(tape, i, None, out)
            expected, delta = bound.pullback(held[i], cotangents[i])
            torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)
            deltas.append((held[i], delta))
        session.flush(tape)
        tape.release()
        found, wanted = session.parameter_gradients(), bound.parameter_gradients(deltas)
    for gradient, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-11)


def test_what_a_session_discards_leaves_no_gradients():
    bound = flow_field(double_field((5, 4))).bind()
    state = joint_states()
    with torch.no_grad():
        tape, session = bound.tape(state, 1), bound.session()
        tape.place(0).copy_(state.reshape(-1))
        tape.evaluate(0, 0.3, torch.empty_like(state))
        session.pull(tape, 0, state, torch.empty_like(state))
        session.discard()
        tape.release()
        assert all(gradient is None for gradient in session.parameter_gradients())


@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_parameter_gradients_sum_over_a_tape_of_evaluations(hidden):
    field = double_field(hidden)
    flow, state = flow_field(field), joint_states()
    generator = torch.Generator().manual_seed(3)
    tape, total = [], torch.zeros((), dtype=torch.float64)
    for t in (0.1, 0.9):
        cotangent = torch.randn(N, D + 1, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            _, residuals = flow.linearize(t, state)
            tape.append((residuals, flow.pullback(residuals, cotangent)[1]))
        total = total + (joint_by_autograd(field, torch.tensor(t, dtype=torch.float64), state) * cotangent).sum()
    expected = list(torch.autograd.grad(total, list(field.parameters())))
    with torch.no_grad():
        torch.testing.assert_close(flow.parameter_gradients(tape), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4), (5, 4, 6)])
def test_rates_do_not_depend_on_the_log_density_so_far(hidden, t):
    flow, state = flow_field(double_field(hidden)), joint_states()
    moved = state.clone()
    moved[:, -1] += 100.0
    assert torch.equal(flow(t, state), flow(t, moved))


def test_linear_flow_has_the_densities_known_in_closed_form():
    # dz/dt = A z + b from N(0, I): z(T) ~ N(m, E E^T), E = expm(A T), and log|det E| = tr(A) T
    field, T = double_field((), time_dependent=False, scale=0.5), 0.8
    A, b = (p.detach() for p in field.parameters())
    E = torch.linalg.matrix_exp(A * T)
    m = torch.linalg.solve(A, (E - torch.eye(D, dtype=torch.float64)) @ b)
    z0 = joint_states()[:, :-1]
    log_p0 = -0.5 * (z0**2).sum(1) - 0.5 * D * math.log(2 * math.pi)
    with torch.no_grad():
        end = solve_ivp(flow_field(field), (0.0, T), torch.cat([z0, log_p0[:, None]], 1), t_eval=(T,), **TIGHT).y[-1]
    torch.testing.assert_close(end[:, :-1], z0 @ E.t() + m, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(end[:, -1], log_p0 - torch.trace(A) * T, rtol=1e-9, atol=1e-9)
    law = torch.distributions.MultivariateNormal(m, E @ E.t())
    torch.testing.assert_close(end[:, -1], law.log_prob(end[:, :-1]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("hidden", [(5,), (5, 4), (4, 3, 4)])
def test_integral_of_the_divergence_is_the_log_determinant_of_the_map(hidden):
    field = double_field(hidden, scale=0.6)
    z0 = joint_states()[:, :-1]

    def carried(row):
        path = solve_ivp(field, (0.0, 1.0), row[None], t_eval=(1.0,), adjoint="backprop", **TIGHT)
        return path.y[-1, 0]

    jacobians = torch.stack([torch.autograd.functional.jacobian(carried, row) for row in z0])
    with torch.no_grad():
        start = torch.cat([z0, torch.zeros(N, 1, dtype=torch.float64)], 1)
        end = solve_ivp(flow_field(field), (0.0, 1.0), start, t_eval=(1.0,), **TIGHT).y[-1]
    torch.testing.assert_close(-end[:, -1], torch.linalg.slogdet(jacobians)[1], rtol=1e-8, atol=1e-8)


def test_solving_there_and_back_returns_to_the_start():
    flow, start = flow_field(double_field((5, 4), scale=0.6)), joint_states()
    with torch.no_grad():
        there = solve_ivp(flow, (0.0, 1.0), start, t_eval=(1.0,), **TIGHT).y[-1]
        back = solve_ivp(flow, (1.0, 0.0), there, t_eval=(0.0,), **TIGHT).y[-1]
    torch.testing.assert_close(back, start, rtol=1e-8, atol=1e-8)


def test_any_callable_can_be_a_flow():
    A = torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    state = joint_states()
    rates = FlowField(lambda t, z: torch.sin(z) @ A.t())(torch.tensor(0.0), state)
    jacobians = vmap(jacrev(lambda z: torch.sin(z) @ A.t()))(state[:, :-1])
    torch.testing.assert_close(rates[:, -1], -torch.einsum("nii->n", jacobians), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_a_copy_computes_the_same(hidden, copied):
    flow, state = flow_field(double_field(hidden)), joint_states()
    assert torch.equal(copied(flow)(0.3, state), flow(0.3, state))


def test_an_estimate_by_one_product_is_noise_jacobian_noise():
    field, state = double_field((5, 4)), joint_states()
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    flow = flow_field(field, noise=noise, estimate=True, energy=True, jacobian=True)
    t, z = torch.tensor(0.3, dtype=torch.float64), state[:, :D]
    rates = flow(t, torch.cat([z, torch.zeros(N, 3, dtype=torch.float64)], 1))
    jacobian = vmap(jacrev(lambda z: field(t, z[None])[0]))(z)
    pulled = torch.einsum("ni,nij->nj", noise, jacobian)
    torch.testing.assert_close(rates[:, D], -(pulled * noise).sum(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(rates[:, D + 1], field(t, z).square().mean(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(rates[:, D + 2], pulled.square().mean(1), rtol=1e-10, atol=1e-10)


def test_a_field_that_offers_its_divergence_is_believed():
    class Own(torch.nn.Module):
        def forward(self, t, z):
            return -z

        def value_and_divergence(self, t, z):
            return -z, torch.full_like(z[:, 0], 7.0)  # wrong, so that it can be told

    assert (FlowField(Own())(torch.tensor(0.0), joint_states())[:, -1] == -7.0).all()
    other = Own()
    other.has_analytic_divergence = False
    assert (FlowField(other)(torch.tensor(0.0), joint_states())[:, -1] == float(D)).all()
