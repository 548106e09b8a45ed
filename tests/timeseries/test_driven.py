import numpy as np
import pytest
import torch

from skode.solvers import METHODS, solve_ivp
from skode.timeseries.driven import CovariatePaths, DrivenField, PathReader
from skode.timeseries.panel import Panel
from tests.solvers.fused.comparison import Paths

CPU = torch.device("cpu")
TIME_SCALE = 2.0


def paths_of(*series):
    """Paths through lists of (time, value, ...); times are multiplied so that scaled they are as given."""
    ids = np.repeat(np.arange(len(series)), [len(rows) for rows in series])
    rows = np.array([row for one in series for row in one], dtype=float)
    panel = Panel.of(ids, rows[:, 0] * TIME_SCALE, rows[:, 1:], np.zeros((len(rows), 1)))
    return CovariatePaths.of(panel, TIME_SCALE, torch.float64, CPU)


def at(paths, series, times):
    times = torch.as_tensor(times, dtype=torch.float64)
    return paths.at(torch.full((len(times),), series), times[:, None]).numpy()


def random_series(rng, n):
    return np.column_stack([np.append(0.0, np.sort(rng.uniform(0, 3, n - 1))), rng.normal(size=(n, 2))])


# Paths


def test_paths_are_linear_between_rows_and_constant_beyond():
    rng = np.random.RandomState(0)
    series = [random_series(rng, n) for n in (6, 2, 1, 4)]
    paths = paths_of(*series)
    times = np.concatenate([np.linspace(-1, 5, 97), *[rows[:, 0] for rows in series]])
    for i, rows in enumerate(series):
        expected = np.column_stack([np.interp(times, rows[:, 0], rows[:, k]) for k in (1, 2)])
        np.testing.assert_allclose(at(paths, i, times), expected, rtol=1e-10, atol=1e-12)


def test_a_path_does_not_depend_on_the_others():
    rng = np.random.RandomState(1)
    series = [random_series(rng, n) for n in (5, 3, 1)]
    together, times = paths_of(*series), np.linspace(-1, 4, 31)
    for i, rows in enumerate(series):
        np.testing.assert_array_equal(at(together, i, times), at(paths_of(rows), 0, times))


def test_series_may_be_asked_at_a_time_each():
    rng = np.random.RandomState(2)
    series = [random_series(rng, n) for n in (5, 3)]
    paths = paths_of(*series)
    codes, times = torch.tensor([1, 0, 1, 1]), torch.tensor([0.1, 2.0, 0.5, 9.0], dtype=torch.float64)
    together = paths.at(codes, times[:, None]).numpy()
    for i, (code, t) in enumerate(zip(codes.tolist(), times.tolist(), strict=True)):
        np.testing.assert_array_equal(together[[i]], at(paths, code, [t]))


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 0), (1, 5), (1, 7), (2, 3)],
        [(0, 1), (0, 4), (1, 5)],
        [(0, 0), (1, 5), (1, 7)],
        [(0, 0), (1, 5), (1, 6), (1, 7)],
        [(0, 2), (0, 3)],
    ],
    ids=["inside", "at the start", "at the end", "three at the end", "only"],
)
@pytest.mark.parametrize("longer", [False, True], ids=["alone", "beside a longer series"])
def test_a_path_jumps_where_rows_share_a_time(rows, longer):
    others = [[(t, t + 1.0) for t in range(6)]] if longer else []
    paths = paths_of(rows, *others)
    times, values = np.array(rows, dtype=float).T
    query = np.array([0.5, 0.999, 1.001, 1.5, 2.0, 2.5, 7.0])
    expected = np.interp(query, times, values)
    np.testing.assert_allclose(at(paths, 0, query)[:, 0], expected, rtol=1e-12)
    # at the time itself, and after it: the last of the rows there
    last = values[times == times[-1]][-1]
    assert at(paths, 0, [times[-1]])[0, 0] == last


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("varies", [True, False])
def test_a_reader_reads_the_paths(varies, dtype):
    """Of some series, in any order, at times of their own or one of all; before, between, at and after rows."""
    rng = np.random.default_rng(3)
    series = [random_series(rng, n) for n in (1, 4, 9, 2)]
    for rows in series:
        rows[:, 1:] = rows[:, 1:] if varies else [0.3, -2.0]
    paths = paths_of(*series)
    assert (paths.times.shape[1] > 1) == varies
    paths = CovariatePaths(paths.times, paths.values.to(dtype))
    chosen = torch.tensor([2, 0, 3, 2, 1, 2])
    reader = PathReader(paths, chosen)
    some = torch.tensor([4, 0, 3])
    knots = paths.times[torch.isfinite(paths.times)].tolist()
    for t in (-1.0, *knots, 0.7, 50.0, rng.uniform(-1.0, 10.0, len(chosen))):
        times = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1).expand(len(chosen), 1)
        expected = paths.at(chosen, times).numpy().T
        out = np.empty(expected.shape, expected.dtype)
        reader.write(t, out)
        np.testing.assert_allclose(out, expected, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=1e-14)
        part = out[:, :3].copy()
        reader.take(some).write(t if np.ndim(t) == 0 else t[some.numpy()], part)
        np.testing.assert_array_equal(part, out[:, some.numpy()])


