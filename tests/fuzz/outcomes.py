"""How calls of an estimator end, and which of these ends are bad."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import NotFittedError

from skode.solvers import SolverError

#: Seconds of computing after which a call counts as one that hangs.
PATIENCE = 20.0

#: Ends of a call, from good to bad.
FINITE, WARNED, REFUSED = "finite answer", "answer with a warning", "error that names its cause"
NOT_FINITE = "BAD: NaN or infinity without a warning"
WRONG = "BAD: an answer that can't be right"
NUMPY_WARNING = "BAD: a warning of NumPy's, SciPy's or torch's own"
RAW_ERROR = "BAD: an error that nobody raised on purpose"
NAMELESS = "BAD: an error that names nothing"
HANG = "BAD: a hang"
ENDS = (FINITE, WARNED, REFUSED, NUMPY_WARNING, NAMELESS, NOT_FINITE, WRONG, RAW_ERROR, HANG)

#: Errors that say what is wrong, if their message names it.
TYPED = (ValueError, TypeError, AttributeError, MemoryError, SolverError, NotFittedError)

#: What messages may name beside parameters and columns, these in scikit-learn's words.
ARGUMENTS = frozenset({"X", "y", "y_true", "sample_weight", "Sample weights", "sample(s)", "feature(s)", "covariate"})

#: What messages of some calls may name as well.
ARGUMENTS_OF = {
    "partial_fit": {"classes"},
    "log_prob": {"t"},
    "trajectory": {"t"},
    "sample": {"n_samples", "n_series", "times", "covariates"},
    "sample_y": {"n_samples"},
}


class HangError(BaseException):
    """A call took longer than anyone waits."""


@dataclass(frozen=True)
class End:
    """How one call ended.

    Attributes
    ----------
    kind : str
        One of :data:`ENDS`.
    step : str
        Which call.
    detail : str
        The error, the warnings, or what is wrong with the answer.
    """

    kind: str
    step: str
    detail: str

    @property
    def bad(self) -> bool:
        """Whether it should not have ended so."""
        return self.kind.startswith("BAD")


class WrongAnswerError(Exception):
    """An answer contradicts what is known of it."""


def attempt(step: str, call: Callable[[], Any], names: set[str]) -> End:
    """Make a call, and judge how it ends.

    Parameters
    ----------
    step : str
        What the call is, for the report.
    call : callable
        Without arguments; returns an answer, of arrays and numbers that should be finite.
    names : set of str
        Names of parameters and columns, one of which an error should have.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with deadline(PATIENCE), contextlib.redirect_stdout(io.StringIO()):
                answer = call()
        except HangError as hang:
            return End(HANG, step, f"more than {PATIENCE:g} s at {_place(hang)}")
        except WrongAnswerError as wrong:
            return End(WRONG, step, str(wrong))
        except Exception as error:
            return End(
                _kind_of(error, names | ARGUMENTS | ARGUMENTS_OF.get(step, set())),
                step,
                f"{type(error).__name__}: {error} [{_place(error)}]",
            )
    told = "; ".join(f"{w.category.__name__}: {w.message}" for w in caught)
    foreign = [w for w in caught if issubclass(w.category, RuntimeWarning | FutureWarning | DeprecationWarning)]
    if foreign:
        return End(NUMPY_WARNING, step, f"{told} [{foreign[0].filename}:{foreign[0].lineno}]")
    if not is_finite(answer):
        # That training has not converged, or has diverged, does not announce an answer without a value.
        return End(WARNED if caught and "fit" not in step else NOT_FINITE, step, told or "no warning")
    return End(WARNED if caught else FINITE, step, told)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise HangError in what computes for longer, however busy the machine is with other things."""

    def ring(*_: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def is_finite(answer: Any) -> bool:
    """Whether all numbers in an answer are finite."""
    if answer is None or isinstance(answer, str):
        return True
    if isinstance(answer, tuple | list):
        return all(is_finite(part) for part in answer)
    if isinstance(answer, pd.DataFrame):
        return all(is_finite(column.to_numpy()) for _, column in answer.items())
    array = np.asarray(answer)
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def _kind_of(error: Exception, names: set[str]) -> str:
    """Whether an error was raised on purpose, and names what it is about."""
    frame = _innermost(error)
    raised = linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise")
    if not isinstance(error, TYPED) or not raised or not re.search(r"/(skode|sklearn)/", frame.filename):
        return RAW_ERROR
    named = any(re.search(rf"(?<!\w)(?<!n'){re.escape(name)}(?!\w)", str(error)) for name in names)
    return REFUSED if named else NAMELESS


def _innermost(error: BaseException) -> traceback.FrameSummary:
    return traceback.extract_tb(error.__traceback__)[-1]


def _place(error: BaseException) -> str:
    """Where an error comes from: the last lines of skode on the way, and the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/skode/" in frame.filename][-2:]
    chosen = ours + [frames[-1]] * (frames[-1] not in ours)
    return " > ".join(f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}" for frame in chosen)
