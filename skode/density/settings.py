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


#: Epochs, and the number of samples beyond which there are fewer, so that updates stay as many; but these at least.
EPOCHS, MANY, LEAST_EPOCHS = 70, 25_000, 10

#: How many times the estimator's tolerance that of training is where samples are many. Gradients of batches then vary
#: from one to the next by much more than errors of the solver move them.
LOOSER = 10.0


def auto_max_iter(n_samples: int) -> int:
    """Largest number of epochs."""
    return max(min(EPOCHS, round(EPOCHS * MANY / n_samples)), LEAST_EPOCHS)


def is_many(n_samples: int) -> bool:
    """Whether there are so many samples that training takes long, and no single one of them is followed soon."""
    return n_samples > MANY
