"""Features together, drawn at random, against solutions in closed form.

The field is linear with coefficients that jump, ``y' = A_k y + b_k`` in the k-th piece of time, so that its solution is
a product of matrix exponentials, which autograd differentiates: by the initial state, the matrices, the ends of the
span, the output times, and the times of the jumps.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from skode.solvers import odeint, solve_ivp

N_CASES = 60
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
