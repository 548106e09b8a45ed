"""Classification by a network whose depth is the time of an ODE."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional

from skode.dynamics import MLPField, affine
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

#: Standardised features are squashed smoothly into (-CLIP, CLIP), as Holzmueller et al. (2024) do.
CLIP = 3.0


class ODENet(nn.Module):
    """An affine map into the state space, an ODE over ``0 <= t <= 1``, and an affine map to the outputs.

    Parameters
    ----------
    n_features, n_outputs : int
        Sizes of input and output.
    state_size : int or None
        Size of the ODE's state; None for the features themselves, without a map.
    field_options : dict
        Passed to :class:`skode.dynamics.MLPField`.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        state_size: int | None,
        field_options: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.embedding = affine(n_features, state_size, generator) if state_size is not None else nn.Identity()
        size = n_features if state_size is None else state_size
        self.field = MLPField(size, generator=generator, **field_options)
        self.head = affine(size, n_outputs, generator)

    def forward(self, x: Tensor, solve: Solve, solves: list[Statistics] | None = None) -> Tensor:
        """Outputs of shape (n, n_outputs) for inputs of shape (n, n_features)."""
        solution = solve(self.field, (0.0, 1.0), self.embedding(x), t_eval=(1.0,))
        if solves is not None:
            solves.append(solution.statistics)
        return self.head(solution.y[-1])


class _CrossEntropy:
    """Mean cross-entropy of the network over batches, with dropout on its inputs."""

    def __init__(
        self, module: ODENet, X: Tensor, y: Tensor, solve: Solve, dropout: float, generator: torch.Generator
    ) -> None:
        self.module, self.X, self.y, self.solve = module, X, y, solve
        self.dropout, self.generator = dropout, generator
        self.solves: list[Statistics] = []

    def parameters(self):
        return self.module.parameters()

    def loss(self, rows: np.ndarray) -> Tensor:
        chosen = torch.from_numpy(rows).to(self.X.device)
        x = self.X[chosen]
        if self.dropout:
            kept = torch.rand(x.shape, generator=self.generator) >= self.dropout
            x = x * kept.to(x) / (1.0 - self.dropout)
        return functional.cross_entropy(self.module(x, self.solve, self.solves), self.y[chosen])


