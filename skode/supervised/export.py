"""``ODENetClassifier`` and ``ODENetRegressor`` as programs, from features to predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn import functional

from skode.serving import Exports, Input, Program, TracedSolver, hypot1
from skode.supervised.columns import CategoricalFeatures, Columns
from skode.supervised.inputs import CLIP
from skode.supervised.odenet import Network
from skode.training import as_python, of_one_model


class ExportsODENet(Exports):
    """Export of the network with all that comes before and after it."""

    image_shape: Any

    module_: Network
    scaler_: StandardScaler
    _categories: CategoricalFeatures
    _columns: Columns

    def _exported_answers(self) -> dict[str, tuple[str, nn.Module, dict[str, Any]]]:
        """By method, the first of them by default: the name of the answer, the module that makes it of the network's
        outputs, and what is told of it.
        """
        raise NotImplementedError

    def export(self, path: Any, format: str = "onnx", *, method: str | None = None) -> None:
        """Write a method of the fitted model to a file that runs without this package.

        Its input ``X`` is a tensor of shape (n_samples, n_features) of the network's dtype, with the columns of
        ``fit``: NaN where a value is missing, and in place of categories their codes, positions among those that the
        file's description lists. Steps, tolerances and all maps before and after the network are those of the method,
        and each sample has steps of its own; one that can't be solved is answered by NaN.

        Parameters
        ----------
        path : str or path-like
            The file. One that is there is replaced once the new one is whole.
        format : {"onnx", "torch"}, default="onnx"
            ONNX, or a program of ``torch.export`` (a ``.pt2`` file).
        method : str, default=None
            Of a classifier "predict_proba" (the default), "predict_log_proba" or "predict"; of a regressor "predict".
            The outputs are named "probabilities", "log_probabilities", "label" and "y". Classes that are not numbers
            are answered by their positions in ``classes_``, which the description has. Whole numbers can't be NaN: the
            label of a sample that can't be solved is the least number of its dtype, in place of a position the number
            of classes, and -1 for each of several labels.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ImportError
            Where a package is missing; the message says which.
        ValueError
            Where the solver's ``method`` is implicit or one of Adams', a field can't be made a graph, or a network of
            images in float64 or one with ``evolving_weights`` is to be ONNX, which does not have its operations.
        """
        program = self._program(method)
        if format == "onnx" and self.image_shape is not None and program.inputs[0].example.dtype == torch.float64:
            raise ValueError(
                "Runtimes of ONNX have no convolutions in double precision: fit with dtype='float32', or export with "
                "format='torch'."
            )
        program.write(path, format)

    @of_one_model
    def _program(self, method: str | None) -> Program:
        """The program of a method; None: of the first."""
        check_is_fitted(self, "module_")
        answers = self._exported_answers()
        method = next(iter(answers)) if method is None else method
        if method not in answers:
            raise ValueError(f"method={method!r} can't be exported; choose one of {sorted(answers)}.")
        name, answer, told = answers[method]
        return Program(
            ExportedODENet(self, answer),
            (Input.table(self.n_features_in_, self.module_.head.weight.dtype),),
            (name,),
            {**self._description(method), **told, "categories": self._listed_categories()},
        )

    def _listed_categories(self) -> dict[str, list[Any]]:
        """The categories in the order of their codes, by the feature's position."""
        encoder = self._categories.encoder
        if encoder is None:
            return {}
        categories = zip(self._categories.positions.tolist(), encoder.categories_, strict=True)
        return {str(j): [as_python(value) for value in values if not pd.isna(value)] for j, values in categories}


class ExportedODENet(nn.Module):
    """From features, with codes in place of categories, to an answer."""

    def __init__(self, estimator: ExportsODENet, answer: nn.Module) -> None:
        super().__init__()
        self.inputs = ExpandedColumns(estimator._columns, estimator.n_features_in_)
        self.scale = Scaled(estimator.scaler_, image=estimator.image_shape is not None)
        self.network, self.solver = estimator.module_, TracedSolver(estimator._solver())
        self.answer = answer

    def forward(self, X: Tensor) -> Tensor:
        x = self.scale(self.inputs(X.double())).to(X.dtype)
        return self.answer(self.network.outputs(x, self.solver)[0])


