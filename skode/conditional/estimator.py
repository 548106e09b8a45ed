"""Regression by a conditional density: a continuous normalizing flow of targets given features."""

from __future__ import annotations

import functools
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from skode.conditional.fitted import INPUT_CHECKS, FittedConditionalDensity
from skode.conditional.flow import ConditionalDensity
from skode.conditional.linear import linear_model
from skode.conditional.objective import ConditionalLikelihood, conditional_score
from skode.conditional.targets import check_targets
from skode.density.gaussianisation import Gaussianisation
from skode.density.settings import auto_batch_size, auto_max_iter
from skode.dynamics.sizes import check_sizes
from skode.supervised.columns import CategoricalFeatures, Columns
from skode.supervised.inputs import check_two_dimensional, squashed
from skode.training import (
    COMMON_CONSTRAINTS,
    array_api_fit,
    check_column_names,
    check_data,
    check_numeric_targets,
    check_weights,
    distinct,
    draft,
    fitted_on,
    new_generator,
    sound_scaler,
    to_numpy,
    to_pandas,
    to_tensor,
    whole,
    worthwhile_threads,
)

#: Gradients longer than this are shortened to it, and the share of the past in the running mean of the weights.
MAX_GRAD_NORM, AVERAGING = 1.0, 0.99

#: The recalibration counts as many targets beside those held out, for which nothing is wrong.
PRIOR_COUNT = 10.0

SMOOTH = {"tanh", "logistic", "softplus", "silu"}