def test_constant_covariates_take_one_knot():
    paths = paths_of([(0, 3, 1), (1, 3, 1), (2, 3, 1)], [(0, 5, 2)])
    assert paths.times.shape == (2, 1)
    np.testing.assert_array_equal(at(paths, 0, [-1, 0.5, 9]), [[3, 1]] * 3)
    np.testing.assert_array_equal(at(paths, 1, [-1, 0.5, 9]), [[5, 2]] * 3)


def test_one_series_that_varies_keeps_all_knots():
    paths = paths_of([(0, 3), (1, 3)], [(0, 5), (1, 6)])
    assert at(paths, 1, [0.5])[0, 0] == pytest.approx(5.5)
    assert at(paths, 0, [0.5])[0, 0] == 3


def test_a_series_without_rows_has_the_mean():
    panel = Panel.of(np.array([0, 1, 1]), np.array([0.0, 0.0, 1.0]), np.array([[3.0], [4.0], [5.0]]), np.zeros((3, 1)))
    for kept in (panel.codes == 1, panel.codes == 0, panel.codes < 0):
        y = np.where(kept[:, None], 0.0, np.nan)
        part = Panel(panel.ids, panel.origins, panel.codes, panel.time, panel.covariates, y).observed()
        paths = CovariatePaths.of(part, 1.0, torch.float64, CPU)
        for i in set(range(2)) - set(part.codes):
            np.testing.assert_array_equal(at(paths, i, [-1.0, 0.0, 0.5, 3.0]), np.zeros((4, 1)))


# Dynamics


def field_of(activation="silu", n_features=3, n_covariates=2, hidden=(5, 4)):
    return DrivenField(n_features, n_covariates, hidden, activation, torch.Generator().manual_seed(0)).double()


@pytest.fixture
def paths():
    rng = np.random.RandomState(4)
    return paths_of(*[random_series(rng, n) for n in (6, 3, 1, 4)])


def states_of(n=4, size=3, seed=5):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_layers(field, z, u):
    x = torch.cat([z, u], dim=1)
    h = {"tanh": torch.tanh, "silu": torch.nn.functional.silu}[field.activation]
    for i, layer in enumerate(field.layers):
        x = layer(x if i == 0 else h(x))
    return x


def test_the_field_is_a_perceptron_of_state_and_covariates(paths):
    field = field_of()
    dynamics = field.along(paths)
    t = torch.tensor([0.1, 0.7, 1.0, 2.9], dtype=torch.float64)[:, None]
    z = states_of()
    torch.testing.assert_close(dynamics(t, z), by_layers(field, z, paths.at(torch.arange(4), t)))
    # some of the series, in another order, at one time
    some = dynamics.take(torch.tensor([3, 1]))(torch.tensor(0.7, dtype=torch.float64), z[[3, 1]])
    u = paths.at(torch.tensor([3, 1]), torch.full((2, 1), 0.7, dtype=torch.float64))
    torch.testing.assert_close(some, by_layers(field, z[[3, 1]], u))


def test_copies_of_all_series_follow_the_same_paths(paths):
    field = field_of()
    dynamics = field.along(paths)
    z, t = torch.randn(12, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64), torch.full((12, 1), 0.7)
    copies = [dynamics(t[:4].double(), part) for part in z.split(4)]
    torch.testing.assert_close(field.along(paths, 3)(t.double(), z), torch.cat(copies))


