"""``CNFDensityEstimator`` as a program, from samples to log-densities."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skode.density.discrete import Dequantiser, DiscreteVariable
from skode.density.flow import Flow
from skode.density.gaussianisation import Gaussianisation
from skode.density.gaussians import Gaussians
from skode.density.tables import Categories
from skode.dynamics.divergence import offers_divergence
from skode.serving import DivergenceGraph, Exports, Input, Program, TracedSolver, asinh, hypot1
from skode.training import as_python, of_one_model


class ExportsDensity(Exports):
    """Export of the density."""

    module_: Flow
    scaler_: Gaussianisation
    stacking_weights_: np.ndarray
    _scalers: list[Gaussianisation]
    _dequantiser: Dequantiser | None
    _categories: Categories | None

    def export(self, path: Any, format: str = "onnx", *, method: str = "score_samples") -> None:
        """Write a method of the fitted density to a file that runs without this package.

        Its input ``X`` is a tensor of shape (n_samples, n_features) of the flow's dtype, with the columns of ``fit``;
        in place of categories their numbers, positions among those that the file's description lists, or how many
        there are of them for one not seen. Its output ``log_density``, of shape (n_samples,), is that of the method:
        of the flow by the exact divergence, of the mixtures beside it, and with respect to counting on discrete
        variables. A sample that can't be solved is answered by NaN.

        Parameters
        ----------
        path : str or path-like
            The file. One that is there is replaced once the new one is whole.
        format : {"onnx", "torch"}, default="onnx"
            ONNX, or a program of ``torch.export`` (a ``.pt2`` file).
        method : {"score_samples"}, default="score_samples"
            The method.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ImportError
            Where a package is missing; the message says which.
        ValueError
            Where the solver's ``method`` is implicit or one of Adams', or a field can't be made a graph.
        """
        self._program(method).write(path, format)

    @of_one_model
    def _program(self, method: str = "score_samples") -> Program:
        """The program of the method."""
        check_is_fitted(self)
        if method != "score_samples":
            raise ValueError(f"method={method!r} can't be exported; choose 'score_samples'.")
        return Program(
            ExportedDensity(self),
            (Input.table(self.n_features_in_, self.module_.log_scale.dtype),),
            ("log_density",),
            {**self._description(method), "categories": self._listed_categories()},
        )

    def _listed_categories(self) -> dict[str, list[Any]]:
        """The categories in the order of their numbers, by the column's position."""
        if self._categories is None:
            return {}
        names, values = list(self._categories.template.columns), self._categories.values
        return {str(names.index(name)): [as_python(value) for value in found] for name, found in values.items()}


class ExportedDensity(nn.Module):
    """Log-densities of samples."""

    log_weights: Tensor

    def __init__(self, estimator: ExportsDensity) -> None:
        super().__init__()
        self.flow = flow = copy.deepcopy(estimator.module_).cpu().requires_grad_(False)
        flow.log_2pi = constant(flow.log_2pi, flow.log_scale)
        if not offers_divergence(flow.field):
            flow.field = DivergenceGraph(flow.field, flow.n_features)
        self.solver = TracedSolver(estimator._solver())
        self.scale = ExportedScaler(estimator.scaler_)
        self.scales = nn.ModuleList(ExportedScaler(scaler) for scaler in estimator._scalers)
        self.register_buffer("log_weights", torch.tensor(np.log(estimator.stacking_weights_)))
        dequantiser = estimator._dequantiser
        self.cells = None if dequantiser is None else ExportedCells(dequantiser)

    def forward(self, X: Tensor) -> Tensor:
        if self.cells is None:
            return self.log_prob(X.double(), X.dtype).to(X.dtype)
        points, log_ratios = self.cells(X.double())
        logs = self.log_prob(points.flatten(0, 1), X.dtype).unflatten(0, points.shape[:2])
        return (torch.logsumexp(logs + log_ratios, dim=1) - self.cells.log_n_points).to(X.dtype)

    def log_prob(self, points: Tensor, dtype: torch.dtype) -> Tensor:
        """See :meth:`skode.density.fitted.FittedDensity._log_prob`."""
        in_flow, log_det = self.scale(points)
        logs = [self.flow.log_prob(in_flow.to(dtype), self.solver)[0].double() + log_det]
        for scale, density in zip(self.scales, self.flow.beside, strict=True):
            scaled, log_det = scale(points)
            logs.append(log_prob_of(cast(Gaussians, density), scaled.to(dtype)).double() + log_det)
        return torch.logsumexp(torch.stack(logs, dim=1) + self.log_weights, dim=1) if self.scales else logs[0]