class ODENetClassifier(ClassifierMixin, NeuralODEEstimator):
    """Classifier whose hidden layers are the solution of a neural ordinary differential equation.

    The features are standardised and squashed smoothly into (-3, 3) [2]_, mapped to a state ``z(0)``, carried by
    ``dz/dt = f(t, z)`` to ``z(1)``, and mapped to the classes' log-odds: the ODE-Net of [1]_ for tables. The solver
    chooses its number of steps, the network's depth, by ``rtol`` and ``atol``; both, and ``method``, are read at
    every call, so that a fitted classifier can predict at another tolerance than it was trained at.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(64,)
        Widths of the hidden layers of the vector field ``f``.
    activation : {"tanh", "logistic", "softplus", "relu"}, default="tanh"
        Activation of the vector field.
    state_size : int or None, default=64
        Size of the state ``z``. None: the standardised features are the state.
    time_dependent : bool, default=True
        Whether time is an input of the vector field.
    alpha : float, default=1.0
        Strength of the L2 penalty on the weights, divided by the batch size.
    input_dropout : float, default=0.1
        Share of the scaled features that is set to 0, their mean, at random for each sample in training. 0 suits
        tables of two or three features.
    batch_size : int or "auto", default="auto"
        Samples in a batch; "auto" is ``min(200, n_samples)``.
    learning_rate_init : float, default=1e-3
        Learning rate of Adam.
    max_iter : int, default=200
        Largest number of epochs.
    shuffle : bool, default=True
        Whether to shuffle the samples in each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, validation split and order of samples. Two fits with the same int on one machine
        are identical to the bit.
    tol : float, default=1e-4
        An epoch whose loss (or validation score) is not better than the best by ``tol`` counts as no improvement.
    verbose : bool, default=False
        Whether to print a line per epoch.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the last call.
    early_stopping : bool, default=False
        Whether to set aside ``validation_fraction`` of the samples (stratified), stop by their accuracy, and keep
        the weights that were best on them.
    validation_fraction : float, default=0.1
        See ``early_stopping``.
    n_iter_no_change : int or None, default=10
        Epochs without improvement after which training stops; None: never.
    rtol, atol : float, default=1e-3
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
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted.
    module_ : torch.nn.Module
        The trained network.
    scaler_ : StandardScaler
        The standardisation of the features.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if they all are strings.
    n_iter_ : int
        Epochs run.
    loss_, best_loss_ : float
        Last and least training loss.
    loss_curve_ : list of float
        Training loss per epoch.
    validation_scores_ : list of float or None
        Accuracy on the validation set per epoch, with ``early_stopping``.
    best_validation_score_ : float or None
        The best of them.
    nfe_forward_, nfe_backward_ : list of float
        Evaluations of the vector field per solve and per gradient, mean over each epoch.

    See Also
    --------
    sklearn.neural_network.MLPClassifier : The same with a fixed number of layers.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural Ordinary Differential Equations",
       NeurIPS 2018, section 3.
    .. [2] D. Holzmueller, L. Grinsztajn, I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees
       on Tabular Data", NeurIPS 2024: smooth clipping, ``z / sqrt(1 + (z / 3)^2)``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skode import ODENetClassifier
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> clf = ODENetClassifier(learning_rate_init=1e-2, n_iter_no_change=5, random_state=0).fit(X, y)
    >>> clf.predict_proba(X[:2]).shape
    (2, 3)
    >>> bool(clf.score(X, y) > 0.9)
    True
    """

    module_: ODENet
    classes_: np.ndarray

    _parameter_constraints: dict = {
        **COMMON_CONSTRAINTS,
        "state_size": [Interval(Integral, 1, None, closed="left"), None],
        "time_dependent": ["boolean"],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (64,),
        activation: str = "tanh",
        *,
        state_size: int | None = 64,
        time_dependent: bool = True,
        alpha: float = 1.0,
        input_dropout: float = 0.1,
        batch_size: Any = "auto",
        learning_rate_init: float = 1e-3,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = 10,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        method: str = "dopri5",
        step_size: float | None = None,
        adjoint: str = "discrete",
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.state_size = state_size
        self.time_dependent = time_dependent
        self.alpha = alpha
        self.input_dropout = input_dropout
        self.batch_size = batch_size
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
    def fit(self, X: Any, y: Any) -> ODENetClassifier:
        """Fit the network to labelled samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,)
            Class labels: integers, strings or booleans.

        Returns
        -------
        self : ODENetClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            Where X or y are not as described, hold NaN or infinity, or y has one class only.
        """
        hidden = self._hidden_layers()
        warm = self.warm_start and hasattr(self, "module_")
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=not warm)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"This solver needs samples of at least 2 classes in y, but the data contains only one class: "
                f"{classes.tolist()[0]!r}."
            )
        if warm and not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"warm_start=True needs the classes of the last fit, {self.classes_.tolist()}, got {classes.tolist()}."
            )
        rng = check_random_state(self.random_state)
        device = resolve_device(self.device)
        dtype = self.module_.head.weight.dtype if warm else resolve_dtype(self.dtype, X, device)
        self.classes_ = classes
        if not warm:
            self.scaler_ = fitted_scaler(X)
            options = {
                "hidden_layer_sizes": hidden,
                "activation": self.activation,
                "time_dependent": self.time_dependent,
            }
            self.module_ = ODENet(X.shape[1], len(classes), self.state_size, options, new_generator(rng))
        self.module_.to(device=device, dtype=dtype)
        inputs = to_tensor(self._scaled(X), dtype, device)
        labels = torch.from_numpy(codes).to(device)

        train_rows, validate = np.arange(len(X)), None
        if self.early_stopping:
            train_rows, held_out = self._split(codes, rng)
            held_out_rows = torch.from_numpy(held_out).to(device)

            def validate() -> float:
                with torch.no_grad():
                    logits = self.module_(inputs[held_out_rows], self._solve)
                return float((logits.argmax(1) == labels[held_out_rows]).double().mean())

        chosen = torch.from_numpy(train_rows).to(device)
        objective = _CrossEntropy(
            self.module_, inputs[chosen], labels[chosen], self._solve, self.input_dropout, new_generator(rng)
        )
        self._fit_module(objective, len(train_rows), rng, validate=validate, X=X, y=y)
        return self

    def _split(self, codes: np.ndarray, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to hold out, stratified by class."""
        try:
            return train_test_split(
                np.arange(len(codes)), test_size=self.validation_fraction, random_state=rng, stratify=codes
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping=True can't set aside validation_fraction={self.validation_fraction} of "
                f"{len(codes)} samples: {error}"
            ) from error

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Features standardised, and squashed smoothly so that no outlier is far from the rest."""
        z = standardised(self.scaler_, X)
        return z / np.hypot(1.0, z / CLIP)

    def _logits(self, X: Any) -> Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        weight = self.module_.head.weight
        with torch.no_grad():
            return self.module_(to_tensor(self._scaled(X), weight.dtype, weight.device), self._solve)

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples,)
            Class labels.
        """
        most_probable = self._logits(X).argmax(1)
        return self.classes_[to_numpy(most_probable)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``.
        """
        return to_numpy(self._logits(X).softmax(1))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log-probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Logarithms of the probabilities, in the order of ``classes_``.
        """
        return to_numpy(self._logits(X).log_softmax(1))