@pytest.mark.parametrize("activation", ["silu", "tanh"])
def test_its_pullback_is_autograds(paths, activation):
    field = field_of(activation)
    dynamics = field.along(paths)
    t = torch.tensor([0.1, 0.7, 1.0, 2.9], dtype=torch.float64)[:, None]
    state = states_of().requires_grad_()
    cotangents = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    tape, total = [], 0.0
    for k, shift in enumerate((0.0, 0.4)):
        value = dynamics(t + shift, state)
        total = total + (value * cotangents[k]).sum()
        with torch.no_grad():
            linear, residuals = dynamics.linearize(t + shift, state.detach())
            grad, deltas = dynamics.pullback(residuals, cotangents[k])
        torch.testing.assert_close(linear, value.detach(), rtol=1e-12, atol=1e-12)
        (expected,) = torch.autograd.grad((value * cotangents[k]).sum(), state, retain_graph=True)
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-12)
        tape.append((residuals, deltas))
    with torch.no_grad():
        gradients = dynamics.parameter_gradients(tape)
    expected = torch.autograd.grad(total, dynamics.parameters())
    assert len(gradients) == len(expected) == 6
    for ours, autograds in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, autograds, rtol=1e-10, atol=1e-12)
    assert [id(p) for p in dynamics.parameters()] == [id(p) for p in field.parameters()]


def solved(field, paths, z0, *, step_control="shared", adjoint="discrete", method="dopri5", tol=1e-9, **options):
    dynamics = field.along(paths)
    ends = torch.tensor([3.0, 2.0, 1.0, -1.5], dtype=torch.float64)
    span = torch.stack([torch.zeros_like(ends), ends], dim=1)
    times = ends[:, None] * torch.tensor([0.3, 1.0], dtype=torch.float64)
    return solve_ivp(
        dynamics,
        span,
        z0,
        t_eval=times,
        rtol=tol,
        atol=tol,
        step_control=step_control,
        adjoint=adjoint,
        method=method,
        **options,
    ).y


@pytest.mark.parametrize("activation", ["silu", "tanh"])
@pytest.mark.parametrize(
    ("adjoint", "options", "accuracy"),
    [
        ("discrete", {"method": "rk4", "step_size": 0.1}, 1e-10),
        ("discrete", {"tol": 1e-6}, 1e-6),  # rounding moves steps, which matters near the paths' bends
        ("continuous", {"tol": 1e-8}, 1e-4),
    ],
)
def test_gradients_through_a_solve_are_those_of_backpropagation(paths, activation, adjoint, options, accuracy):
    field = field_of(activation)
    answers = []
    for chosen in ("backprop", adjoint):
        z0 = torch.randn(4, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64, requires_grad=True)
        y = solved(field, paths, z0, adjoint=chosen, **options)
        loss = (y**2 * torch.arange(1.0, 4.0, dtype=torch.float64)).sum()
        answers.append((y.detach(), torch.autograd.grad(loss, [z0, *field.parameters()])))
    torch.testing.assert_close(answers[1][0], answers[0][0], rtol=accuracy, atol=accuracy)
    for ours, expected in zip(answers[1][1], answers[0][1], strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(ours, expected, rtol=accuracy, atol=accuracy * float(expected.abs().max()))


def test_a_state_driven_by_a_path_is_its_integral(paths):
    field = field_of(n_features=2, n_covariates=2, hidden=())
    with torch.no_grad():
        field.layers[0].weight.copy_(torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1]]))
        field.layers[0].bias.zero_()
        z0 = torch.zeros(4, 2, dtype=torch.float64)
        ends = torch.tensor([3.0, 2.0, 1.0, 5.0], dtype=torch.float64)
        dynamics = field.along(paths)
        span = torch.stack([torch.zeros_like(ends), ends], dim=1)
        for step_control in ("shared", "per_sample"):
            y = solve_ivp(
                dynamics,
                span,
                z0,
                t_eval=ends[:, None],
                rtol=1e-8,
                atol=1e-8,
                step_control=step_control,
            ).y[:, 0]
            for i, end in enumerate(ends.tolist()):
                fine = np.linspace(0, end, 40_001)
                expected = np.trapezoid(at(paths, i, fine), fine, axis=0)
                np.testing.assert_allclose(y[i], expected, atol=1e-5)


