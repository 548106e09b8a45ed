"""Evaluations and gradients of a perceptron on tapes are those of torch's layers under autograd."""

import pytest
import torch
from torch.nn import functional

from skode.dynamics import MLPField, mlp_session, mlp_tape, products
from skode.solvers import odeint
from skode.solvers.buffer_pool import BufferPool

TORCH = {
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "softplus": functional.softplus,
    "relu": torch.relu,
    "silu": functional.silu,
}
LAYERS = [(), (5,), (5, 4), (5, 4, 6)]
D = 3


def drawn(hidden, activation="tanh", time_dependent=True, d=D, dtype=torch.float64):
    """A field all of whose parameters, biases too, are away from 0."""
    generator = torch.Generator().manual_seed(1)
    field = MLPField(d, hidden, activation, time_dependent, generator=generator).to(dtype)
    with torch.no_grad():
        for parameter in field.parameters():
            value = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(value / parameter.shape[-1] ** 0.5)
    return field


def plain(field, t, z):
    """The field written with torch's own layers."""
    t = torch.as_tensor(t, dtype=z.dtype)
    x = torch.cat([z, t.expand(len(z), 1)], dim=1) if field.time_dependent else z
    *hidden, last = field.layers
    for layer in hidden:
        x = TORCH[field.activation](layer(x))
    return last(x)


def draw(*shape, dtype=torch.float64, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


TIMES = {
    "floats": lambda n, dtype: [0.3, -1.2, 0.8],
    "tensors": lambda n, dtype: list(torch.tensor([0.3, -1.2, 0.8], dtype=dtype)),
    "columns": lambda n, dtype: list(draw(3, n, 1, dtype=dtype, seed=5)),
    "both": lambda n, dtype: [0.3, draw(n, 1, dtype=dtype, seed=5), 0.8],
}


def on_tape(field, times, states, cotangents):
    """Values, and cotangents of states and parameters, of three evaluations on one tape."""
    bound = field.bind()
    tape, session = bound.tape(states[0], len(states)), bound.session()
    values, grad_states = [], []
    with torch.no_grad():
        for slot, (t, z) in enumerate(zip(times, states, strict=True)):
            tape.place(slot).copy_(z.reshape(-1))
            values.append(torch.full_like(z, torch.nan))
            tape.evaluate(slot, t, values[-1])
        for slot in reversed(range(len(states))):
            grad_states.insert(0, torch.full_like(states[0], torch.nan))
            session.pull(tape, slot, cotangents[slot].clone(), grad_states[0])
        session.flush(tape)
        tape.release()
    return values, grad_states, list(session.parameter_gradients())


def by_autograd(field, times, states, cotangents):
    times = [torch.as_tensor(t, dtype=states[0].dtype) for t in times]
    states = [z.clone().requires_grad_() for z in states]
    values = [plain(field, t, z) for t, z in zip(times, states, strict=True)]
    loss = sum((value * cotangent).sum() for value, cotangent in zip(values, cotangents, strict=True))
    inputs = [*states, *field.parameters()]
    gradients = list(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))
    return [v.detach() for v in values], gradients[: len(states)], gradients[len(states) :]


@pytest.fixture(params=LAYERS, ids=lambda hidden: f"{len(hidden)} hidden layers")
def hidden(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["f(t, z)", "f(z)"])
def time_dependent(request):
    return request.param


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("times", list(TIMES))
def test_a_tape_gives_the_numbers_of_autograd(hidden, activation, time_dependent, times, n):
    field = drawn(hidden, activation, time_dependent)
    times, states, cotangents = TIMES[times](n, torch.float64), draw(3, n, D), draw(3, n, D, seed=3)
    found = on_tape(field, times, states, cotangents)
    expected = by_autograd(field, times, states, cotangents)
    for ours, autograds in zip(found, expected, strict=True):
        torch.testing.assert_close(list(ours), list(autograds), rtol=1e-12, atol=1e-12)


