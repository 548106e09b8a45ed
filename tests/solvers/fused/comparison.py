"""A solve by the fused path and by the other one."""

import torch

from skode.solvers import engine, solve_ivp


class Paths:
    """Solves by both paths, and notes which of them were fused."""

    def __init__(self, monkeypatch):
        self.fused = engine.fused_solve
        self.taken = []
        monkeypatch.setattr(engine, "fused_solve", self._solve)
        self.allowed = True

    def _solve(self, problem):
        found = self.fused(problem) if self.allowed else None
        self.taken.append(found is not None)
        return found

    def compare(self, func, parameters, y0, span, t_eval, close=1e-9, **settings):
        """Solve and differentiate by both paths; the fused one is to be taken, and to answer the same."""
        found = []
        for self.allowed in (True, False):
            solution = solve_ivp(func, span, y0, t_eval=t_eval, **settings)
            assert self.taken[-1] is self.allowed
            y = torch.nan_to_num(solution.y)
            weights = torch.linspace(0.5, 1.0, y.numel(), dtype=y.dtype).view(y.shape)
            gradients = torch.autograd.grad((y * weights).sum(), [y0, *parameters])
            found.append((y.detach(), gradients, solution.statistics))
        self.allowed = True
        (y, gradients, statistics), (y_other, gradients_other, statistics_other) = found
        for one, other in zip([y, *gradients], [y_other, *gradients_other], strict=True):
            torch.testing.assert_close(one, other, rtol=close, atol=close * float(other.abs().max()))
        assert statistics == statistics_other
        return statistics