def test_shared_and_own_steps_agree(paths):
    field = field_of()
    z0 = torch.randn(4, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    with torch.no_grad():
        shared, own = (solved(field, paths, z0, step_control=control) for control in ("shared", "per_sample"))
        backward = solved(field, paths, z0, step_control="per_sample")[[3]]
    torch.testing.assert_close(shared, own, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(backward).all()


def test_an_answer_of_its_own_steps_does_not_depend_on_the_other_series(paths):
    field = field_of()
    z0 = torch.randn(2, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ends = torch.tensor([3.0, 2.0], dtype=torch.float64)
    span = torch.stack([torch.zeros_like(ends), ends], dim=1)

    def last(series):
        part = CovariatePaths(paths.times[series], paths.values[series])
        dynamics = field.along(part)
        solution = solve_ivp(dynamics, span[series], z0[series], t_eval=span[series, 1:], step_control="per_sample")
        return solution.y[:, 0]

    with torch.no_grad():
        torch.testing.assert_close(last([0, 1])[[1]], last([1]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_every_method_tells_the_series_apart(method, step_control):
    values = [5.0, -3.0, 1.0, 0.5, 2.0, -1.0]
    paths = paths_of(*[[(0.0, v), (1.0, 2 * v)] for v in values])
    field = field_of(n_features=2, n_covariates=1, hidden=(4,))
    z0 = torch.randn(6, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    span = torch.tensor([[0.0, 0.1 + 0.9 * share] for share in (1.0, 0.2, 0.6, 0.0, 0.8, 0.4)], dtype=torch.float64)
    dynamics = field.along(paths)
    options = {} if METHODS[method].adaptive else {"step_size": 0.04}
    with torch.no_grad():
        y, expected = (
            solve_ivp(dynamics, span, z0, t_eval=span[:, 1:], rtol=1e-4, atol=1e-5, method=m, **o).y
            for m, o in ((method, options | {"step_control": step_control}), ("dopri5", {}))
        )
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("lost", [torch.nan, torch.inf, -torch.inf])
def test_a_state_that_is_lost_has_rates_that_are_and_leaves_the_others_theirs(paths, lost):
    along = DrivenField(2, paths.values.shape[2], (5,), "tanh", torch.Generator().manual_seed(0)).double().along(paths)
    states = torch.zeros(len(paths.times), 2, dtype=torch.float64)
    broken = states.clone()
    broken[1] = lost
    with torch.no_grad():
        rates, expected = along(torch.tensor(0.5), broken), along(torch.tensor(0.5), states)
    others = torch.arange(len(states)) != 1
    torch.testing.assert_close(rates[others], expected[others], rtol=0.0, atol=0.0)
    assert not torch.equal(rates[1], expected[1])


def test_a_series_that_starts_from_nan_is_nan_and_the_others_are_solved(paths):
    along = DrivenField(2, paths.values.shape[2], (5,), "tanh", torch.Generator().manual_seed(0)).double().along(paths)
    start = torch.zeros(len(paths.times), 2, dtype=torch.float64)

    class Broken:
        """The first series' rates are lost on the way."""

        def __init__(self, along):
            self.along = along

        def take(self, rows):
            return Broken(self.along.take(rows))

        def __call__(self, t, z):
            lost = (self.along.series[:, None] == 0) & (torch.as_tensor(t).reshape(-1, 1) > 0.5)
            return torch.where(lost, torch.nan, self.along(t, z))

    options = {"step_control": "per_sample", "on_failure": "nan", "t_eval": [1.0]}
    with torch.no_grad():
        end, expected = (solve_ivp(f, (0.0, 1.0), start, **options).y[-1] for f in (Broken(along), along))
    assert end[0].isnan().all()
    torch.testing.assert_close(end[1:], expected[1:])


def test_driven_solves_are_fused(monkeypatch):
    rng = np.random.RandomState(0)
    driven = DrivenField(3, 2, (5, 4), "silu", torch.Generator().manual_seed(0)).double()
    func = driven.along(paths_of(*(random_series(rng, n) for n in (6, 2, 1, 4))))
    y0 = torch.from_numpy(rng.normal(size=(4, 3))).requires_grad_()
    start = torch.from_numpy(rng.uniform(0, 1, size=(4, 1)))
    spans = torch.cat([start, start + torch.tensor([[1.0], [2.0], [0.5], [3.0]])], dim=1)
    t_eval = start + (spans[:, 1:] - start) * torch.tensor([[0.2, 0.5, 1.0]]).double()
    paths, parameters = Paths(monkeypatch), list(driven.parameters())
    paths.compare(func, parameters, y0, spans, t_eval, close=1e-6, rtol=1e-7)
    paths.compare(func, parameters, y0, (0.0, 2.0), [0.5, 2.0], close=1e-6, rtol=1e-7)