# A product of n rows with a weight of shape (128, 128): left to torch, and made by oneDNN.
SIZES = {"below": products.WORTHWHILE // 128**2, "above": products.WORTHWHILE // 128**2 + 1}


@pytest.mark.parametrize("n", list(SIZES.values()), ids=list(SIZES))
@pytest.mark.parametrize("times", ["floats", "columns"])
@pytest.mark.parametrize("sizes", [(), (128,), (128, 128)])
@pytest.mark.skipif(products._ONEDNN is None, reason="this torch was built without oneDNN")
def test_large_tapes_give_the_numbers_of_autograd_in_float32(activation, times, sizes, n, monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    d = 128
    field = drawn(sizes, activation, d=d, dtype=torch.float32)
    weight = field.layers[0].weight[:, :d]
    assert products.worthwhile(weight, n, *weight.shape) == (n == SIZES["above"])
    times = TIMES[times](n, torch.float32)
    states, cotangents = draw(3, n, d, dtype=torch.float32), draw(3, n, d, dtype=torch.float32, seed=3)
    found = on_tape(field, times, states, cotangents)
    doubled = [t.double() if isinstance(t, torch.Tensor) else t for t in times]
    expected = by_autograd(field.double(), doubled, states.double(), cotangents.double())
    for ours, autograds in zip(found, expected, strict=True):
        assert all(one.dtype == torch.float32 for one in ours)
        one, other = (torch.cat([x.reshape(-1).double() for x in these]) for these in (ours, autograds))
        # of all slots together: the cotangent of one time is a sum over the batch that may cancel
        assert torch.linalg.vector_norm(one - other) <= 1e-5 * torch.linalg.vector_norm(other)


def test_a_session_sums_over_tapes_and_sizes(hidden):
    field = drawn(hidden)
    bound = field.bind()
    session, total = bound.session(), 0.0
    for n in (4, 4, 2, 5):
        z, cotangent = draw(n, D, seed=n), draw(n, D, seed=10 + n)
        tape = bound.tape(z, 2)
        for slot, t in enumerate((0.1, 0.9)):
            tape.place(slot).copy_(z.reshape(-1))
            tape.evaluate(slot, t, torch.empty_like(z))
            session.pull(tape, slot, cotangent, torch.empty_like(z))
            total = total + (plain(field, t, z) * cotangent).sum()
        session.flush(tape)
        tape.release()
    expected = torch.autograd.grad(total, list(field.parameters()))
    torch.testing.assert_close(session.parameter_gradients(), expected, rtol=1e-12, atol=1e-12)


def test_discarded_pulls_leave_no_parameter_gradients(hidden):
    field = drawn(hidden)
    bound = field.bind()
    session, z = bound.session(), draw(4, D)
    tape = bound.tape(z, 2)
    for slot in range(2):
        tape.place(slot).copy_(z.reshape(-1))
        tape.evaluate(slot, 0.5, torch.empty_like(z))
    session.pull(tape, 0, z, torch.empty_like(z))
    session.discard()
    session.flush(tape)
    assert session.parameter_gradients() == (None,) * len(list(field.parameters()))
    session.pull(tape, 1, z, torch.empty_like(z))
    session.flush(tape)
    expected = torch.autograd.grad((plain(field, 0.5, z) * z).sum(), list(field.parameters()))
    torch.testing.assert_close(session.parameter_gradients(), expected, rtol=1e-12, atol=1e-12)


def renew_pool(monkeypatch):
    fresh = BufferPool()
    for module in (mlp_tape, mlp_session):
        monkeypatch.setattr(module, "POOL", fresh)
    return fresh


@pytest.fixture
def pool(monkeypatch):
    """A pool of memory that nothing has used before."""
    return renew_pool(monkeypatch)


def test_tapes_share_an_arena_and_hand_it_on_when_all_are_released(pool):
    bound, z = drawn((5, 4)).bind(), draw(11, D)
    tapes = [bound.tape(z, 2) for _ in range(3)]
    arena = tapes[0].arena
    assert all(tape.arena is arena for tape in tapes)
    assert len({tape.place(slot).data_ptr() for tape in tapes for slot in range(2)}) == 6
    for tape in (tapes[2], tapes[0]):
        tape.release()
        assert (pool, arena.pool_key) not in pool.idle
    assert bound.tape(z, 2).first == tapes[2].first  # the slots allocated last are allocated again
    bound = drawn((5, 4)).bind()
    assert bound.tape(z, 2).arena is not arena


def test_an_arena_is_used_again_for_the_same_sizes_only(pool):
    bound, z = drawn((5, 4)).bind(), draw(11, D)
    tape = bound.tape(z, 2)
    tape.release()
    assert bound.tape(z[:4], 2).arena is not tape.arena
    single = drawn((5, 4), dtype=torch.float32).bind()
    assert single.tape(z.float(), 2).arena is not tape.arena
    other = drawn((5, 4), "softplus").bind()
    assert other.tape(z, 2).arena is tape.arena
    assert bound.tape(z, 2).arena is not tape.arena


def test_only_activations_whose_derivatives_need_it_keep_their_input(pool, activation):
    field, z = drawn((5, 4), activation), draw(10, D)
    tape = field.bind().tape(z, 2)
    size = D + 2 * (5 + 4) if field.h.of_input else D + 5 + 4
    assert tape.nbytes() == 2 * 10 * size * 8
    tape.release()
    # memory without room for the inputs is not handed to a field that needs it, nor the other way round
    other = drawn((5, 4), "tanh" if field.h.of_input else "silu").bind()
    assert other.tape(z, 2).arena is not tape.arena


def test_an_arena_waits_for_the_gradients_of_what_was_pulled(pool):
    field = drawn((5,))
    bound, z = field.bind(), draw(10, D)
    session, tape = bound.session(), bound.tape(z, 1)
    tape.place(0).copy_(z.reshape(-1))
    tape.evaluate(0, 0.5, torch.empty_like(z))
    session.pull(tape, 0, z, torch.empty_like(z))
    session.flush(tape)
    tape.release()
    assert (pool, tape.arena.pool_key) not in pool.idle
    session.parameter_gradients()
    assert pool.acquire(tape.arena.pool_key, object) is tape.arena


def test_more_slots_than_an_arena_has_get_an_arena_of_their_own(pool, monkeypatch):
    monkeypatch.setattr(mlp_tape, "ARENA_BYTES", 0)
    bound, z = drawn((5,)).bind(), draw(10, D)
    tapes = [bound.tape(z, 2) for _ in range(2)]
    assert tapes[0].arena is not tapes[1].arena
    assert [tape.nbytes() for tape in tapes] == [2 * 10 * (D + 5) * 8] * 2
    assert [tape.arena.n_slots for tape in tapes] == [2, 2]


def test_slots_pulled_in_any_order_of_tapes_give_the_same_sum(pool):
    field = drawn((5, 4))
    bound, states = field.bind(), draw(4, 6, D)
    for order in ([0, 1, 2, 3], [3, 1, 2, 0], [2, 2, 1, 1], [3, 2, 1, 0, 0]):
        session, total = bound.session(), 0.0
        tapes = [bound.tape(z, 1) for z in states]
        for tape, z in zip(tapes, states, strict=True):
            tape.place(0).copy_(z.reshape(-1))
            tape.evaluate(0, 0.2, torch.empty_like(z))
        for n, i in enumerate(order):
            cotangent = draw(6, D, seed=20 + n)
            session.pull(tapes[i], 0, cotangent, torch.empty_like(cotangent))
            session.flush(tapes[i])
            total = total + (plain(field, 0.2, states[i]) * cotangent).sum()
        expected = torch.autograd.grad(total, list(field.parameters()))
        torch.testing.assert_close(session.parameter_gradients(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["rk4", "fehlberg2", "dopri5", "kvaerno5", "gl4", "implicit_adams"])
@pytest.mark.parametrize("memory_budget", [0, 20_000, 2**28])
def test_interleaved_solves_do_not_disturb_each_other(method, memory_budget, monkeypatch):
    options = {"memory_budget": memory_budget}
    if method in ("rk4", "gl4", "implicit_adams"):
        options["step_size"] = 0.05
    fields = [drawn((6, 5)), drawn((6, 5), "softplus")]
    starts, weights = draw(2, 4, D), draw(2, 6, 4, D, seed=3)
    times = torch.linspace(0.0, 1.0, 6, dtype=torch.float64)

    def solve(i):
        y0 = starts[i].clone().requires_grad_()
        y = odeint(fields[i], y0, times, rtol=1e-5, atol=1e-6, method=method, options=options)
        return y, [y0, *fields[i].parameters()]

    def gradients(i, y, inputs):
        return torch.autograd.grad((weights[i] * y).sum(), inputs, retain_graph=True)

    fresh = []
    for i in range(2):  # each with memory that nothing has used before
        renew_pool(monkeypatch)
        y, inputs = solve(i)
        renew_pool(monkeypatch)
        fresh.append([y.detach().clone(), *gradients(i, y, inputs)])

    def assert_as_fresh(i, y, found):
        assert torch.equal(y, fresh[i][0])
        torch.testing.assert_close(found, tuple(fresh[i][1:]), rtol=1e-12, atol=1e-12)

    solved = [solve(0), solve(1)]
    for i in (0, 1, 1, 0):
        again = solve(i)
        assert_as_fresh(i, solved[i][0], gradients(i, *solved[i]))
        assert_as_fresh(1 - i, solved[1 - i][0], gradients(1 - i, *solved[1 - i]))
        assert_as_fresh(i, again[0], gradients(i, *again))
        with torch.no_grad():
            solve(1 - i)
