r"""Which terms a polynomial needs, by the evidence on the quadratic form that the log-likelihood has at an optimum.

Precisions that are updated along a descent end in a local optimum of the evidence: a term once taken for superfluous
has no way back. Near an optimum with unknowns ``u``, gradient ``g`` and information ``A`` the log-likelihood is that of
a linear regression,

.. math:: \log L(w) \approx \text{const} + b^T w - \frac12 w^T A w, \qquad b = A u - g,

in which terms are added, dropped and weighed one at a time, whichever step gains most evidence (M. E. Tipping, A. C.
Faul, "Fast marginal likelihood maximisation for sparse Bayesian models", AISTATS 2003), without a solve. It starts from
no term, so that the answer does not depend on those that the optimum has.
"""

from __future__ import annotations

import numpy as np

from skode.equations.fitting import Optimum
from skode.equations.inference import Estimate, quadratic_form
from skode.equations.levenberg_marquardt import Task
from skode.equations.prior import LEAST_PRECISION

#: Steps at most, and the gain below which they end, in nats.
MOST_STEPS, LEAST_GAIN = 500, 1e-3
#: Gain of the evidence, in nats, that another selection must promise to be tried.
WORTH_A_TRY = 0.5


def better_terms(
    task: Task, optimum: Optimum, precision: np.ndarray, degrees: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights and precisions of a selection of terms that promises a larger evidence; None: there is none.

    Parameters
    ----------
    task : Task
        Problem that was solved.
    optimum : Optimum
        Where it ended.
    precision : ndarray of shape (n_shared,)
        Precisions there: infinite for terms that were dropped, 0 for unknowns without a prior.
    degrees : ndarray of int, of shape (n_shared,)
        Of each term its degree; 0 for unknowns without a prior. Terms up to each degree are tried by themselves.
    """
    A, g = quadratic_form(task, Estimate(optimum.shots, optimum.scale, ~optimum.held(task)))
    b = A @ optimum.u[0, : len(A)] - g
    selections = []
    for degree in range(1, int(degrees.max(initial=0)) + 1):
        tried, inside = np.where(precision == 0.0, 0.0, np.inf), degrees <= degree
        tried[inside] = greedy(A[np.ix_(inside, inside)], b[inside], tried[inside])
        selections.append(tried)
    promised = [evidence(A, b, tried) for tried in selections]
    if not max(promised, default=-np.inf) > evidence(A, b, precision) + WORTH_A_TRY:
        return None
    best = selections[int(np.argmax(promised))]
    chosen = np.isfinite(best)
    weights = np.zeros(len(b))
    weights[chosen] = np.linalg.solve(_posterior(A, best, chosen), b[chosen])
    return weights, best


def evidence(A: np.ndarray, b: np.ndarray, precision: np.ndarray) -> float:
    """Logarithm of the evidence of a linear regression but for a constant, without terms of infinite precision."""
    chosen = np.isfinite(precision)
    H, own = _posterior(A, precision, chosen), precision[chosen]
    density = np.log(own[own > 0.0]).sum()
    return float(0.5 * (b[chosen] @ np.linalg.solve(H, b[chosen]) + density - np.linalg.slogdet(H)[1]))


def _posterior(A: np.ndarray, precision: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    H = A[np.ix_(chosen, chosen)] + np.diag(precision[chosen])
    return H + 1e-13 * np.diag(np.diagonal(H))


def greedy(A: np.ndarray, b: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Precisions of the largest evidence that single steps reach; those of 0 stay."""
    precision, held = precision.copy(), precision == 0.0
    for _ in range(MOST_STEPS):
        sparsity, quality = _statistics(A, b, precision)
        with np.errstate(all="ignore"):
            best = np.where(quality**2 > sparsity, sparsity**2 / (quality**2 - sparsity), np.inf)
            best = np.maximum(best, LEAST_PRECISION)
            gain = _share(best, sparsity, quality) - _share(precision, sparsity, quality)
        gain = np.where(held | np.isnan(gain), -np.inf, gain)
        i = int(np.argmax(gain))
        if not gain[i] >= LEAST_GAIN:
            break
        precision[i] = best[i]
    return precision


def _share(precision: np.ndarray, sparsity: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Of the logarithm of the evidence the share that depends on one precision, others as they are."""
    whole = precision + sparsity
    return np.where(np.isinf(precision), 0.0, 0.5 * (np.log(precision / whole) + quality**2 / whole))


def _statistics(A: np.ndarray, b: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tipping and Faul's s and q of each term: its information, and its gradient, beside all other terms."""
    chosen = np.isfinite(precision)
    covariance = np.linalg.inv(_posterior(A, precision, chosen))
    among = A[:, chosen]
    S = np.diagonal(A) - ((among @ covariance) * among).sum(axis=1)
    Q = b - among @ (covariance @ b[chosen])
    with np.errstate(all="ignore"):
        factor = np.where(chosen & (precision > 0.0), precision / (precision - S), 1.0)
    return np.maximum(factor * S, 0.0), factor * Q
