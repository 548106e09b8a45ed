"""Regression by a network whose depth is the time of an ODE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import StrOptions
from torch import Tensor, nn

from skode.supervised.base import SUPERVISED_CONSTRAINTS, ODENetEstimator
from skode.supervised.export import Unscaled
from skode.supervised.objective import Losses, squared_errors
from skode.supervised.residuals import Residuals
from skode.supervised.trials import Trials
from skode.training import (
    TrainingSettings,
    array_api,
    array_api_fit,
    by_blocks,
    by_partition,
    check_level,
    check_numeric_targets,
    fitted_on,
    scored_by_partition,
    sound_scaler,
    standardised,
    to_numpy,
    to_tensor,
    train,
)


class ODENetRegressor(RegressorMixin, ODENetEstimator):
    """Regressor whose hidden layers are the solution of a neural ordinary differential equation.

    The features are standardised and squashed smoothly into (-3, 3) [2]_, mapped to a state ``z(0)``, carried by
    ``dz/dt = f(t, z)`` to ``z(1)``, and mapped to the targets, which are standardised as well: the ODE-Net of [1]_
    for tables. The solver chooses its number of steps, the network's depth, by ``rtol`` and ``atol``; both, and
    ``method``, are read at every call, so that a fitted regressor can predict at another tolerance than it was
    trained at. The loss is half the mean squared error of the standardised targets.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(64,)
        Widths of the hidden layers of the vector field ``f``.
    activation : {"tanh", "logistic", "softplus", "relu", "silu"}, default="silu"
        Activation of the vector field.
    state_size : int or None, default=64
        Size of the state ``z``. None: the standardised features are the state.
    augment_dim : int, default=0
        Number of zeros appended to the state [3]_: an ODE in more dimensions can represent maps that no ODE in the
        dimensions of the features can.
    categorical_features : "from_dtype", array-like of bool, int or str, or None, default="from_dtype"
        Which features are categories, as in scikit-learn's ``HistGradientBoosting`` models: columns of a frame whose
        dtype is one of categories; a mask; positions; names; or none. Each category that occurs in ``fit``, of 255 at
        most, becomes a column of 0 and 1; one that does not counts as missing. Missing values (NaN) of any feature
        are marked by a column of their own, and numbers replaced by their mean.
    field : str, torch.nn.Module or None, default=None
        The vector field, called as ``field(t, z)`` with ``z`` of shape (n, state_size + augment_dim), or
        (n, state_size + augment_dim, height, width) with ``image_shape``; it is copied. A random field (with dropout)
        may need ``adjoint="backprop"``. Or a name in :data:`skode.dynamics.fields.FIELDS`, for a field built from
        ``hidden_layer_sizes`` and ``activation``. None: a perceptron, or convolutions, built from these and
        ``time_dependent``.
    image_shape : tuple of (channels, height, width) or None, default=None
        Shape of the image, if the features are its pixels. The network is then convolutional, as in [1]_:
        convolutions make the image smaller, ``state_size`` and ``hidden_layer_sizes`` are numbers of channels, and
        group normalisation and ReLU take the place of ``activation``. All pixels are standardised together, and not
        squashed.
    image_shift : float, default=0.0
        Largest random shift of an image in training, in pixels and in either direction; its edges are repeated, and
        it is interpolated between pixels.
    n_blocks : int, default=1
        Number of ODEs for images; before each but the first the image is halved.
    time_dependent : bool, default=True
        Whether time is an input of the vector field.
    evolving_weights : bool, default=False
        Whether the vector field's weights evolve with time by another ODE [7]_, as combinations of two sets of
        weights. Such a field has no fast path.
    alpha : float or "auto", default="auto"
        Strength of the L2 penalty on the weights, divided by the batch size. "auto": training goes from weak to strong,
        in five stages within ``max_iter`` epochs; on part of the samples it goes all the way, and the loss on the
        others says at which of them training on all samples is to end. Of fewer than 50 samples that is the third. Of
        images, and in ``partial_fit``, it is 1.
    likelihood : "gaussian" or None, default=None
        Whether to learn how far predictions are off, for ``predict(return_std=True)`` and :meth:`predict_interval`:
        networks that are trained like the fitted one on part of the samples predict the others, a fifth at a time,
        until there are 120 residuals, which takes up to four times as long.
    input_dropout : float, default=0.0
        Fraction of the scaled features set to 0, their mean, at random for each sample in training.
    kinetic_energy, jacobian_norm : float, default=0.0
        Strength of penalties on the mean of ``|f|^2`` and of the squared norm of its Jacobian along the solution
        [4]_, per dimension of the state. They keep the dynamics easy, so that the solver takes fewer steps; training
        takes longer, as it leaves the fast path of the field.
    local_error : float, default=0.0
        Strength of a penalty on the solver's own error estimates [5]_, for adaptive explicit methods.
    steer : float, default=0.0
        Largest random change of the end time 1 in training, drawn for each batch, to either side [6]_; less than 1.
    batch_size : int or "auto", default="auto"
        Samples in a batch; "auto" is an eighth of a table, but at least 32 and at most 200, and 200 images. Equal
        samples count as one, with their weights added.
    learning_rate : {"constant", "cosine"}, default="cosine"
        Schedule of the learning rate: "cosine" lets it fall to 0 over ``max_iter`` epochs along half a cosine
        (Loshchilov, Hutter, "SGDR", ICLR 2017), which suits a fixed number of epochs, with
        ``n_iter_no_change=None``, so that training does not end earlier. In ``partial_fit`` it is constant.
    learning_rate_init : float, default=3e-3
        Learning rate of Adam.
    max_iter : int, default=100
        Largest number of epochs.
    max_time : float or None, default=None
        Seconds that ``fit`` or ``partial_fit`` may take; None: any number. The cosine schedule then follows the time
        where that is sooner over than ``max_iter`` epochs. A fit that is limited in this way depends on the
        speed of the machine.
    shuffle : bool, default=True
        Whether to shuffle the samples in each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, validation split and order of samples. Two fits with the same int on one machine
        are identical: to the bit in one process, and to rounding in two, each of which times once which of torch's
        libraries multiplies matrices faster.
    tol : float, default=1e-4
        An epoch whose loss (or validation score) is not better than the best by ``tol`` counts as no improvement.
    verbose : bool, default=False
        Whether to print a line per epoch.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the last call.
    early_stopping : bool, default=False
        Whether to set aside ``validation_fraction`` of the samples, to find the epoch that is best by their R2, and to
        train anew on all samples for as many epochs. With ``max_time`` the weights of that epoch are kept instead.
    validation_fraction : float, default=0.1
        See ``early_stopping``.
    n_iter_no_change : int or None, default=None
        Epochs without improvement after which training stops; None: never.
    rtol, atol : float, default=1e-3
        Relative and absolute tolerance of the solver.
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
    dtype : {"float32", "float64", "bfloat16"} or None, default=None
        Dtype of computations. None: on the CPU that of the X in ``fit``, elsewhere float32; training is in float32
        unless ``rtol`` or ``atol`` is below 1e-5. "bfloat16" is for images: convolutions (and a ``field`` of your own)
        in bfloat16 by autocast, parameters, states and the solver in float32; on a GPU it is faster, on most CPUs it
        is not. bfloat16 has 8 bits, which round the vector field by about 4e-3 of its size: ``rtol`` and ``atol``
        below about 1e-2 are beyond that precision, and may cost steps without being met. Implicit methods solve their
        equations to smaller errors than that, and take several times the evaluations.

    Attributes
    ----------
    n_outputs_ : int
        Number of targets.
    target_scaler_ : StandardScaler
        The standardisation of the targets.
    module_ : torch.nn.Module
        The trained network.
    scaler_ : StandardScaler
        The standardisation of the features.
    alpha_ : float
        Strength of the L2 penalty at the end of training.
    noise_std_ : ndarray of shape (n_outputs,)
        Standard deviation of a target about its prediction, with ``likelihood``.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if they all are strings.
    n_iter_ : int
        Epochs run, with the one that ``max_time`` ended.
    stop_reason_ : str
        Why training ended.
    loss_, best_loss_ : float
        Last and least training loss.
    loss_curve_ : list of float
        Training loss per epoch.
    validation_scores_ : list of float or None
        R2 on the validation set per epoch, with ``early_stopping``.
    best_validation_score_ : float or None
        The best of them.
    nfe_forward_, nfe_backward_ : list of float
        Evaluations of the vector field per solve and per gradient, mean over each epoch.

    See Also
    --------
    sklearn.neural_network.MLPRegressor : The same with a fixed number of layers.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural Ordinary Differential Equations",
       NeurIPS 2018, section 3.
    .. [2] D. Holzmueller, L. Grinsztajn, I. Steinwart, "Better by Default: Strong Pre-Tuned MLPs and Boosted Trees
       on Tabular Data", NeurIPS 2024: smooth clipping, ``z / sqrt(1 + (z / 3)^2)``.
    .. [3] E. Dupont, A. Doucet, Y. W. Teh, "Augmented Neural ODEs", NeurIPS 2019.
    .. [4] C. Finlay, J.-H. Jacobsen, L. Nurbekyan, A. Oberman, "How to train your neural ODE: the world of Jacobian
       and kinetic regularization", ICML 2020.
    .. [5] A. Pal, Y. Ma, V. Shah, C. Rackauckas, "Opening the blackbox: accelerating neural differential equations by
       regularizing internal solver heuristics", ICML 2021.
    .. [6] A. Ghosh, H. Behl, E. Dupont, P. Torr, V. Namboodiri, "STEER: simple temporal regularization for neural
       ODEs", NeurIPS 2020.
    .. [7] T. Zhang, Z. Yao, A. Gholami, K. Keutzer, J. Gonzalez, G. Biros, M. W. Mahoney, "ANODEV2: A Coupled Neural
       ODE Framework", NeurIPS 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skode import ODENetRegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> reg = ODENetRegressor(max_iter=20, tol=1e-2, n_iter_no_change=3, random_state=0).fit(X, y)
    >>> reg.predict(X[:2]).shape
    (2,)
    >>> bool(reg.score(X, y) > 0.4)
    True
    """

    _parameter_constraints: dict = {**SUPERVISED_CONSTRAINTS, "likelihood": [StrOptions({"gaussian"}), None]}

    _y_is_numeric = True

    def __init__(
        self,
        hidden_layer_sizes: Any = (64,),
        activation: str = "silu",
        *,
        state_size: int | None = 64,
        augment_dim: int = 0,
        categorical_features: Any = "from_dtype",
        field: nn.Module | str | None = None,
        image_shape: Any = None,
        image_shift: float = 0.0,
        n_blocks: int = 1,
        time_dependent: bool = True,
        evolving_weights: bool = False,
        alpha: Any = "auto",
        likelihood: str | None = None,
        input_dropout: float = 0.0,
        kinetic_energy: float = 0.0,
        jacobian_norm: float = 0.0,
        local_error: float = 0.0,
        steer: float = 0.0,
        batch_size: Any = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 3e-3,
        max_iter: int = 100,
        max_time: float | None = None,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = None,
        rtol: float = 1e-3,
        atol: float = 1e-3,
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
        self.state_size = state_size
        self.augment_dim = augment_dim
        self.categorical_features = categorical_features
        self.field = field
        self.image_shape = image_shape
        self.image_shift = image_shift
        self.n_blocks = n_blocks
        self.time_dependent = time_dependent
        self.evolving_weights = evolving_weights
        self.alpha = alpha
        self.likelihood = likelihood
        self.input_dropout = input_dropout
        self.kinetic_energy = kinetic_energy
        self.jacobian_norm = jacobian_norm
        self.local_error = local_error
        self.steer = steer
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
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ODENetRegressor:
        """Fit the network to samples with targets.

        Parameters
        ----------
        X : array-like, sparse matrix or BlockTable of shape (n_samples, n_features)
            Features. Sparse ones are made dense a batch at a time, and tables of :mod:`skode.io` read in blocks.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none negative; 1 where None.

        Returns
        -------
        self : ODENetRegressor
            The fitted regressor.

        Raises
        ------
        ValueError
            Where X or y are not as described, or X holds infinity, or y NaN.
        """
        return self._fit(X, y, sample_weight)

    @_fit_context(prefer_skip_nested_validation=True)
    @array_api_fit
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> ODENetRegressor:
        """Train for one epoch on a batch, going on from the last call.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`fit`.

        Returns
        -------
        self : ODENetRegressor
            The regressor.
        """
        return self._fit(X, y, sample_weight, partial=True)

    def _encode(self, y: np.ndarray, *, first: bool, classes: Any = None) -> np.ndarray:
        targets = check_numeric_targets(y, type(self).__name__)
        n_outputs = 1 if y.ndim == 1 else y.shape[1]
        if not first and n_outputs != self.n_outputs_:
            raise ValueError(f"y has {n_outputs} outputs, but the last fit had {self.n_outputs_}.")
        self.n_outputs_, self._one_dimensional = n_outputs, y.ndim == 1
        return targets.reshape(len(targets), -1)

    def _prepare(self, parts: Iterable[tuple[np.ndarray, np.ndarray]], *, first: bool) -> None:
        if not first:
            return
        scaler = StandardScaler()
        for targets, weights in parts:
            fitted_on(scaler, targets, weights)
        self.target_scaler_ = sound_scaler(scaler, what="y")
        # A constant target has no spread to scale by; if it is small, its size is the scale.
        constant = ~np.isclose(scaler.scale_, np.sqrt(scaler.var_), rtol=1e-3, atol=0.0) & (scaler.mean_ != 0.0)
        scaler.scale_ = np.where(constant, np.minimum(np.abs(scaler.mean_), 1.0), scaler.scale_)

    def _as_tensor(self, targets: np.ndarray, like: Tensor) -> Tensor:
        return to_tensor(standardised(self.target_scaler_, targets), like.dtype, like.device)

    def _losses(self) -> Losses:
        return squared_errors

    def _score(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> float:
        return float(r2_score(to_numpy(targets), to_numpy(outputs), sample_weight=to_numpy(weights)))

    def _calibrate(self, trials: Trials, settings: TrainingSettings) -> None:
        self.__dict__.pop("_residuals", None)
        if self.likelihood is None:
            return
        sizes, weights = [], []
        for kept, held_out in trials.parts():
            objective, others = trials.trial(kept, held_out)
            train(objective, len(kept), replace(settings, phase="Training without those held out"), trials.rng)
            residuals = self._evaluated(objective.network, others) - others.y
            sizes.append(np.abs(to_numpy(residuals)) * self.target_scaler_.scale_)
            weights.append(to_numpy(others.weights))
        if not sizes:
            raise ValueError(
                f"likelihood={self.likelihood!r} needs two samples at least that differ in their features."
            )
        self._residuals = Residuals(np.concatenate(sizes), np.concatenate(weights))
        self.noise_std_ = self._residuals.standard_deviation

    @by_partition
    @array_api
    @by_blocks
    def predict(self, X: Any, *, return_std: bool = False, return_nfe: bool = False) -> Any:
        """Targets of samples.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        return_std : bool, default=False
            Whether to return the standard deviation of each target about its prediction as well; with ``likelihood``.
        return_nfe : bool, default=False
            Whether to return the number of evaluations of the vector field for each sample as well, its depth.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        std : ndarray of the shape of ``y``
            Only with ``return_std``.
        nfe : ndarray of int, of shape (n_samples,)
            Only with ``return_nfe``.

        Raises
        ------
        ValueError
            Where ``return_std`` is True but the fit had no ``likelihood``.
        """
        outputs, nfe = self._predicted(X)
        y = self.target_scaler_.inverse_transform(to_numpy(outputs))
        answers = [y]
        if return_std:
            answers.append(np.broadcast_to(self._known_residuals().standard_deviation, y.shape).astype(y.dtype))
        if self._one_dimensional:
            answers = [answer[:, 0] for answer in answers]
        if return_nfe:
            answers.append(nfe)
        return tuple(answers) if len(answers) > 1 else answers[0]

    @by_partition
    @array_api
    def predict_interval(self, X: Any, level: float = 0.9) -> np.ndarray:
        """Intervals about the predictions that hold a share of new targets, by residuals of samples held out.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        level : float, default=0.9
            The share, between 0 and 1.

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, n_outputs, 2)
            Lower and upper ends, in the units of y.

        Raises
        ------
        ValueError
            Where the fit had no ``likelihood``, or ``level`` is not between 0 and 1.
        """
        check_level(level)
        y = self.predict(X)
        half = self._known_residuals().half_width(level).astype(y.dtype)
        half = half[0] if self._one_dimensional else half
        return np.stack([y - half, y + half], axis=-1)

    def _known_residuals(self) -> Residuals:
        if not hasattr(self, "_residuals"):
            raise ValueError('Spreads and intervals are known after a fit with likelihood="gaussian" only.')
        return self._residuals

    def _exported_answers(self) -> dict[str, tuple[str, nn.Module, dict[str, Any]]]:
        return {"predict": ("y", Unscaled(self.target_scaler_, one_dimensional=self._one_dimensional), {})}

    @scored_by_partition("predict")
    @array_api
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination on samples with targets.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none negative; 1 where None.

        Returns
        -------
        float
            :math:`R^2`, averaged over the targets.
        """
        return self._scored(super().score, X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