def log_prob_of(density: Gaussians, z: Tensor) -> Tensor:
    """See :meth:`skode.density.gaussians.Gaussians.log_prob`, at the data's time."""
    axes, variances, means = density.axes, density.variances, density.means
    if len(axes) == 1:
        scaled = axes[0] / variances[0].sqrt()
        squares = ((z @ scaled)[:, None] - (means @ scaled)[None]).square().sum(2)
    else:
        off = (z - means[:, None]) @ axes
        squares = (off.square() / variances[:, None]).sum(2).T
    log_2pi = constant(math.log(2.0 * math.pi), means)
    logs = density.log_weights - 0.5 * variances.log().sum(1) - 0.5 * z.shape[1] * log_2pi
    return torch.logsumexp(logs - 0.5 * squares, dim=1)


def constant(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor with a dimension: others are rounded to single precision in the graphs of ONNX."""
    return torch.tensor([float(value)], dtype=like.dtype)


class ExportedScaler(nn.Module):
    """See :class:`skode.density.gaussianisation.Gaussianisation`: points of the flow, and logarithms of slopes."""

    bent: Tensor
    mean: Tensor
    whitening: Tensor
    gamma: Tensor
    delta: Tensor
    xi: Tensor
    lam: Tensor
    constant: Tensor

    def __init__(self, scaler: Gaussianisation) -> None:
        super().__init__()
        marginals, d = scaler.marginals, len(scaler.mean)
        bent = np.zeros(d, dtype=bool)
        bent[marginals.columns] = True
        self.is_bent = bool(bent.any())
        arrays = {"bent": bent, "mean": scaler.mean, "whitening": scaler.whitening.T.copy()}
        for name, idle in (("gamma", 0.0), ("delta", 1.0), ("xi", 0.0), ("lam", 1.0)):
            values = np.full(d, idle)
            values[marginals.columns] = getattr(marginals, name)
            arrays[name] = values
        arrays["constant"] = np.linalg.slogdet(scaler.whitening)[1] + np.log(marginals.delta / marginals.lam).sum()
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(np.atleast_1d(array)))

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        log_slopes = torch.zeros_like(X[:, 0])
        if self.is_bent:
            u = (X - self.xi) / self.lam
            bent = self.gamma + self.delta * asinh(u)
            X = torch.where(self.bent, bent, X)
            log_slopes = torch.where(self.bent, torch.log(hypot1(u)), 0.0).sum(1)
        return (X - self.mean) @ self.whitening, self.constant - log_slopes


class ExportedCells(nn.Module):
    """See :meth:`skode.density.discrete.Dequantiser.log_density`: points in the cells of samples, by tables."""

    first: Tensor
    log_slopes: Tensor
    log_n_points: Tensor

    def __init__(self, dequantiser: Dequantiser) -> None:
        super().__init__()
        places, log_slopes = dequantiser.places()
        self.register_buffer("first", torch.tensor(dequantiser.first))
        self.register_buffer("log_slopes", torch.tensor(log_slopes))
        self.register_buffer("log_n_points", torch.tensor([math.log(len(places))], dtype=torch.float64))
        variables = zip(dequantiser.discrete, places.T, strict=True)
        self.variables = nn.ModuleList(ExportedVariable(j, variable, own) for (j, variable), own in variables)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Points of shape (n, n_points, n_variables), and what to add to their log-densities, (n, n_points)."""
        found = {cast(ExportedVariable, variable).position: variable(X) for variable in self.variables}
        continuous, log_ratios = X[:, self.first], self.log_slopes.expand(len(X), -1)
        columns = []
        for j in range(continuous.shape[1]):
            if j in found:
                points, log_ratio = found[j]
                columns.append(points)
                log_ratios = log_ratios + log_ratio
            else:
                columns.append(continuous[:, j : j + 1].expand_as(log_ratios))
        return torch.stack(columns, dim=2), log_ratios


class ExportedVariable(nn.Module):
    """Points in the cells of one variable's values, and of values that were not seen, by a table.

    Parameters
    ----------
    position : int
        Position of the variable among all.
    variable : DiscreteVariable
        The variable.
    places : ndarray of shape (n_points,)
        Places in the cells.
    """

    values: Tensor
    points: Tensor
    log_ratios: Tensor

    def __init__(self, position: int, variable: DiscreteVariable, places: np.ndarray) -> None:
        super().__init__()
        self.position, self.columns = position, variable.columns.tolist()
        probability = np.diff(variable.edges)[:, None]
        points = ndtri(variable.edges[:-1, None] + places * probability)
        log_ratios = np.log(probability) - norm.logpdf(points)
        for name, array in (("values", variable.values), ("points", points), ("log_ratios", log_ratios)):
            self.register_buffer(name, torch.tensor(array, dtype=torch.float64))

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        same = (X[:, None, self.columns] == self.values).all(2)
        code = torch.where(same.any(1), same.long().argmax(1), same.shape[1])
        sound = torch.isfinite(X[:, self.columns]).all(1)[:, None]  # NaN is no value that was not seen
        return self.points[code], torch.where(sound, self.log_ratios[code], torch.nan)
