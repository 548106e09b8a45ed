"""Features together, drawn at random, against solutions in closed form.

The field is linear with coefficients that jump, ``y' = A_k y + b_k`` in the k-th piece of time, so that its solution is
a product of matrix exponentials, which autograd differentiates: by the initial state, the matrices, the ends of the
span, the output times, the times of the jumps, and the thresholds of events.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from skode.solvers import odeint, solve_ivp

N_CASES = 30
METHODS = ["bosh3", "tsit5", "dopri5", "dopri8", "kvaerno5"]
D = 2


class Pieces:
    """The field and its exact solution."""

    def __init__(self, generator, jumps):
        def draw(*shape):
            return torch.tensor(generator.normal(size=shape), dtype=torch.float64)

        self.jumps = jumps  # ascending
        n = len(jumps) + 1
        self.matrices = (0.7 * draw(n, D, D)).requires_grad_()
        self.offsets = draw(n, D).requires_grad_()

    def __call__(self, t, y):
        k = sum((torch.as_tensor(t) >= jump).long() for jump in self.jumps.tolist())
        k = torch.as_tensor(k).broadcast_to((len(y), 1))[:, 0]
        return torch.einsum("nij,nj->ni", self.matrices[k], y) + self.offsets[k]

    def flow(self, k, y, length):
        """The solution of one piece after some time, by the exponential of an augmented matrix."""
        generator = torch.zeros(D + 1, D + 1, dtype=torch.float64)
        generator[:D, :D], generator[:D, D] = self.matrices[k], self.offsets[k]
        return torch.linalg.matrix_exp(generator * length)[:D] @ torch.cat([y, y.new_ones(1)])

    def solution(self, y, t0, t):
        """The state at ``t`` of the solution that starts from ``y`` at ``t0``."""
        low, high = sorted([t0.item(), t.item()])
        inside = [i for i, jump in enumerate(self.jumps.tolist()) if low < jump < high]
        if t0.item() > t.item():
            inside = inside[::-1]
        ends = [t0, *(self.jumps[i] for i in inside), t]
        for start, end in itertools.pairwise(ends):
            k = int((self.jumps.detach() <= (0.5 * (start + end)).item()).sum())
            y = self.flow(k, y, end - start)
        return y


@pytest.mark.parametrize("seed", range(N_CASES))
def test_values_and_all_gradients_are_the_exact_ones(seed):
    generator = np.random.default_rng(seed)

    def chance(p):
        return bool(generator.random() < p)

    def tensor(values):
        return torch.tensor(np.asarray(values), dtype=torch.float64)

    adjoint = ["discrete", "continuous", "backprop"][seed % 3]
    step_control = "per_sample" if chance(0.5) else "shared"
    method = METHODS[int(generator.integers(len(METHODS)))]
    n = int(generator.integers(1, 4))
    jumps = tensor(np.sort(generator.uniform(0.2, 1.8, size=int(generator.integers(0, 3))))).requires_grad_(chance(0.7))
    own_spans = chance(0.4) and (step_control == "per_sample" or not len(jumps))
    span = generator.uniform([0.0, 1.4], [0.6, 2.0], size=(n, 2))
    span = np.where(generator.random((n, 1)) < 0.4, span[:, ::-1], span)
    span = tensor(span if own_spans else span[0]).requires_grad_(chance(0.7))
    fractions = generator.uniform(size=(n, 3)) if own_spans or chance(0.4) else np.sort(generator.uniform(size=3))
    fractions = np.where(generator.random(fractions.shape) < 0.2, 1.0, fractions)
    fractions = fractions if fractions.ndim == 2 else np.unique(fractions)
    inside = span.detach().numpy()
    t_eval = np.where(fractions == 1.0, inside[..., 1:], inside[..., :1] + np.diff(inside) * fractions)
    t_eval = tensor(t_eval).requires_grad_(chance(0.6))
    t_eval = None if chance(0.15) and not (own_spans and step_control == "shared") else t_eval
    if t_eval is not None and t_eval.ndim == 2 and chance(0.5):
        with torch.no_grad():
            t_eval[0, 0] = math.nan
    field = Pieces(generator, jumps)
    y0 = tensor(generator.normal(size=(n, D))).requires_grad_(chance(0.8))
    settings = {"method": method, "rtol": 1e-9, "atol": 1e-10, "adjoint": adjoint}
    if method == "bosh3":
        settings |= {"rtol": 1e-7, "atol": 1e-8}
    marks = {"jump_t": jumps} if len(jumps) else {}

    spans, times = span.expand(n, 2), t_eval
    if t_eval is not None and not own_spans and t_eval.ndim == 1 and chance(0.2):
        times = torch.cat([span[:1], t_eval])
        y = odeint(field, y0, times, options=marks, **settings)
        spans = torch.stack([span[0], t_eval[-1]]).expand(n, 2)
    else:
        solution = solve_ivp(field, span, y0, t_eval=t_eval, step_control=step_control, **marks, **settings)
        y = solution.y
    if times is None:
        # Of the ends of steps: the first and the last.
        y = (
            y[:, 0] + 2 * torch.stack([own[~own[:, 0].isnan()][-1] for own in y])
            if solution.t.ndim == 2
            else y[0] + 2 * y[-1]
        )
        exact = torch.stack([y0[i] + 2 * field.solution(y0[i], spans[i, 0], spans[i, 1]) for i in range(n)])
    else:
        by_sample = times if times.ndim == 2 else times.expand(n, -1)
        exact = torch.stack(
            [
                torch.stack([field.solution(y0[i], spans[i, 0], t) if t == t else y.new_zeros(D) for t in by_sample[i]])
                for i in range(n)
            ]
        )
        exact = exact if times.ndim == 2 else exact.transpose(0, 1)
        y = torch.where(y.isnan(), 0.0, y)
    torch.testing.assert_close(y, exact, rtol=1e-5, atol=1e-6)
    inputs = {"y0": y0, "matrices": field.matrices, "offsets": field.offsets, "span": span, "jumps": jumps}
    if t_eval is not None:
        inputs["t_eval"] = t_eval
    inputs = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    weights = tensor(generator.normal(size=y.shape))
    found, expected = (
        torch.autograd.grad((weights * x).sum(), list(inputs.values()), allow_unused=True, materialize_grads=True)
        for x in (y, exact)
    )
    for name, ours, wanted in zip(inputs, found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("seed", range(N_CASES))
def test_events_and_outputs_before_a_failure_are_the_exact_ones(seed):
    generator = np.random.default_rng([seed, 1])

    def chance(p):
        return bool(generator.random() < p)

    def tensor(values):
        return torch.tensor(np.asarray(values), dtype=torch.float64)

    adjoint = ["discrete", "continuous", "backprop"][seed % 3]
    per_sample = chance(0.6)
    n = int(generator.integers(1, 4))
    jumps = tensor(np.sort(generator.uniform(0.2, 1.8, size=int(generator.integers(0, 3))))).requires_grad_(chance(0.6))
    spans = tensor(generator.uniform([0.0, 1.5], [0.5, 2.0], size=(n, 2)))
    span = (spans if per_sample and chance(0.5) else spans[0]).requires_grad_(chance(0.7))
    field = Pieces(generator, jumps)
    y0 = tensor(generator.normal(size=(n, D))).requires_grad_(chance(0.8))
    level = (y0.detach()[:, 0].mean() + tensor(generator.normal())).requires_grad_()
    end = 1.3 if chance(0.5) else math.inf  # after which the field is NaN

    def mortal(t, y):
        return torch.where(torch.as_tensor(t) < end, field(t, y), math.nan)

    low, high = spans.detach()[:, 0].max().item(), spans.detach()[:, 1].min().item()
    times = torch.linspace(low + 0.05, high - 0.05, 4, dtype=torch.float64)
    solution = solve_ivp(
        mortal,
        span,
        y0,
        t_eval=times,
        method=METHODS[int(generator.integers(len(METHODS)))] if per_sample else "dopri5",
        rtol=1e-9,
        atol=1e-10,
        adjoint=adjoint,
        step_control="per_sample" if per_sample else "shared",
        events=lambda t, y: y[:, 0] - level,
        step_t=[0.77, 1.01],
        jump_t=jumps if len(jumps) else None,
        on_failure="nan",
    )
    moving, span = span, span.expand(n, 2)
    y = solution.y if solution.t.ndim == 2 else solution.y.transpose(0, 1)
    assert torch.equal(y[..., 0].isnan(), (times > end).expand(n, -1))
    reached = times[times < end]
    exact = torch.stack([torch.stack([field.solution(y0[i], span[i, 0], t) for t in reached]) for i in range(n)])
    y = y[:, : len(reached)]
    torch.testing.assert_close(y, exact, rtol=1e-5, atol=1e-6)
    found = (y * torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)).sum()
    expected = (exact * torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)).sum()
    for i in range(n):
        event_t = solution.t_events[0][i]
        event_t = event_t[~event_t.isnan()]
        first, last = span[i].tolist()
        grid = torch.linspace(first, min(last, end), 400, dtype=torch.float64)[1:]
        signs = torch.sign(torch.stack([field.solution(y0[i], span[i, 0], t)[0] - level for t in grid]).detach())
        assert len(event_t) == int((signs[1:] != signs[:-1]).sum())
        for t in event_t:
            # By the implicit function theorem on the exact solution at the time that was found.
            at = t.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(field.solution(y0[i].detach(), span[i, 0].detach(), at)[0], at)
            missed = field.solution(y0[i], span[i, 0], t.detach())[0] - level
            assert abs(float(missed.detach() / slope)) < 1e-5
            found, expected = found + t, expected - missed / slope
    inputs = {"y0": y0, "matrices": field.matrices, "span": moving, "jumps": jumps, "level": level}
    inputs = {name: x for name, x in inputs.items() if x.requires_grad}
    gradients = (
        torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
        for loss in (found, expected)
    )
    for name, ours, wanted in zip(inputs, *gradients, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