class CNFRegressor(FittedConditionalDensity):
    r"""Regressor that learns the whole distribution of the targets given the features, by a continuous flow.

    A conditional normalizing flow [1]_ in continuous time [2]_: with a location :math:`m(x)` and a scale :math:`s(x)`
    from a perceptron, the targets are :math:`y = m(x) + s(x) u(1)`, where :math:`du/dt = f(t, u; x)` carries normal
    noise :math:`u(0)` to the residuals. So their density has whatever shape the data have at :math:`x`: several modes,
    skewness, a spread that changes with the features. It is trained by likelihood.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(64, 32)
        Widths of the hidden layers of the vector field ``f``, one or two.
    activation : {"tanh", "logistic", "softplus", "silu"}, default="tanh"
        Activation of the vector field.
    location_layer_sizes : int or array-like of int, default=(64,)
        Widths of the hidden layers of the perceptron for location and scale; empty for affine functions.
    categorical_features : "from_dtype", array-like of bool, int or str, or None, default="from_dtype"
        Which features are categories; see :class:`ODENetRegressor`. Features may be missing (NaN).
    marginals : {"auto", "johnson", "normal"}, default="auto"
        Transform of the targets before they are whitened; see :class:`CNFDensityEstimator`.
    kinetic_energy : float, default=0.1
        Strength of a penalty on the paths' kinetic energy :math:`\int |f|^2 dt` [3]_, in nats.
    alpha : float, default=0.1
        Strength of the L2 penalty on the weights, divided by the batch size.
    batch_size : int or "auto", default="auto"
        Samples in a batch; "auto" is a fortieth of the samples, but at least 32 and at most 256.
    learning_rate : {"constant", "cosine"}, default="cosine"
        Schedule of the learning rate: "cosine" lets it fall to 0 over ``max_iter`` epochs along half a cosine.
    learning_rate_init : float, default=5e-3
        Learning rate of Adam.
    max_iter : int or "auto", default="auto"
        Largest number of epochs. "auto" is 70; fewer beyond 25,000 samples, but at least 10.
    max_time : float or None, default=None
        Seconds that ``fit`` may take; None: any number. The cosine schedule then follows the time where that is sooner
        over than ``max_iter`` epochs. A fit that is limited in this way depends on the speed of the machine.
    shuffle : bool, default=True
        Whether to shuffle the samples in each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, validation split and order of samples. Two fits with the same int in one process
        are identical to the bit.
    tol : float, default=1e-4
        An epoch whose validation (or training) log-likelihood is not better than the best by ``tol`` nats counts as
        no improvement.
    verbose : bool, default=False
        Whether to print a line per epoch.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the last call, and with its scaling.
    early_stopping : bool, default=True
        Whether to set aside ``validation_fraction`` of the samples and keep the weights that were best on them: of
        the weights' running means, by likelihood, after each epoch.
    validation_fraction : float, default=0.1
        See ``early_stopping``.
    n_iter_no_change : int or None, default=None
        Epochs without improvement after which training stops; None: never.
    rtol, atol : float, default=1e-4
        Relative and absolute tolerance of the solver, read at every call.
    method : str, default="dopri5"
        ODE method, one of :data:`skode.solvers.METHODS`, read at every call.
    step_size : float or None, default=None
        Step size of fixed-step methods; None: 0.1.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        Method of computing gradients; see :func:`skode.solvers.solve_ivp`.
    checkpoint : str, path-like or None, default=None
        File with the progress of ``fit``, from which the same fit goes on where its process was killed; see
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
        The trained density, of standardised targets given standardised features.
    scaler_ : StandardScaler
        The standardisation of the features.
    target_scaler_ : object
        The map from targets to those of the network: ``transform``, ``inverse_transform`` and ``log_det``.
    n_outputs_ : int
        Number of targets.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if they all are strings.
    n_iter_ : int
        Epochs run, with the one that ``max_time`` ended.
    stop_reason_ : str
        Why training ended.
    loss_, best_loss_ : float
        Last and least mean loss in training: negative log-likelihood of the standardised targets with its penalty.
    loss_curve_ : list of float
        Mean training loss per epoch.
    validation_scores_ : list of float or None
        Mean log-likelihood of the standardised validation targets per epoch, with ``early_stopping``.
    best_validation_score_ : float or None
        The best of them.
    nfe_forward_, nfe_backward_ : list of float
        Evaluations of the vector field per solve and per gradient, mean over each epoch.

    See Also
    --------
    ODENetRegressor : Means, with a spread that is the same everywhere; more exact where only means are wanted.
    CNFDensityEstimator : Joint densities.
    skode.model_selection.DistributionScorer : Scores predictive distributions in cross-validation.

    References
    ----------
    .. [1] C. Winkler, D. Worrall, E. Hoogeboom, M. Welling, "Learning Likelihoods with Conditional Normalizing Flows",
       arXiv:1912.00042, 2019.
    .. [2] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural Ordinary Differential Equations",
       NeurIPS 2018, section 4.
    .. [3] C. Finlay, J.-H. Jacobsen, L. Nurbekyan, A. Oberman, "How to train your neural ODE: the world of Jacobian
       and kinetic regularization", ICML 2020.

    Examples
    --------
    A target that lies on either of two branches:

    >>> import numpy as np
    >>> from skode import CNFRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (500, 1))
    >>> y = rng.choice([-1, 1], 500) * (1 + X[:, 0]) + rng.normal(0, 0.1, 500)
    >>> reg = CNFRegressor(hidden_layer_sizes=(32,), max_iter=20, random_state=0).fit(X, y)
    >>> reg.predict_interval(X[:3]).shape
    (3, 2)
    >>> reg.sample_y(X[:3], n_samples=5).shape
    (3, 5)
    >>> bool(reg.log_density([[0.5]], [1.5])[0] > reg.log_density([[0.5]], [0.0])[0] + 1)
    True
    """

    _parameter_constraints: dict = {
        **COMMON_CONSTRAINTS,
        "activation": [StrOptions(SMOOTH)],
        "location_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "marginals": [StrOptions({"auto", "johnson", "normal"})],
        "kinetic_energy": [Interval(Real, 0, None, closed="left")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (64, 32),
        activation: str = "tanh",
        *,
        location_layer_sizes: Any = (64,),
        categorical_features: Any = "from_dtype",
        marginals: str = "auto",
        kinetic_energy: float = 0.1,
        alpha: float = 0.1,
        batch_size: Any = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 5e-3,
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
        self.location_layer_sizes = location_layer_sizes
        self.categorical_features = categorical_features
        self.marginals = marginals
        self.kinetic_energy = kinetic_energy
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
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> CNFRegressor:
        """Fit the conditional density to samples with targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features; NaN where they are missing.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            The number of times that each sample counts, not necessarily whole.

        Returns
        -------
        self : CNFRegressor
            The fitted regressor.

        Raises
        ------
        ValueError
            Where X or y are not as described, X holds infinity, y NaN, or a target has one value only, which has no
            density.

        Warns
        -----
        UserWarning
            Where a target looks discrete, or targets are linearly dependent, so that the density is unbounded.
        """
        X, y, sample_weight = whole(X, y, sample_weight)
        data = {"X": X, "y": y, "sample_weight": sample_weight}
        changed = ("module_",) if self.warm_start else ()
        with draft(self, changed_in_place=changed, data=data, shared=True) as new:
            new._learn(X, y, sample_weight)
        return self

    def _learn(self, X: Any, y: Any, sample_weight: Any) -> None:
        stopwatch = self._stopwatch()
        architecture = self._architecture()
        first = self._is_first_fit(architecture, goes_on=self.warm_start)
        task = self._task(X, y, sample_weight)
        X, targets = self._read(X, y, first=first)
        X, targets, weights = self._distinct(X, targets, check_weights(sample_weight, X))
        rng = self._checkpoint.random_state(self.random_state)
        rows = np.arange(len(X))
        held_out = rows[:0]
        if self.early_stopping:
            rows, held_out = self._split(len(X), rng)
        if first:
            X = self._begin(X, targets, weights, rows, rng)
            self._built_from = architecture
        else:
            X = self._columns.expanded(X)
        device, dtype = self._device_and_dtype(X, first=first)
        training_dtype = self._training_dtype(dtype)
        self.module_.to(device=device, dtype=training_dtype).base_scale.fill_(1.0)

        x = to_tensor(squashed(self.scaler_, X), training_dtype, device)
        z = to_tensor(self.target_scaler_.transform(targets), training_dtype, device)
        w = to_tensor(weights / weights[rows].mean(), training_dtype, device)
        # Steps are shared with gradients and without, as they are in training.
        solver = self._solver().replace(step_control="shared")
        validate = None
        if len(held_out):
            some = torch.from_numpy(held_out).to(device)
            validate = functools.partial(conditional_score, self.module_, x[some], z[some], weights[held_out], solver)
        some = torch.from_numpy(rows).to(device)
        objective = ConditionalLikelihood(self.module_, x[some], z[some], w[some], solver, self.kinetic_energy)
        settings = self._settings(
            len(rows),
            auto_batch_size(len(rows)),
            max_grad_norm=MAX_GRAD_NORM,
            averaging=AVERAGING,
            stopwatch=stopwatch,
        )
        widest = max(X.shape[1], *self._hidden_layers())
        with worthwhile_threads(settings.batch_size * widest):
            self._fit_module(objective, len(rows), rng, settings, task=task, dtype=dtype, validate=validate)
            if len(held_out):
                self._recalibrate(x[held_out], z[held_out], weights[held_out])
        self.module_.eval()

    def _begin(
        self,
        X: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        rows: np.ndarray,
        rng: np.random.RandomState,
    ) -> np.ndarray:
        """Learn scales from the samples that are trained on, and make a network; returns the columns of features."""
        check_targets(targets, weights, rows)
        self._columns = Columns.of([X[rows]], X.shape[1], self._categories.positions)
        X = self._columns.expanded(X)
        scaler = StandardScaler()
        fitted_on(scaler, X[rows], weights[rows])
        self.scaler_ = sound_scaler(scaler)
        self.target_scaler_ = Gaussianisation.fit(targets[rows], weights[rows], marginals=self.marginals)
        architecture = self._architecture()
        self.module_ = ConditionalDensity(
            self.n_outputs_,
            X.shape[1],
            architecture["hidden_layer_sizes"],
            self.activation,
            architecture["location_layer_sizes"],
            new_generator(rng),
        )
        own = self.target_scaler_.transform(targets[rows])
        self.module_.start_from(*linear_model(squashed(self.scaler_, X[rows]), own, weights[rows]))
        return X

    def _architecture(self) -> dict[str, Any]:
        """The parameters that the network is built from, by name."""
        hidden = self._hidden_layers()
        if len(hidden) not in (1, 2):
            remedy = "make them wider instead" if hidden else "give the width of one, as in (64,)"
            raise ValueError(
                f"hidden_layer_sizes={self.hidden_layer_sizes!r} has {len(hidden)} layers, but the divergence is "
                f"computed for one or two: {remedy}."
            )
        sizes = np.atleast_1d(np.asarray(self.location_layer_sizes, dtype=object)).tolist()
        return {
            "hidden_layer_sizes": hidden,
            "activation": self.activation,
            "location_layer_sizes": check_sizes(sizes, "location_layer_sizes"),
        }

    def _read(self, X: Any, y: Any, *, first: bool) -> tuple[np.ndarray, np.ndarray]:
        """Features as numbers and codes, and targets of shape (n, n_outputs)."""
        check_two_dimensional(X, type(self).__name__)
        X = to_pandas(X)
        check_column_names(X)
        if first:
            self._categories = CategoricalFeatures.found(X, self.categorical_features)
        X, y = check_data(
            self,
            self._categories.encoded(X),
            y,
            **INPUT_CHECKS,
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
            reset=first,
        )
        targets = check_numeric_targets(y, type(self).__name__)
        n_outputs = 1 if y.ndim == 1 else y.shape[1]
        if not first and n_outputs != self.n_outputs_:
            raise ValueError(f"y has {n_outputs} outputs, but the last fit had {self.n_outputs_}.")
        self.n_outputs_, self._one_dimensional = n_outputs, y.ndim == 1
        return X, targets.reshape(len(targets), -1)

    def _distinct(
        self, X: np.ndarray, targets: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples that differ, in the order given where weights are equal or without ``shuffle``, and their weights."""
        rows, weights = distinct(X, targets, weights)
        if not self.shuffle or (weights == weights[0]).all():
            order = np.argsort(rows)
            rows, weights = rows[order], weights[order]
        return X[rows], targets[rows], weights

    def _split(self, n: int, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Samples to train on, and those held out."""
        try:
            return tuple(train_test_split(np.arange(n), test_size=self.validation_fraction, random_state=rng))
        except ValueError as error:
            raise ValueError(
                f"early_stopping=True can't set aside validation_fraction={self.validation_fraction} of {n} samples "
                "that differ, for none are left to train on: lower validation_fraction, or set early_stopping=False."
            ) from error

    def _recalibrate(self, x: Tensor, z: Tensor, weights: np.ndarray) -> None:
        """Widen the base by what targets that were held out are carried back to, of variance 1 if all is right.

        A network is nearer to the samples that it is trained on than to others, and its scale is too small for these.
        """
        like = self.module_.base_scale
        with torch.no_grad():
            u = to_numpy(self.module_.pull(x.to(like.dtype), z.to(like.dtype), self._solver()))
        squares = (weights / weights.mean()) @ u**2
        variance = np.maximum((PRIOR_COUNT + squares) / (PRIOR_COUNT + len(u)), 1.0)
        like.copy_(torch.from_numpy(np.sqrt(variance)).to(like))

    def _n_epochs(self, n_samples: int) -> int:
        return auto_max_iter(n_samples) if self.max_iter == "auto" else int(self.max_iter)
