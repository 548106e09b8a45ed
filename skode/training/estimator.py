"""Base class of the estimators: solver, training settings, callbacks and fitted curves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from torch import Tensor

from skode.distributed.scope import alone
from skode.dynamics.sizes import check_sizes
from skode.persistence.estimators import SavableEstimator
from skode.training.checkpoint import Checkpoint
from skode.training.documentation import documentation_site
from skode.training.loop import train, train_epoch
from skode.training.order import Order
from skode.training.record import Objective, TrainingRecord
from skode.training.settings import AUTO_BATCH_SIZE, TrainingSettings
from skode.training.snapshot import snapshot
from skode.training.solver import Solver
from skode.training.stopwatch import Stopwatch
from skode.training.tensors import resolve_device, resolve_dtype

#: With tolerances below this, networks are trained in float64.
FLOAT32_TOLERANCE = 1e-5

#: Updates after which the running mean of weights is over as many of the last ones as it ever is.
MANY_UPDATES = 10_000


class NeuralODEEstimator(SavableEstimator, CallbackSupportMixin, BaseEstimator):
    """Base of all estimators: a torch module in ``module_``, trained by the one loop through the one solver.

    Subclasses have the parameters named in :data:`skode.training.settings.COMMON_CONSTRAINTS`.
    """

    # Given by subclasses' constructors.
    hidden_layer_sizes: Any
    alpha: float
    batch_size: Any
    learning_rate: str
    learning_rate_init: float
    max_iter: int
    max_time: float | None
    random_state: Any
    shuffle: bool
    tol: float
    verbose: Any
    warm_start: bool
    n_iter_no_change: int | None
    rtol: float
    atol: float
    method: str
    step_size: float | None
    adjoint: str
    checkpoint: Any
    checkpoint_interval: float
    device: str
    dtype: str | None

    module_: torch.nn.Module

    # Of scikit-learn's HTML repr, whose link leads to the API reference of the site.
    _doc_link_module = "skode"
    _doc_link_template = "{site}/api/generated/skode.{estimator_name}.html"

    #: Parameters that the module was built from, by name.
    _built_from: dict[str, Any]

    #: The journal of a fit under way.
    _checkpoint = Checkpoint()

    #: Record of the calls of ``partial_fit`` so far.
    _record: TrainingRecord | None = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"site": documentation_site() or "", "estimator_name": type(self).__name__}

    def _get_doc_link(self) -> str:
        """The address of the estimator's page; empty where the package's metadata name no site."""
        return super()._get_doc_link() if documentation_site() else ""

    def __getstate__(self) -> dict[str, Any]:
        """State to pickle, with the module on the CPU, so that it can be loaded where its device is missing."""
        state = super().__getstate__()
        module, record = state.get("module_"), state.get("_record")
        if module is not None and any(p.device.type != "cpu" for p in module.parameters()):
            state["module_"] = copy.deepcopy(module).cpu()
        if record is not None and record.optimizer_state is not None:
            weights = None if record.weights is None else [weight.cpu() for weight in record.weights]
            state["_record"] = replace(record, optimizer_state=_on_cpu(record.optimizer_state), weights=weights)
        return state

    def __copy__(self) -> Self:
        """A shallow copy, whose module is this one's, on whatever device (pickles have it on the CPU)."""
        return snapshot(self)

    def _hidden_layers(self) -> tuple[int, ...]:
        """``hidden_layer_sizes`` as a tuple of ints; one number stands for one layer."""
        return check_sizes(np.atleast_1d(np.asarray(self.hidden_layer_sizes, dtype=object)).tolist())

    def _is_first_fit(self, architecture: dict[str, Any], *, goes_on: bool) -> bool:
        """Whether a fit makes a new network, rather than training the one there is.

        Parameters
        ----------
        architecture : dict
            The parameters that the network is built from, by name.
        goes_on : bool
            Whether training goes on where there is a network.

        Raises
        ------
        ValueError
            If it would go on with a network of another architecture.
        """
        if not (goes_on and hasattr(self, "module_")):
            return True
        for name, value in architecture.items():
            built = self._built_from.get(name, value)
            if value is not built and value != built:
                raise ValueError(
                    f"{name}={value!r}, but the network that training would go on with was built with {built!r}; "
                    "build a new one by warm_start=False, or with a clone of the estimator."
                )
        return False

    def _device_and_dtype(self, X: Any, *, first: bool) -> tuple[torch.device, torch.dtype]:
        """Where to train, and the dtype of predictions; that of the network there is where ``dtype`` is None."""
        device = resolve_device(self.device)
        if first or self.dtype is not None:
            return device, resolve_dtype(self.dtype, X, device)
        return device, next(self.module_.parameters()).dtype

    def _training_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype to train in: float32, unless ``dtype`` is given or the tolerances are too tight for it.

        A network's weights need no more, and float32 is twice as fast; predictions are computed in X's dtype.
        """
        if self.dtype is not None or min(self.rtol, self.atol) < FLOAT32_TOLERANCE:
            return dtype
        return torch.float32

    def _batch_size(self, n_samples: int, auto: int) -> int:
        return min(auto if self.batch_size == "auto" else int(self.batch_size), n_samples)

    def _n_epochs(self, n_samples: int) -> int:
        """The largest number of epochs over so many samples."""
        return self.max_iter

    def _solver(self) -> Solver:
        """A solver with this estimator's method and tolerances, as they are now."""
        return Solver(
            method=self.method,
            rtol=self.rtol,
            atol=self.atol,
            adjoint=self.adjoint,
            step_size=self.step_size,
        )

    def _settings(
        self,
        n_samples: int,
        auto_batch_size: int = AUTO_BATCH_SIZE,
        *,
        alpha: float | None = None,
        max_grad_norm: float | None = None,
        passes: int = 1,
        averaging: float = 0.0,
        stopwatch: Stopwatch | None = None,
    ) -> TrainingSettings:
        """The parameters as the training loop takes them, with settings that estimators choose.

        Parameters
        ----------
        n_samples : int
            Number of samples, which bounds the size of a batch.
        auto_batch_size : int, default=200
            Size of a batch with ``batch_size="auto"``.
        alpha : float, default=None
            Strength of the L2 penalty; None: the parameter.
        max_grad_norm, passes, averaging, stopwatch
            See :class:`TrainingSettings`.
        """
        return TrainingSettings(
            learning_rate=self.learning_rate_init,
            batch_size=self._batch_size(n_samples, auto_batch_size),
            max_iter=self._n_epochs(n_samples),
            schedule=self.learning_rate,
            shuffle=self.shuffle,
            alpha=self.alpha if alpha is None else alpha,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            verbose=bool(self.verbose),
            max_grad_norm=max_grad_norm,
            passes=passes,
            averaging=averaging,
            stopwatch=stopwatch,
            checkpoint=self._checkpoint,
        )

    def _stopwatch(self) -> Stopwatch:
        """The time of a fit that begins now."""
        return Stopwatch(self.max_time, verbose=bool(self.verbose), before=self._checkpoint.seconds_before)

    def _fit_partially(
        self, objective: Objective, n_samples: int, rng: np.random.RandomState, settings: TrainingSettings
    ) -> None:
        """Train ``module_`` for one epoch, going on from the last call's curves and optimiser."""
        record = self._record
        if record is None and hasattr(self, "n_iter_"):  # of a fit, whose weights the mean is to stay near
            record = TrainingRecord(
                list(self.loss_curve_),
                list(self.validation_scores_ or []),
                list(self.nfe_forward_),
                list(self.nfe_backward_),
                n_updates=MANY_UPDATES,
            )
        self._record = train_epoch(objective, n_samples, settings, rng, record)
        self._keep(self._record)

    def _random_state_of_call(self) -> np.random.RandomState:
        """Random numbers of a call of ``partial_fit``: of a seed others at each call."""
        seed = self.random_state
        n_before = 0 if self._record is None else len(self._record.loss_curve)
        if isinstance(seed, Integral):
            return np.random.RandomState([int(seed), n_before])
        return self._checkpoint.random_state(seed)

    def _fit_module(
        self,
        objective: Objective,
        samples: int | Order,
        rng: np.random.RandomState,
        settings: TrainingSettings,
        *,
        task: dict[str, Any],
        dtype: torch.dtype,
        validate: Callable[[], float] | None = None,
    ) -> TrainingRecord:
        """Train ``module_``, bring it to a dtype, and set the fitted curves; one callback task per epoch.

        Parameters
        ----------
        objective : Objective
            The function to minimise.
        samples : int or Order
            Samples to draw batches from: their number, where they are in memory.
        rng : RandomState
            Source of the order of the samples.
        settings : TrainingSettings
            Settings of the loop; see :meth:`_settings`.
        task : dict
            The data, for callbacks; see :meth:`_task`.
        dtype : torch.dtype
            The dtype of predictions.
        validate : callable, default=None
            Returns a validation score, by which the best weights are kept; higher is better.
        """
        context = self._init_callback_context(max_subtasks=settings.max_iter)
        with alone():
            context.call_on_fit_task_begin(estimator=self, **task)

        def snapshot() -> dict[str, Any]:
            return self._reconstruction(copy.deepcopy(self.module_).to(dtype))

        def on_epoch(record: TrainingRecord) -> bool:
            self._keep(record)
            epoch = context.subcontext(task_name="epoch")
            with alone():  # one process may ask its model for what the others do not
                epoch.call_on_fit_task_begin(estimator=self, **task)
                return bool(epoch.call_on_fit_task_end(estimator=self, **task, reconstruction_attributes=snapshot))

        record = train(objective, samples, settings, rng, validate=validate, on_epoch=on_epoch)
        self._keep(record)
        self.module_.to(dtype)
        with alone():
            context.call_on_fit_task_end(estimator=self, **task, reconstruction_attributes=snapshot)
        return record

    def _task(self, X: Any, y: Any, sample_weight: Any) -> dict[str, Any]:
        """The data of a fit for scikit-learn's callbacks, and as metadata the other arguments of ``fit``."""
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        return {"X": X, "y": y, "metadata": metadata}

    def _reconstruction(self, module: torch.nn.Module) -> dict[str, Any]:
        """Fitted attributes of an estimator that predicts as this one would if training ended here."""
        return {"module_": module}

    def _keep(self, record: TrainingRecord) -> None:
        """Set the fitted curves from a record."""
        self.n_iter_ = len(record.loss_curve)
        self.loss_curve_ = list(record.loss_curve)
        self.loss_ = record.loss_curve[-1] if record.loss_curve else math.nan
        self.best_loss_ = min(record.loss_curve, default=math.nan)
        self.validation_scores_ = list(record.validation_scores) or None
        self.best_validation_score_ = max(record.validation_scores, default=None)
        self.nfe_forward_ = list(record.nfe_forward)
        self.nfe_backward_ = list(record.nfe_backward)
        self.stop_reason_ = record.stopped_because


def _on_cpu(state: dict[Any, Any]) -> dict[Any, Any]:
    """An optimiser's state with its tensors on the CPU."""
    return {
        key: {name: x.cpu() if isinstance(x, Tensor) else x for name, x in own.items()} for key, own in state.items()
    }