class ExpandedColumns(nn.Module):
    """See :meth:`skode.supervised.columns.Columns.expanded`."""

    def __init__(self, columns: Columns, n_features: int) -> None:
        super().__init__()
        self.is_identity = not columns.codes and not len(columns.missing)
        self.codes = {place: torch.tensor(codes, dtype=torch.float64) for place, codes in columns.codes.items()}
        self.missing = columns.missing.tolist()
        self.numbers = torch.tensor(columns.numbers)
        empty = np.zeros(len(columns.numbers), dtype=bool)
        empty[columns.empty] = True
        self.empty = torch.tensor(empty)

    def forward(self, X: Tensor) -> Tensor:
        if self.is_identity:
            return X
        numbers = torch.where(self.empty, 0.0, X[:, self.numbers])
        own = {place: X[:, place : place + 1] == codes for place, codes in self.codes.items()}
        missing = [~own[j].any(1) if j in own else torch.isnan(X[:, j]) for j in self.missing]
        columns = [*own.values(), *(column[:, None] for column in missing)]
        return torch.cat([numbers, *(column.double() for column in columns)], dim=1)


class Scaled(nn.Module):
    """See :meth:`skode.supervised.inputs.Inputs.scaled`."""

    mean: Tensor
    spread: Tensor

    def __init__(self, scaler: StandardScaler, *, image: bool) -> None:
        super().__init__()
        self.image = image
        self.register_buffer("mean", torch.tensor(scaler.mean_, dtype=torch.float64))
        self.register_buffer("spread", torch.tensor(scaler.scale_, dtype=torch.float64))

    def forward(self, X: Tensor) -> Tensor:
        if self.image:
            return (X - self.mean) / self.spread
        z = (torch.where(torch.isnan(X), self.mean, X) - self.mean) / self.spread
        return z / hypot1(z / CLIP)


class Probabilities(nn.Module):
    """Probabilities of classes, or of labels."""

    def __init__(self, *, multilabel: bool, log: bool = False) -> None:
        super().__init__()
        self.multilabel, self.log = multilabel, log

    def forward(self, outputs: Tensor) -> Tensor:
        if self.multilabel:
            return functional.logsigmoid(outputs) if self.log else outputs.sigmoid()
        return outputs.log_softmax(1) if self.log else outputs.softmax(1)


class Labels(nn.Module):
    """The most probable class of each sample, or 0 and 1 for each label; no class where a sample can't be solved.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The classes: numbers are the answers, of others it is their positions.
    multilabel : bool
        Whether a sample may have several labels.
    """

    classes: Tensor
    unsolved: Tensor

    def __init__(self, classes: np.ndarray, *, multilabel: bool) -> None:
        super().__init__()
        self.multilabel = multilabel
        numbers = classes.dtype.kind in "iuf"
        answers = torch.tensor(classes if numbers else np.arange(len(classes)))
        if not numbers:
            unsolved: float = len(classes)
        else:
            unsolved = torch.nan if answers.is_floating_point() else torch.iinfo(answers.dtype).min
        self.register_buffer("classes", answers)
        self.register_buffer("unsolved", torch.tensor([unsolved], dtype=answers.dtype))

    def forward(self, outputs: Tensor) -> Tensor:
        sound = torch.isfinite(outputs).all(1)
        if self.multilabel:
            return torch.where(sound[:, None], (outputs > 0).long(), -1)
        return torch.where(sound, self.classes[outputs.argmax(1)], self.unsolved)


class Unscaled(nn.Module):
    """Targets in the units of y."""

    mean: Tensor
    spread: Tensor

    def __init__(self, scaler: StandardScaler, *, one_dimensional: bool) -> None:
        super().__init__()
        self.one_dimensional = one_dimensional
        self.register_buffer("mean", torch.tensor(scaler.mean_, dtype=torch.float64))
        self.register_buffer("spread", torch.tensor(scaler.scale_, dtype=torch.float64))

    def forward(self, outputs: Tensor) -> Tensor:
        y = (outputs.double() * self.spread + self.mean).to(outputs.dtype)
        return y[:, 0] if self.one_dimensional else y
