"""The line that ``verbose`` prints for an epoch."""

from __future__ import annotations

from skode.training.stopwatch import in_words


def epoch_line(
    epoch: int,
    n_epochs: int | None,
    loss: float,
    *,
    score: float | None = None,
    nfe: tuple[float, float] | None = None,
    seconds: float,
    phase: str = "",
) -> str:
    """One line about one epoch, in columns that stand below each other.

    Parameters
    ----------
    epoch : int
        Its number, from 1.
    n_epochs : int or None
        How many there will be at most; None where nobody knows.
    loss : float
        The mean training loss.
    score : float, default=None
        The validation score, where there is a validation set.
    nfe : tuple of two floats, default=None
        Mean evaluations of the vector field per solve and per gradient, where anything was solved.
    seconds : float
        How long it took, validation included.
    phase : str, default=""
        Name of the phase of training, where there are several.

    Returns
    -------
    str
        The line.

    Examples
    --------
    >>> from skode.training.progress import epoch_line
    >>> print(epoch_line(3, 50, 0.25, score=0.9, nfe=(20.0, 19.5), seconds=0.125))
    Epoch  3/50: loss 0.250000, validation score 0.900000, evaluations 20.0 forward + 19.5 backward, 0.12 s
    """
    number = f"{epoch}" if n_epochs is None else f"{epoch:{len(str(n_epochs))}d}/{n_epochs}"
    parts = [f"loss {loss:.6f}"]
    if score is not None:
        parts.append(f"validation score {score:.6f}")
    if nfe is not None:
        parts.append(f"evaluations {nfe[0]:.1f} forward + {nfe[1]:.1f} backward")
    parts.append(f"{seconds:.2f} s")
    return f"{phase}{': epoch' if phase else 'Epoch'} {number}: {', '.join(parts)}"


def time_so_far(in_all: float, left: float | None = None) -> str:
    """The time so far and the time left, as printed behind the line of an epoch.

    Parameters
    ----------
    in_all : float
        Seconds since the fit began.
    left : float, default=None
        Estimate of the seconds that the fit will still take, if all epochs are run; None where nobody knows.

    Returns
    -------
    str
        The text.

    Examples
    --------
    >>> from skode.training.progress import time_so_far
    >>> time_so_far(6.1, 94.0)
    '6.1 s in all, about 1 min 34 s left'
    """
    return f"{in_words(in_all)} in all" + ("" if left is None else f", about {in_words(left)} left")
