"""Training settings that a flow takes from the number of samples where the user gives none."""

from __future__ import annotations

#: The kinetic energy's automatic strength, times the number of samples, and its bounds.
PRIOR_SAMPLES, LEAST_ENERGY, MOST_ENERGY = 600.0, 0.01, 1.0


def auto_batch_size(n_samples: int) -> int:
    """Number of samples in a batch."""
    return min(max(n_samples // 40, 32), 256)


def auto_kinetic_energy(n_samples: float) -> float:
    """Strength of the penalty on the kinetic energy; the sum of the samples' weights may stand for their number."""
    return min(max(PRIOR_SAMPLES / n_samples, LEAST_ENERGY), MOST_ENERGY)
