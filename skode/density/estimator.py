"""Density estimation by a continuous normalizing flow."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from skode.density.columns import check_columns
from skode.density.discrete import Dequantiser, discrete_groups
from skode.density.fields import new_field
from skode.density.flow import Flow
from skode.density.gaussianisation import Gaussianisation
from skode.density.in_blocks import SamplesInBlocks, learn_in_blocks
from skode.density.mixtures import COVARIANCES
from skode.density.objectives import FlowMatching, Likelihood, ValidationScore
from skode.density.partial import AVERAGING, MAX_GRAD_NORM, IncrementalDensity
from skode.density.samples import Samples
from skode.density.settings import EPOCHS, LOOSER, auto_batch_size, auto_kinetic_energy, auto_max_iter, is_many
from skode.density.stacking import LEAST_SAMPLES, LEAST_WEIGHT, Partners, stacking_weights
from skode.density.tables import Categories
from skode.dynamics.fields import FIELDS
from skode.io.sources import as_features, in_memory
from skode.training import (
    COMMON_CONSTRAINTS,
    INTERRUPTED,
    Solver,
    Stopwatch,
    TrainingRecord,
    array_api_fit,
    categorical_positions,
    check_data,
    check_weights,
    draft,
    new_generator,
    to_pandas,
    to_tensor,
    train,
    users_field,
    whole,
    worthwhile_threads,
)
from skode.training.order import Order

#: Share of ``max_time`` after which no more mixtures are fitted.
PARTNERS_TIME = 0.2


class CNFDensityEstimator(IncrementalDensity):
    """Density estimator whose density is a normal one, carried by a neural ODE, beside mixtures of normal ones.

    A continuous normalizing flow [1]_: the data, whitened, are the end of ``dz/dt = f(t, z)`` started from a normal
    density, and the exact log-density follows the instantaneous change of variables
    ``d log p(z(t)) / dt = -tr(df/dz)``. The base's standard deviations are trained as well, and gradients longer than
    1 are shortened to it. ``rtol``, ``atol``, ``method``, ``step_size`` and ``device`` are read at every call.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(64, 32)
        Widths of the hidden layers of the vector field. With one or two, the exact divergence costs no more than
        another layer; with more, one vector-Jacobian product per dimension.
    activation : {"tanh", "logistic", "softplus", "silu"}, default="tanh"
        Activation of the vector field; it must be smooth.
    field : str or torch.nn.Module, default="mlp"
        The vector field. By name, of :data:`skode.dynamics.fields.FIELDS`: "mlp", a perceptron of state and time;
        "gated_planar", the continuous planar flow with gates of [1]_, with as many units as ``hidden_layer_sizes`` adds
        up to; "concatsquash", the perceptron of [2]_, scaled and shifted by time in every layer. Or a module with
        ``forward(t, z)``, of which a copy is trained. A method ``value_and_divergence(t, z)`` gives the divergence, if
        the field has one; without it the divergence costs one vector-Jacobian product per dimension.
    objective : {"likelihood", "flow_matching"}, default="likelihood"
        The objective of training: the likelihood, by gradients through the solver, or flow matching, where the field
        alone is trained, to match the velocities of straight paths from noise to data [3]_. Its updates need no
        solver, but more of them are needed for the same likelihood, and ``alpha`` is the only penalty. The density is
        the exact one of the ODE either way.
    matching_iter : int, default=0
        Epochs of flow matching before those of likelihood. They pay where there are many narrow modes far apart, which
        likelihood is slow to find.
    divergence : {"exact", "hutchinson"}, default="exact"
        The divergence in training: exact, or Hutchinson's estimate [2]_ with noise that is drawn for each solve. It
        pays for fields without an analytic divergence in many dimensions. Predictions use the exact one.
    marginals : {"auto", "johnson", "normal"}, default="auto"
        Transform of the columns before they are whitened: "johnson" bends them by a Johnson S_U distribution fitted to
        their skewness and tails, so that outliers and heavy tails come to where a flow can follow; "normal" leaves
        them; "auto" bends those with an excess kurtosis above 2.
    stacking : bool, default=True
        Whether Gaussian mixtures and kernel densities stand beside the flow, in a convex stack of the weights that
        give samples left out of the fits the largest likelihood [6]_: those set aside by ``early_stopping``, without
        which the density is the flow's alone. Numbers of components, types of covariance and bandwidths are
        cross-validated. Where samples are few, or copies of a few with noise, the others are ahead of a flow, and
        together they are mostly ahead of each of them.
    categorical_features : "auto", None or array-like of int, str or bool, default="auto"
        The discrete variables, whose values are given probabilities; on them ``score_samples`` is a log-density with
        respect to counting. By position, name or mask; columns of categories, text or bools of a frame are in any case.
        "auto" adds groups of adjacent columns of which one is 1 and the others 0, as one variable, and columns of few
        numbers, each of which comes often. None: all columns are continuous. Name the columns where densities of
        several fits are to be compared, of classes for example, as each finds for itself which of them are discrete.
    contamination : float or "auto", default="auto"
        Share of the training samples that ``predict`` takes for anomalies, at most 0.5, as ``IsolationForest`` has it.
        "auto": anomalies are where the density is lower than at 99 % of its own draws (outside of its region of
        highest density [7]_), whatever the share of the training samples there.
    kinetic_energy : float or "auto", default="auto"
        Strength of a penalty on the paths' kinetic energy ``int |f|^2 dt`` [4]_, in nats. Straight paths are easy to
        solve, and a flow that moves less follows single points less. "auto" is 600 over the number of samples, as a
        prior on flows has it, between 0.01 and 1.
    jacobian_norm : float, default=0.0
        Strength of a penalty on ``int |eps^T df/dz|^2 dt`` with random ``eps`` [4]_. It has no fast path.
    alpha : float, default=0.0
        Strength of the L2 penalty on the weights, divided by the batch size.
    batch_size : int or "auto", default="auto"
        Samples in a batch; "auto" is a fortieth of the samples, but at least 32 and at most 256.
    learning_rate : {"constant", "cosine"}, default="cosine"
        Schedule of the learning rate: "cosine" lets it fall to 0 over ``max_iter`` epochs along half a cosine
        (Loshchilov, Hutter, "SGDR", ICLR 2017). In ``partial_fit`` it is constant.
    learning_rate_init : float, default=1e-2
        Learning rate of Adam; beyond 25,000 samples, of Adam in the gradients' eigenbasis [5]_, which gets as far in
        fewer updates.
    max_iter : int or "auto", default="auto"
        Largest number of epochs. "auto" is 70; of likelihood fewer beyond 25,000 samples, so that updates stay as many,
        but at least 10.
    max_time : float or None, default=None
        Seconds that ``fit`` may take; None: any number. The cosine schedule then follows the time where that is sooner
        over than ``max_iter`` epochs. A fit that is limited in this way depends on the speed of the machine.
    shuffle : bool, default=True
        Whether to shuffle the samples in each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, validation split, noise and order of samples. Two fits with the same int in one
        process are identical to the bit.
    tol : float, default=1e-4
        An epoch whose validation (or training) log-likelihood is not better than the best by ``tol`` nats counts as
        no improvement.
    verbose : bool, default=False
        Whether to print a line per epoch.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the last call, and with its scaling.
    early_stopping : bool, default=True
        Whether to set aside ``validation_fraction`` of the samples and keep the weights that were best on them: of
        the weights' running means, by likelihood, after each epoch. A flow can follow single points of a small sample,
        so this is on by default.
    validation_fraction : float, default=0.1
        See ``early_stopping``.
    n_iter_no_change : int or None, default=None
        Epochs without improvement after which training stops; None: never.
    rtol, atol : float, default=1e-4
        Relative and absolute tolerance of the solver. Beyond 25,000 samples training, but not validation, has ten times
        as much, which moves gradients by less than they vary between batches.
    method : str, default="dopri5"
        ODE method, one of :data:`skode.solvers.METHODS`.
    step_size : float or None, default=None
        Step size of fixed-step methods; None: 0.1.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        Method of computing gradients; see :func:`skode.solvers.solve_ivp`.
    checkpoint : str, path-like or None, default=None
        File with the progress of ``fit``, from which the same fit goes on where its process was killed, and ends in the
        same numbers; in a folder each fit has a file of its own. SIGTERM then ends a fit as Ctrl-C does. See
        :doc:`the guide </guide/checkpoints>`.
    checkpoint_interval : float, default=60.0
        Seconds between two writes of that file.
    device : str, default="auto"
        Device of computations: "auto", "cpu", "cuda", ...
    dtype : {"float32", "float64"} or None, default=None
        Dtype of computations; None: train in float32, unless the tolerances are too tight for it, and predict in the
        dtype of the X in ``fit`` on the CPU, in float32 elsewhere.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained flow, of whitened data, and the densities beside it.
    stacking_weights_ : ndarray of shape (1 + n_partners,)
        Weights of the flow and of the densities beside it.
    offset_ : float
        The log-density below which ``predict`` takes a sample for an anomaly.
    scaler_ : object
        The map from data space to the space of the flow: ``transform``, ``inverse_transform`` and ``log_det``.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if they all are strings.
    n_samples_seen_ : int
        Number of samples in ``fit`` and all calls of ``partial_fit`` after it.
    n_iter_ : int
        Epochs run, with the one that ``max_time`` ended.
    stop_reason_ : str
        Why training ended.
    loss_, best_loss_ : float
        Last and least mean loss in training: negative log-likelihood of the whitened data with its penalties, or the
        mean squared distance of velocities.
    loss_curve_ : list of float
        Mean training loss per epoch.
    matching_curve_ : list of float
        Training loss of flow matching per epoch, before training by likelihood, with ``matching_iter``.
    validation_scores_ : list of float or None
        Mean log-likelihood of the whitened validation data per epoch, with ``early_stopping``.
    best_validation_score_ : float or None
        The best of them.
    nfe_forward_, nfe_backward_ : list of float
        Evaluations of the vector field per solve and per gradient, mean over each epoch.

    See Also
    --------
    sklearn.mixture.GaussianMixture : A mixture of Gaussians.
    sklearn.neighbors.KernelDensity : A kernel density.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural Ordinary Differential Equations",
       NeurIPS 2018, section 4.
    .. [2] W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud, "FFJORD: Free-form Continuous
       Dynamics for Scalable Reversible Generative Models", ICLR 2019.
    .. [3] Y. Lipman, R. T. Q. Chen, H. Ben-Hamu, M. Nickel, M. Le, "Flow Matching for Generative Modeling", ICLR 2023.
    .. [4] C. Finlay, J.-H. Jacobsen, L. Nurbekyan, A. M. Oberman, "How to train your neural ODE: the world of Jacobian
       and kinetic regularization", ICML 2020.
    .. [5] N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025.
    .. [6] P. Smyth, D. Wolpert, "Linearly combining density estimators via stacking", Machine Learning 36, 1999.
    .. [7] R. J. Hyndman, "Computing and graphing highest density regions", The American Statistician 50, 1996.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skode import CNFDensityEstimator
    >>> X, _ = make_moons(500, noise=0.1, random_state=0)
    >>> cnf = CNFDensityEstimator(hidden_layer_sizes=(32,), max_iter=5, random_state=0).fit(X)
    >>> cnf.score_samples(X[:3]).shape
    (3,)
    >>> cnf.sample(5, random_state=0).shape
    (5, 2)
    """

    module_: Flow
    scaler_: Gaussianisation

    _parameter_constraints: dict = {
        **COMMON_CONSTRAINTS,
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "field": [StrOptions(set(FIELDS)), nn.Module],
        "objective": [StrOptions({"likelihood", "flow_matching"})],
        "matching_iter": [Interval(Integral, 0, None, closed="left")],
        "divergence": [StrOptions({"exact", "hutchinson"})],
        "marginals": [StrOptions({"auto", "johnson", "normal"})],
        "stacking": ["boolean"],
        "categorical_features": [StrOptions({"auto"}), "array-like", None],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "kinetic_energy": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "jacobian_norm": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (64, 32),
        activation: str = "tanh",
        *,
        field: Any = "mlp",
        objective: str = "likelihood",
        matching_iter: int = 0,
        divergence: str = "exact",
        marginals: str = "auto",
        stacking: bool = True,
        categorical_features: Any = "auto",
        contamination: Any = "auto",
        kinetic_energy: Any = "auto",
        jacobian_norm: float = 0.0,
        alpha: float = 0.0,
        batch_size: Any = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 1e-2,
        max_iter: Any = "auto",
        max_time: float | None = None,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = None,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        method: str = "dopri5",
        step_size: float | None = None,
        adjoint: str = "discrete",
        checkpoint: Any = None,
        checkpoint_interval: float = 60.0,
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.field = field
        self.objective = objective
        self.matching_iter = matching_iter
        self.divergence = divergence
        self.marginals = marginals
        self.stacking = stacking
        self.categorical_features = categorical_features
        self.contamination = contamination
        self.kinetic_energy = kinetic_energy
        self.jacobian_norm = jacobian_norm
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.max_time = max_time
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.rtol = rtol
        self.atol = atol
        self.method = method
        self.step_size = step_size
        self.adjoint = adjoint
        self.checkpoint = checkpoint
        self.checkpoint_interval = checkpoint_interval
        self.device = device
        self.dtype = dtype

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    @array_api_fit
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> CNFDensityEstimator:
        """Fit the flow to samples.

        Parameters
        ----------
        X : array-like or BlockTable of shape (n_samples, n_features)
            Samples; tables of :mod:`skode.io` are read in blocks.
        y : None
            Ignored; here for scikit-learn's conventions.
        sample_weight : array-like of shape (n_samples,), default=None
            The number of times that each sample counts, not necessarily whole; a weight of two is the same as the
            sample given twice, 0 as it left out.

        Returns
        -------
        self : CNFDensityEstimator
            The fitted estimator.

        Raises
        ------
        ValueError
            Where X is not as described, holds NaN or infinity, has fewer than 2 samples or a constant column, which
            has no density.

        Warns
        -----
        UserWarning
            Where a column looks discrete, so that its density is unbounded.
        """
        X, sample_weight = whole(X, sample_weight)
        data = {"X": X, "sample_weight": sample_weight}
        with draft(self, changed_in_place=("module_",) if self.warm_start else (), data=data, shared=True) as new:
            table = as_features(X)
            if table is None:
                new._learn(X, y, in_memory(sample_weight))
            else:
                learn_in_blocks(new, table, y, sample_weight)
        return self

    def _learn(self, X: Any, y: Any, sample_weight: Any) -> None:
        stopwatch = self._stopwatch()
        hidden = self._hidden_layers()
        built_from = self._architecture(hidden)
        first = self._is_first_fit(built_from, goes_on=self.warm_start)
        given = X
        if first:
            self._categories = None if self.categorical_features is None else Categories.find(X)
        X = X if self._categories is None else self._categories.numbers(X)
        X = check_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2, reset=first)
        weights = check_weights(sample_weight, X)
        if first:
            self._dequantiser = self._fit_dequantiser(X, weights, given)
        rng = self._checkpoint.random_state(self.random_state)
        points, names = self._continuous(X, copy.deepcopy(rng))
        samples = Samples.distinct(points, weights, shuffle=self.shuffle)
        check_columns(samples.points, samples.weights, names)
        device, dtype = self._device_and_dtype(X, first=first)
        if first:
            field = new_field(self.field, points.shape[1], hidden, self.activation, new_generator(rng))
            self.scaler_ = Gaussianisation.fit(samples.points, samples.weights, marginals=self.marginals)
            self.module_ = Flow(field, points.shape[1])
            self._built_from = built_from
        self.module_.to(device=device, dtype=self._training_dtype(dtype))
        with users_field(self.field, rng, f"(n, {points.shape[1]})"):
            self.module_.train()
            held_out = None
            if self.early_stopping:
                samples, held_out = samples.split(self.validation_fraction, rng)
            beside = self._beside(samples, held_out, copy.deepcopy(rng), stopwatch)
            self._set_alone()
            self._train(samples, held_out, rng, dtype, self._task(given, y, sample_weight), stopwatch)
        self.module_.to(dtype).eval()
        if held_out is not None and beside is not None:
            self._stack(beside, held_out)
        self._set_offset(X, weights)

    def _fit_dequantiser(self, X: np.ndarray, weights: np.ndarray, given: Any) -> Dequantiser | None:
        """The discrete variables of samples; None where there are none."""
        if self.categorical_features is None:
            return None
        named = [] if self._categories is None else self._categories.columns
        find = isinstance(self.categorical_features, str)
        if not find:
            named = sorted({*named, *categorical_positions(to_pandas(given), self.categorical_features).tolist()})
        groups = discrete_groups(X[weights > 0.0], named, find=find)
        groups = [group for group in groups if len(np.unique(X[:, group[0]])) > 1]
        return Dequantiser.fit(X, weights, groups, named) if groups else None

    def _continuous(self, X: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Samples as points of continuous variables, drawn from the cells of discrete values; and their names."""
        names = getattr(self, "feature_names_in_", np.arange(X.shape[1]))
        if self._dequantiser is None:
            return X, names
        return self._dequantiser.drawn(X, rng).astype(X.dtype), names[self._dequantiser.first]

    def _beside(
        self, samples: Samples, held_out: Samples | None, rng: np.random.RandomState, stopwatch: Stopwatch
    ) -> Partners | None:
        """Mixtures and kernel densities to stand beside the flow, fitted to all samples."""
        if not self.stacking or held_out is None or len(samples) + len(held_out) < LEAST_SAMPLES:
            return None
        # Those held out are first, because of them the flow's densities are compared with those that left them out.
        X = np.concatenate([held_out.points, samples.points]).astype(np.float64)
        weights = np.concatenate([held_out.weights, samples.weights])
        weights = weights / weights.mean()
        spaces: list[tuple[Gaussianisation, Sequence[str]]] = [(self.scaler_, tuple(COVARIANCES))]
        if len(self.scaler_.marginals.columns):
            spaces.append((Gaussianisation.fit(X, weights, marginals="normal"), ["full"]))
        if X.shape[1] > 1:
            spaces.append((Gaussianisation.fit(X, weights, marginals="normal", whiten=False), ["diag"]))
        limit = PARTNERS_TIME * self.max_time if self.max_time is not None else np.inf
        with stopwatch.phase("Gaussian mixtures and kernel densities"):
            seed = rng.randint(2**31 - 1)
            fit = partial(Partners.fit, X, weights, spaces, seed, out_of_time=lambda: stopwatch.elapsed > limit)
            return self._checkpoint.step(fit)

    def _stack(self, beside: Partners, held_out: Samples) -> None:
        """Weigh the densities beside the flow by samples that none of them was fitted to."""
        few = held_out.points[: len(beside.left_out)]
        if not len(few):
            return
        weights = held_out.weights[: len(few)]
        logs = np.column_stack([self._flow_log_prob(few), beside.left_out[: len(few)]])
        flow, others = stacking_weights(logs, weights / weights.mean())
        if others > LEAST_WEIGHT:
            self._set_beside(beside, np.concatenate([[flow], others * beside.shares]))

    def _train(
        self,
        samples: Samples | SamplesInBlocks,
        held_out: Samples | None,
        rng: np.random.RandomState,
        dtype: torch.dtype,
        task: dict[str, Any],
        stopwatch: Stopwatch,
    ) -> None:
        """Train ``module_`` on samples, and keep the weights best on those held out; ``task`` goes to callbacks."""
        self.__dict__.pop("_record", None)  # of partial_fit
        self.n_samples_seen_ = round(samples.size + (0.0 if held_out is None else held_out.size))
        like = self.module_.log_scale
        # Steps are shared with gradients and without: noise is drawn for the rows of a batch, none of which may leave.
        solver = self._solver().replace(step_control="shared")
        validate = None
        if held_out is not None:
            points = to_tensor(self._in_flow(held_out.points), like.dtype, like.device)
            validate = ValidationScore(self.module_, points, held_out.weights, solver)
        order, matching, likelihood = self._objectives(samples, solver, rng)
        n, auto = len(samples), auto_batch_size(len(samples))
        widest = max(self.module_.n_features, *self._hidden_layers(), 1)
        with worthwhile_threads(self._batch_size(n, auto) * widest):
            self.__dict__.pop("matching_curve_", None)
            if self.matching_iter and self.objective == "likelihood":
                record = self._match(matching, order, rng, auto, stopwatch)
                self.matching_curve_ = record.loss_curve
                if record.stopped_because == INTERRUPTED:
                    self._keep(TrainingRecord(stopped_because=INTERRUPTED))
                    return
            objective = matching if self.objective == "flow_matching" else likelihood
            settings = self._settings(n, auto, max_grad_norm=MAX_GRAD_NORM, averaging=AVERAGING, stopwatch=stopwatch)
            if is_many(n) and objective is likelihood:
                settings = dataclasses.replace(settings, optimizer="soap")
            self._fit_module(objective, order, rng, settings, task=task, dtype=dtype, validate=validate)

    def _objectives(
        self, samples: Samples | SamplesInBlocks, solver: Solver, rng: np.random.RandomState
    ) -> tuple[Order, FlowMatching, Likelihood]:
        """The order of training, and what it may minimise."""
        flow, like = self.module_, self.module_.log_scale
        order, x, weights = samples.training(self._in_flow, like)
        matching = FlowMatching(flow, x, weights, new_generator(rng, like.device))
        energy = auto_kinetic_energy(samples.size) if self.kinetic_energy == "auto" else float(self.kinetic_energy)
        if is_many(len(samples)):
            solver = solver.replace(rtol=LOOSER * solver.rtol, atol=LOOSER * solver.atol)
        likelihood = Likelihood(
            flow,
            x,
            weights,
            solver,
            kinetic_energy=energy,
            jacobian_norm=self.jacobian_norm,
            estimate=self.divergence == "hutchinson",
            generator=new_generator(rng, like.device),
        )
        return order, matching, likelihood

    def _match(
        self, matching: FlowMatching, order: Order, rng: np.random.RandomState, auto: int, stopwatch: Stopwatch
    ) -> TrainingRecord:
        """Flow matching before training by likelihood, for a share of the time as of the epochs."""
        settings = self._settings(len(order), auto, max_grad_norm=MAX_GRAD_NORM, stopwatch=stopwatch)
        settings = dataclasses.replace(
            settings,
            max_iter=self.matching_iter,
            time_share=self.matching_iter / (self.matching_iter + settings.max_iter),
            n_iter_no_change=None,
            schedule="cosine",
            phase="Flow matching",
        )
        return train(matching, order, settings, rng)

    def _n_epochs(self, n_samples: int) -> int:
        if self.max_iter != "auto":
            return int(self.max_iter)
        return auto_max_iter(n_samples) if self.objective == "likelihood" else EPOCHS

    def _architecture(self, hidden: tuple[int, ...]) -> dict[str, Any]:
        """The parameters that the flow is built from, by name."""
        built_in = {"hidden_layer_sizes": hidden, "activation": self.activation}
        return {"field": self.field, "marginals": self.marginals} | (built_in if isinstance(self.field, str) else {})
