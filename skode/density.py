"""Density estimation by a continuous normalizing flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import DensityMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from skode.dynamics import MLPField, flow_field
from skode.solvers import Solution, Statistics
from skode.training import (
    COMMON_CONSTRAINTS,
    NeuralODEEstimator,
    fitted_scaler,
    new_generator,
    resolve_device,
    resolve_dtype,
    standardised,
    to_numpy,
    to_tensor,
)

Solve = Callable[..., Solution]


class Flow(nn.Module):
    """A standard normal at ``t = 0``, carried by an ODE to the data's density at ``t = 1``.

    Parameters
    ----------
    field : MLPField
        The dynamics.
    """

    def __init__(self, field: MLPField) -> None:
        super().__init__()
        self.field = field
        self.joint = flow_field(field)

    def log_prob(self, x: Tensor, solve: Solve, solves: list[Statistics] | None = None) -> Tensor:
        """Log-densities of shape (n,) of points of shape (n, d).

        ``log p(x) = log N(z(0)) - int_0^1 tr(df/dz) dt`` along the path with ``z(1) = x``, solved backward.
        """
        start = torch.cat([x, x.new_zeros(len(x), 1)], dim=1)
        solution = solve(self.joint, (1.0, 0.0), start, t_eval=(0.0,))
        if solves is not None:
            solves.append(solution.statistics)
        z, integral = solution.y[-1, :, :-1], solution.y[-1, :, -1]
        return -0.5 * (z * z).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) - integral

    def push(self, z: Tensor, solve: Solve) -> Tensor:
        """Points of the base density carried to data space."""
        return solve(self.field, (0.0, 1.0), z, t_eval=(1.0,)).y[-1]


class _NegativeLogLikelihood:
    """Mean negative log-likelihood of the flow over batches."""

    def __init__(self, module: Flow, X: Tensor, solve: Solve) -> None:
        self.module, self.X, self.solve = module, X, solve
        self.solves: list[Statistics] = []

    def parameters(self):
        return self.module.field.parameters()

    def loss(self, rows: np.ndarray) -> Tensor:
        chosen = torch.from_numpy(rows).to(self.X.device)
        return -self.module.log_prob(self.X[chosen], self.solve, self.solves).mean()


class CNFDensityEstimator(DensityMixin, NeuralODEEstimator):
    """Density estimator whose density is a standard normal carried by a neural ODE.

    A continuous normalizing flow [1]_: the standardised data are the end of ``dz/dt = f(t, z)`` started from a
    standard normal, and the exact log-density follows the instantaneous change of variables
    ``d log p(z(t)) / dt = -tr(df/dz)``. Trained by maximum likelihood through the solver. ``rtol``, ``atol`` and
    ``method`` are read at every call.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(64, 64)
        Widths of the hidden layers of the vector field. With one or two, the divergence is analytic; with more it
        costs one vector-Jacobian product per dimension.
    activation : {"tanh", "logistic", "softplus"}, default="tanh"
        Activation of the vector field; it must be smooth.
    alpha : float, default=0.0
        Strength of the L2 penalty on the weights, divided by the batch size.
    batch_size : int or "auto", default="auto"
        Samples in a batch; "auto" is a tenth of the samples, but at least 32 and at most 256.
    learning_rate : {"constant", "cosine"}, default="constant"
        How the learning rate goes on: "cosine" lets it fall to 0 over ``max_iter`` epochs along half a cosine
        (Loshchilov, Hutter, "SGDR", ICLR 2017), which suits a number of epochs that is chosen beforehand.
    learning_rate_init : float, default=3e-3
        Learning rate of Adam.
    max_iter : int, default=200
        Largest number of epochs.
    shuffle : bool, default=True
        Whether to shuffle the samples in each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, validation split and order of samples. Two fits with the same int on one machine
        are identical to the bit.
    tol : float, default=1e-3
        An epoch whose validation (or training) log-likelihood is not better than the best by ``tol`` nats counts as
        no improvement.
    verbose : bool, default=False
        Whether to print a line per epoch.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the last call.
    early_stopping : bool, default=True
        Whether to set aside ``validation_fraction`` of the samples, stop by their log-likelihood, and keep the
        weights that were best on them. A flow can follow single points of a small sample, so this is on by default.
    validation_fraction : float, default=0.1
        See ``early_stopping``.
    n_iter_no_change : int or None, default=10
        Epochs without improvement after which training stops; None: never.
    rtol, atol : float, default=1e-4
        Relative and absolute tolerance of the solver.
    method : str, default="dopri5"
        ODE method, one of :data:`skode.solvers.METHODS`.
    step_size : float or None, default=None
        Step size of fixed-step methods; None: 0.1.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        How gradients are computed; see :func:`skode.solvers.solve_ivp`.
    device : str, default="auto"
        Where to compute: "auto", "cpu", "cuda", ...
    dtype : {"float32", "float64"} or None, default=None
        What to compute in; None: X's own on the CPU, float32 elsewhere.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained flow, in standardised space.
    scaler_ : StandardScaler
        The standardisation of the data.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if they all are strings.
    n_iter_ : int
        Epochs run.
    loss_, best_loss_ : float
        Last and least mean negative log-likelihood in training, of the standardised data.
    loss_curve_ : list of float
        The same per epoch.
    validation_scores_ : list of float or None
        Mean log-likelihood of the standardised validation data per epoch, with ``early_stopping``.
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

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skode import CNFDensityEstimator
    >>> X, _ = make_moons(500, noise=0.1, random_state=0)
    >>> cnf = CNFDensityEstimator(hidden_layer_sizes=(32,), n_iter_no_change=3, random_state=0).fit(X)
    >>> cnf.score_samples(X[:3]).shape
    (3,)
    >>> cnf.sample(5, random_state=0).shape
    (5, 2)
    """

    module_: Flow

    _parameter_constraints: dict = {**COMMON_CONSTRAINTS}

    def __init__(
        self,
        hidden_layer_sizes: Any = (64, 64),
        activation: str = "tanh",
        *,
        alpha: float = 0.0,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 3e-3,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-3,
        verbose: Any = False,
        warm_start: bool = False,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = 10,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        method: str = "dopri5",
        step_size: float | None = None,
        adjoint: str = "discrete",
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
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
        self.device = device
        self.dtype = dtype

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> CNFDensityEstimator:
        """Fit the flow to samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored; here for scikit-learn's conventions.

        Returns
        -------
        self : CNFDensityEstimator
            The fitted estimator.

        Raises
        ------
        ValueError
            Where X is not as described, holds NaN or infinity, has fewer than 2 samples or a constant column, which
            has no density.
        """
        hidden = self._hidden_layers()
        if self.activation == "relu":
            raise ValueError("activation='relu' has no continuous divergence; choose 'tanh', 'logistic' or 'softplus'.")
        warm = self.warm_start and hasattr(self, "module_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2, reset=not warm)
        rng = check_random_state(self.random_state)
        device = resolve_device(self.device)
        dtype = next(self.module_.parameters()).dtype if warm else resolve_dtype(self.dtype, X, device)
        if not warm:
            self.scaler_ = fitted_scaler(X)
            self._refuse_constant_columns(X)
            field = MLPField(X.shape[1], hidden, self.activation, generator=new_generator(rng))
            self.module_ = Flow(field)
        self.module_.to(device=device, dtype=dtype)
        inputs = to_tensor(standardised(self.scaler_, X), dtype, device)

        train_rows, validate = np.arange(len(X)), None
        if self.early_stopping:
            train_rows, held_out = train_test_split(train_rows, test_size=self.validation_fraction, random_state=rng)
            validation = inputs[torch.from_numpy(held_out).to(device)]

            def validate() -> float:
                with torch.no_grad():
                    return float(self.module_.log_prob(validation, self._solve).mean())

        objective = _NegativeLogLikelihood(self.module_, inputs[torch.from_numpy(train_rows).to(device)], self._solve)
        self._fit_module(
            objective,
            len(train_rows),
            rng,
            auto_batch_size=min(max(len(train_rows) // 10, 32), 256),
            validate=validate,
            X=X,
            y=y,
            max_grad_norm=1.0,
        )
        return self

    def _refuse_constant_columns(self, X: np.ndarray) -> None:
        # Where a column's spread drowns in rounding, the scaler leaves it unscaled and its density would be wrong.
        unscaled = ~np.isclose(self.scaler_.scale_, np.sqrt(self.scaler_.var_), rtol=1e-3, atol=0.0)
        constant = np.flatnonzero(unscaled | (np.ptp(X, axis=0) == 0.0))
        if len(constant):
            names = getattr(self, "feature_names_in_", np.arange(X.shape[1]))[constant].tolist()
            raise ValueError(
                f"X has columns with one value only (up to rounding), which have no density: {names}. Drop or rescale "
                "them."
            )

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            Log-densities in nats, in the units of X.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        weight = next(self.module_.parameters())
        with torch.no_grad():
            inputs = to_tensor(standardised(self.scaler_, X), weight.dtype, weight.device)
            log_prob = to_numpy(self.module_.log_prob(inputs, self._solve))
        return log_prob - np.log(self.scaler_.scale_).sum()

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : None
            Ignored; here for scikit-learn's conventions.

        Returns
        -------
        float
            Mean log-density per sample in nats, as ``GaussianMixture.score``.
        """
        return float(self.score_samples(X).mean())

    @validate_params(
        {"n_samples": [Interval(Integral, 1, None, closed="left")], "random_state": ["random_state"]},
        prefer_skip_nested_validation=True,
    )
    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw samples from the fitted density.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState instance or None, default=None
            Source of the draws.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Samples, in the units of X.
        """
        check_is_fitted(self)
        rng = check_random_state(random_state)
        weight = next(self.module_.parameters())
        base = rng.standard_normal((n_samples, self.n_features_in_))
        with torch.no_grad():
            points = to_numpy(self.module_.push(to_tensor(base, weight.dtype, weight.device), self._solve))
        return self.scaler_.inverse_transform(points)
