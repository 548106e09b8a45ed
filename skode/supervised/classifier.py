"""Classification by a network whose depth is the time of an ODE."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from numbers import Number
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.exceptions import DataConversionWarning
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d
from torch import Tensor, nn
from torch.nn import functional

from skode.supervised.base import SUPERVISED_CONSTRAINTS, ODENetEstimator
from skode.supervised.export import Labels, Probabilities
from skode.supervised.objective import Losses, binary_cross_entropies, cross_entropies
from skode.training import (
    array_api,
    array_api_fit,
    as_python,
    by_blocks,
    by_partition,
    check_argument,
    check_missing_labels,
    scored_by_partition,
    to_numpy,
    warn_caller,
)


class ODENetClassifier(ClassifierMixin, ODENetEstimator):
    """Classifier whose hidden layers are the solution of a neural ordinary differential equation.

    The features are standardised and squashed smoothly into (-3, 3) [2]_, mapped to a state ``z(0)``, carried by
    ``dz/dt = f(t, z)`` to ``z(1)``, and mapped to the classes' log-odds: the ODE-Net of [1]_ for tables. The solver
    chooses its number of steps, the network's depth, by ``rtol`` and ``atol``; both, and ``method``, are read at
    every call, so that a fitted classifier can predict at another tolerance than it was trained at.

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
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes; "balanced" is inversely proportional to their frequencies.
    input_dropout : float, default=0.1
        Fraction of the scaled features set to 0, their mean, at random for each sample in training. 0 suits tables of
        two or three features.
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
    learning_rate : {"cosine", "constant"}, default="cosine"
        Schedule of the learning rate: "cosine" lets it fall to 0 over ``max_iter`` epochs along half a cosine
        (Loshchilov, Hutter, "SGDR", ICLR 2017). In ``partial_fit`` it is constant.
    learning_rate_init : float, default=3e-3
        Initial learning rate of Adam.
    max_iter : int, default=80
        Largest number of epochs. A constant learning rate needs more, such as 200.
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
        Whether to set aside ``validation_fraction`` of the samples (stratified), to find the epoch that is best by
        their log loss, and to train anew on all samples for as many epochs. With ``max_time`` the weights of that
        epoch are kept instead.
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
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; where a sample may have several labels, their positions.
    n_outputs_ : int
        Number of classes.
    target_type_ : {"binary", "multiclass", "multilabel-indicator"}
        Type of y.
    module_ : torch.nn.Module
        The trained network.
    scaler_ : StandardScaler
        The standardisation of the features.
    alpha_ : float
        Strength of the L2 penalty at the end of training.
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
        Minus the mean loss on the validation set per epoch, with ``early_stopping``.
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
    >>> from sklearn.datasets import load_iris
    >>> from skode import ODENetClassifier
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> clf = ODENetClassifier(max_iter=30, random_state=0).fit(X, y)
    >>> clf.predict_proba(X[:2]).shape
    (2, 3)
    >>> bool(clf.score(X, y) > 0.9)
    True
    """

    classes_: np.ndarray
    target_type_: str

    _parameter_constraints: dict = {
        **SUPERVISED_CONSTRAINTS,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

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
        class_weight: Any = None,
        input_dropout: float = 0.1,
        kinetic_energy: float = 0.0,
        jacobian_norm: float = 0.0,
        local_error: float = 0.0,
        steer: float = 0.0,
        batch_size: Any = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 3e-3,
        max_iter: int = 80,
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
        self.class_weight = class_weight
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
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ODENetClassifier:
        """Fit the network to labelled samples.

        Parameters
        ----------
        X : array-like, sparse matrix or BlockTable of shape (n_samples, n_features)
            Features. Sparse ones are made dense a batch at a time, and tables of :mod:`skode.io` read in blocks.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Class labels: integers, strings or booleans; or, where a sample may have several labels, 0 and 1 for each.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none negative; 1 where None.

        Returns
        -------
        self : ODENetClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            Where X or y are not as described, X holds infinity, or y has one class only.
        """
        return self._fit(X, y, sample_weight)

    @_fit_context(prefer_skip_nested_validation=True)
    @array_api_fit
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> ODENetClassifier:
        """Train for one epoch on a batch, going on from the last call.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`fit`.
        classes : array-like of shape (n_classes,), default=None
            All classes that may occur; needed where the first call's y has not all. At later calls the same, or None.

        Returns
        -------
        self : ODENetClassifier
            The classifier.
        """
        if self.class_weight == "balanced":
            raise ValueError('class_weight="balanced" is not known from a part of the data: pass weights as a dict.')
        return self._fit(X, y, sample_weight, partial=True, classes=classes)

    @property
    def _multilabel(self) -> bool:
        return self.target_type_ == "multilabel-indicator"

    def _encode(self, y: np.ndarray, *, first: bool, classes: Any = None) -> np.ndarray:
        check_missing_labels(y)
        check_label_types(y)
        with check_argument("y"):
            check_classification_targets(y)
            target_type = type_of_target(y, input_name="y")
        if target_type not in ("binary", "multiclass", "multilabel-indicator"):
            raise ValueError(
                f"Classification of targets of the type {target_type!r} is not supported: y may have one column of "
                "labels, or a column of 0 and 1 for each label. For several columns of labels fit one classifier each "
                "(sklearn.multioutput.MultiOutputClassifier)."
            )
        several = target_type == "multilabel-indicator"
        if y.ndim == 2 and not several:
            warn_caller(
                "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
                "(n_samples, ), for example using ravel().",
                DataConversionWarning,
            )
        labels = y if several else column_or_1d(y)
        found = np.arange(y.shape[1]) if several else np.unique(labels)
        known = (found if classes is None else np.unique(np.asarray(classes))) if first else self.classes_
        if not first and several != self._multilabel:
            raise ValueError(f"y is {target_type}, but the last fit's was {self.target_type_}.")
        if not first and classes is not None and not np.array_equal(np.unique(np.asarray(classes)), known):
            raise ValueError(
                f"classes={np.asarray(classes).tolist()}, but those of the first call were {known.tolist()}, which "
                "later ones can't change: leave classes out, or start anew with a clone of the estimator."
            )
        unknown = np.setdiff1d(found, known)
        if len(unknown) or (several and len(found) != len(known)):
            raise ValueError(
                f"y has labels {unknown.tolist() or found.tolist()}, not among those of the first fit or of "
                f"classes, {known.tolist()}. Pass all labels as classes at the first call of partial_fit, or fit anew "
                "with warm_start=False."
            )
        if len(known) < 2 and not several:
            raise ValueError(
                "This solver needs samples of at least 2 classes in y, but the data contains only one class: "
                f"{known.tolist()[0]!r}. See that y holds the labels and that splits are stratified; partial_fit takes "
                "all labels as classes."
            )
        if first:
            self.target_type_, self.classes_, self.n_outputs_ = target_type, known, len(known)
        return np.asarray(labels, dtype=np.float64) if several else np.searchsorted(known, labels)

    def _weights(self, targets: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
        if self.class_weight is None:
            return sample_weight
        self._check_class_weight_applies()
        factors = compute_sample_weight(self.class_weight, self.classes_[targets])
        self._check_class_factors(factors)
        weights = sample_weight * factors
        if not weights.any():
            raise ValueError(f"class_weight={self.class_weight!r} and sample_weight leave no sample any weight.")
        return weights

    def _check_class_weight_applies(self) -> None:
        if self._multilabel:
            raise ValueError("class_weight is not supported where a sample may have several labels.")

    def _check_class_factors(self, factors: np.ndarray) -> None:
        if not (np.isfinite(factors).all() and (factors >= 0.0).all()):
            raise ValueError(f"class_weight must hold finite numbers >= 0, got {self.class_weight!r}.")

    def _in_brief(self, parts: Iterator[np.ndarray]) -> np.ndarray:
        """All labels, each once; of several for each sample, those of the first part."""
        first = next(parts)
        if first.ndim == 2:
            return first
        labels = first[:0]
        for part in itertools.chain([first], parts):
            check_label_types(part)
            with check_argument("y"):
                check_classification_targets(part)
            labels = np.unique(np.concatenate([labels, np.unique(part)]))
        return labels

    def _class_factors(self, parts: Iterable[np.ndarray]) -> np.ndarray | None:
        if self.class_weight is None:
            return None
        self._check_class_weight_applies()
        n_classes = len(self.classes_)
        balanced = isinstance(self.class_weight, str)
        numbers = (np.bincount(part, minlength=n_classes) for part in parts)
        counts = np.sum([*numbers], axis=0) if balanced else np.ones(n_classes)
        known, factors = self.classes_[counts > 0], np.ones(n_classes)
        own = compute_class_weight(self.class_weight, classes=known, y=known, sample_weight=counts[counts > 0])
        factors[counts > 0] = own
        self._check_class_factors(factors)
        return factors

    def _as_tensor(self, targets: np.ndarray, like: Tensor) -> Tensor:
        tensor = torch.from_numpy(targets).to(like.device)
        return tensor.to(like.dtype) if self._multilabel else tensor

    def _losses(self) -> Losses:
        return binary_cross_entropies if self._multilabel else cross_entropies

    def _score(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> float:
        return -float((weights * self._losses()(outputs, targets)).sum() / weights.sum())

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        return None if self._multilabel else targets

    def _split(
        self, rows: np.ndarray, targets: np.ndarray, rng: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        if not self._multilabel:
            single = np.flatnonzero(np.bincount(targets[rows], minlength=len(self.classes_)) == 1)
            if len(single):
                raise self._cannot_set_aside(
                    len(rows),
                    f"there is one sample only of {self.classes_[single].tolist()}, and each class needs one to train "
                    "on and one to set aside. Set early_stopping=False, or leave out or merge such classes",
                )
        return super()._split(rows, targets, rng)

    def _decided(self, outputs: Tensor) -> Tensor:
        """Codes of the predicted labels, of shape (n,), or 0 and 1 for each label."""
        return (outputs > 0).long() if self._multilabel else outputs.argmax(1)

    @by_partition
    @array_api
    @by_blocks
    def predict(self, X: Any, *, return_nfe: bool = False) -> Any:
        """Most probable class of each sample, or all labels that are more probable than not.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        return_nfe : bool, default=False
            Whether to return the number of evaluations of the vector field for each sample as well, its depth.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            Class labels.
        nfe : ndarray of int, of shape (n_samples,)
            Only with ``return_nfe``.
        """
        outputs, nfe = self._predicted(X)
        decided = to_numpy(self._decided(outputs))
        labels = decided if self._multilabel else self.classes_[decided]
        return (labels, nfe) if return_nfe else labels

    @by_partition
    @array_api
    @by_blocks
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities, in the order of ``classes_``; each row sums to 1 unless samples may have several labels.
        """
        outputs = self._predicted(X)[0]
        return to_numpy(outputs.sigmoid() if self._multilabel else outputs.softmax(1))

    @by_partition
    @array_api
    @by_blocks
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log-probabilities of the classes.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Logarithms of the probabilities, in the order of ``classes_``.
        """
        outputs = self._predicted(X)[0]
        return to_numpy(functional.logsigmoid(outputs) if self._multilabel else outputs.log_softmax(1))

    def _exported_answers(self) -> dict[str, tuple[str, nn.Module, dict[str, Any]]]:
        several = self._multilabel
        told = {"classes": [as_python(label) for label in self.classes_]}
        return {
            "predict_proba": ("probabilities", Probabilities(multilabel=several), told),
            "predict_log_proba": ("log_probabilities", Probabilities(multilabel=several, log=True), told),
            "predict": ("label", Labels(self.classes_, multilabel=several), told),
        }

    @scored_by_partition("predict")
    @array_api
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on samples with labels; where a sample may have several, the share of those with all labels right.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            True labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, none negative; 1 where None.

        Returns
        -------
        float
            Mean accuracy.
        """
        return self._scored(super().score, X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def check_label_types(y: np.ndarray) -> None:
    """Raise a ValueError for labels of types that have no order among each other, as text and numbers."""
    kinds: dict[type, Any] = {}
    for label in y.flat if y.dtype == object else ():
        kinds.setdefault(next((kind for kind in (str, Number) if isinstance(label, kind)), type(label)), label)
    if len(kinds) > 1:
        found = " and ".join(f"{label!r} ({type(label).__name__})" for label in kinds.values())
        raise ValueError(f"y mixes labels of several types, such as {found}: make them one, as by y.astype(str).")
