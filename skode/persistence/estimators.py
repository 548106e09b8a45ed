"""Estimators in files, and what pickles and skops hold of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import numpy as np
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils.metadata_routing import MetadataRequest

from skode.persistence.archive import archive_of, content_of, read_archive, write_archive
from skode.persistence.classes import name_of
from skode.persistence.codecs.objects import parameters_of, set_defaults
from skode.persistence.decoder import in_terms_of_the_file
from skode.persistence.errors import DamagedFileError, IncompatibleFileError
from skode.version import __version__

KIND = "estimator"

#: Attributes that files do not hold: scikit-learn's callbacks of a fit in this process, and a path that a fit writes
#: to, which a file of others must not choose.
LEFT_OUT = ("_skl_callbacks", "_callback_fit_ctx", "_parent_callback_ctx", "_skl_callbacks_to_teardown", "checkpoint")

#: The attribute that holds what an estimator requests by scikit-learn's metadata routing.
REQUESTS = "_metadata_request"

#: Whether a state is to be pickled or copied, rather than saved by skops.
_for_pickle: ContextVar[bool] = ContextVar("_for_pickle", default=False)


class InconsistentSkodeVersionWarning(InconsistentVersionWarning):
    """An estimator is unpickled that another version of skode pickled.

    Parameters
    ----------
    estimator_name : str
        Name of the class.
    current_version, original_version : str
        The version of skode, and the one that the pickle was made with.
    """

    def __init__(self, *, estimator_name: str, current_version: str, original_version: str) -> None:
        self.estimator_name = estimator_name
        self.current_version = current_version
        self.original_version = original_version

    def __str__(self) -> str:
        return (
            f"This pickle of {self.estimator_name} was made with {self.original_version} of skode, and is loaded with "
            f"version {self.current_version}: it may fail or predict otherwise. Pickles are for one version; to keep "
            "an estimator, save it by its method save, and load it by skode.load."
        )


class SavableEstimator:
    """Base of estimators that can be saved to files, and pickled with the version of skode."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the estimator to a file that :func:`skode.load` reads, without pickle.

        The file holds parameters and fitted attributes: a fitted estimator predicts and goes on from there as this one
        would. Callbacks and the parameter ``checkpoint`` are left out. A file that is there is replaced once the new
        one is complete.

        Parameters
        ----------
        path : str or PathLike
            The file, with any ending, such as ``"model.skode"``.

        Raises
        ------
        UnsavableError
            If a parameter or attribute is something that files do not hold, such as a lambda; the message names it.
        OSError
            If the file can't be written. A former file is left as it was.

        See Also
        --------
        skode.load : Loads the file.
        """
        write_archive(path, self, kind=KIND)

    def __reduce_ex__(self, protocol: Any) -> Any:
        token = _for_pickle.set(True)
        try:
            return super().__reduce_ex__(protocol)
        finally:
            _for_pickle.reset(token)

    def __getstate__(self) -> dict[str, Any]:
        """State to pickle, with the version of skode; for skops, which asks for it by itself, arrays and types."""
        if _for_pickle.get():
            state = {**super().__getstate__(), "_skode_version": __version__}  # type: ignore[dict-item]
            state.pop("_checkpoint", None)  # that of a fit under way, which callbacks may pickle
            return state
        archive, users = archive_of(self, kind=KIND)
        return {"archive": np.frombuffer(archive, dtype=np.uint8), "users": users}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state.keys() >= {"archive", "users"}:
            found = content_of(state["archive"].tobytes(), kind=KIND, trusted=state["users"])
            if type(found) is not type(self):
                raise DamagedFileError(f"An archive of {type(self).__name__} holds a {type(found).__name__}.")
            _complete("The archive", found)
            state = vars(found)
        else:
            state = dict(state)
            version = state.pop("_skode_version", None)
            if version != __version__:
                warnings.warn(
                    InconsistentSkodeVersionWarning(
                        estimator_name=type(self).__name__,
                        current_version=__version__,
                        original_version="an older version" if version is None else f"version {version}",
                    ),
                    stacklevel=2,
                )
        self.__dict__.update(state)

    def _state_in_files(self) -> dict[str, Any]:
        """Attributes by name, without those that files do not hold."""
        state = SavableEstimator.__reduce_ex__(self, 2)[2]
        if REQUESTS in state:
            state[REQUESTS] = _requests(state[REQUESTS])
        return {name: value for name, value in state.items() if name not in (*LEFT_OUT, "_skode_version")}


def load(path: str | os.PathLike[str], trusted: Iterable[Any] = ()) -> Any:
    """Load an estimator from a file that its method ``save`` wrote.

    No code runs that the file names, whatever it holds, and a file that is damaged is refused. Files of all older
    versions of skode are read, and parameters that these did not have take their defaults. Whatever was on another
    device is on the CPU.

    Parameters
    ----------
    path : str or PathLike
        The file.
    trusted : iterable of str, class or function, default=()
        Classes and functions of your own that the estimator needs, such as a field's class or a right-hand side: by
        name, such as ``"package.module.Name"``, which is then imported, or themselves.

    Returns
    -------
    estimator
        The estimator.

    Raises
    ------
    UntrustedError
        If the file needs classes or functions that are neither skode's nor in ``trusted``; the message names them all.
    DamagedFileError
        If the file is not what was written.
    ForeignFileError
        If skode did not write it, or it holds something else.
    IncompatibleFileError
        If it was written with a newer version of skode.
    TypeError
        If ``trusted`` is not a list of names, classes or functions.
    OSError
        If it can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import skode
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = skode.ODENetClassifier(max_iter=5, alpha=1.0, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     classifier.save(f"{folder}/iris.skode")
    ...     loaded = skode.load(f"{folder}/iris.skode")
    >>> bool((loaded.predict_proba(X) == classifier.predict_proba(X)).all())
    True
    """
    found = read_archive(path, kind=KIND, trusted=trusted)
    if not isinstance(found, SavableEstimator):
        raise DamagedFileError(f"{os.fspath(path)} holds a {type(found).__name__}, which is no estimator.")
    _complete(os.fspath(path), found)
    return found


def _complete(path: str, estimator: Any) -> None:
    """Set parameters that a file does not hold to their defaults, and refuse those that only its version had."""
    cls, state = type(estimator), vars(estimator)
    for name in LEFT_OUT:
        state.pop(name, None)
    unknown = [name for name in state if not (name.startswith("_") or name.endswith("_") or name in parameters_of(cls))]
    if unknown and name_of(cls) is not None:
        raise IncompatibleFileError(
            f"{path} holds parameters of {cls.__name__} that skode {__version__} does not know: {', '.join(unknown)}."
        )
    set_defaults(cls, state)
    if REQUESTS in state:
        state[REQUESTS] = in_terms_of_the_file(lambda: _requests_again(estimator, state[REQUESTS]))


def _requests(request: MetadataRequest) -> dict[str, dict[str, Any]]:
    """Requests of scikit-learn's metadata routing, by methods and parameters."""
    by_method = {name: getattr(own, "requests", None) for name, own in vars(request).items()}
    return {name: dict(requests) for name, requests in by_method.items() if requests}


def _requests_again(estimator: Any, requests: dict[str, dict[str, Any]]) -> MetadataRequest:
    """The requests, as an object of scikit-learn, which refers back to the estimator."""
    found = MetadataRequest(owner=estimator)
    for method, parameters in requests.items():
        for parameter, alias in parameters.items():
            vars(found)[method].add_request(param=parameter, alias=alias)
    return found
