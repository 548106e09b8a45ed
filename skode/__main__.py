"""``python -m skode``: versions, devices, and whether everything works here."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

import skode
from skode.dynamics import MLPField
from skode.solvers import METHODS, solve_ivp
from skode.solvers.adjoints import ADJOINTS

PACKAGES = ("torch", "numpy", "pandas", "scikit-learn", "scipy", "joblib", "matplotlib", "rich")


class CheckError(Exception):
    """A statement that does not hold here."""


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Refuse numbers that are farther from the expected ones than a tolerance."""
    off = float((found.double().cpu() - expected.double().cpu()).abs().max())
    if not off <= tolerance:
        raise CheckError(f"off by {off:.3g}, more than {tolerance:.3g}")


def versions() -> list[str]:
    """Lines that name the versions of everything that matters; "not installed" for what is optional and missing."""
    lines = [f"skode {skode.__version__}", f"python {platform.python_version()} on {platform.platform()}"]
    for name in PACKAGES:
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name} not installed")
    return lines


def devices() -> list[str]:
    """Lines that name what can be computed on."""
    lines = [f"cpu: {torch.get_num_threads()} threads"]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        lines.append(f"cuda:{i}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return lines if len(lines) > 1 else [*lines, "cuda: none"]


def check_explicit() -> None:
    """Decay: ``y' = -y``."""
    y = solve_ivp(lambda t, y: -y, (0.0, 2.0), torch.ones(3, dtype=torch.float64), rtol=1e-8, atol=1e-10).y[-1]
    close(y, torch.full((3,), math.exp(-2.0)), 1e-6)


def check_stiff() -> None:
    """Prothero and Robinson's problem, ``y' = -1e6 (y - cos t) - sin t``, whose solution is ``cos t``."""
    y0 = torch.ones(1, dtype=torch.float64)
    solution = solve_ivp(
        lambda t, y: -1e6 * (y - torch.cos(t)) - torch.sin(t), (0.0, 1.0), y0, method="kvaerno5", rtol=1e-6, atol=1e-8
    )
    close(solution.y[-1], torch.full((1,), math.cos(1.0)), 1e-5)


def check_methods() -> None:
    """Every method, on decay."""
    y0 = torch.ones(1, dtype=torch.float64)
    for name, method in METHODS.items():
        steps = {"rtol": 1e-5} if method.adaptive else {"step_size": 0.01}
        y = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, method=name, **steps).y[-1]  # type: ignore[arg-type]
        try:
            close(y, torch.full((1,), math.exp(-1.0)), 1e-2)
        except CheckError as error:
            raise CheckError(f"{name} is {error}") from None


def gradients(adjoint: str, field: Callable[[Tensor, Tensor], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of a solve's sum by the parameters and by the initial state, as one vector."""
    y0 = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64).view(4, 2).requires_grad_()
    y = solve_ivp(field, (0.0, 1.0), y0, adjoint=adjoint, rtol=1e-9, atol=1e-9).y[-1]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(y.square().sum(), [y0, *parameters])])


def check_adjoints() -> None:
    """The gradient by the rate of decay, known in closed form, and that of a perceptron, by all adjoints."""
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    field = MLPField(2, (8,), generator=torch.Generator().manual_seed(0)).double()
    parameters = list(field.parameters())
    reference = gradients("backprop", lambda t, y: field(t, y), parameters)
    y0 = torch.ones(1, dtype=torch.float64)
    for adjoint in ADJOINTS:
        solution = solve_ivp(lambda t, y: -rate * y, (0.0, 2.0), y0, adjoint=adjoint, rtol=1e-9, atol=1e-9)
        (found,) = torch.autograd.grad(solution.y[-1].sum(), rate)
        close(found, torch.tensor(-2.0 * math.exp(-1.0)), 1e-6)
        close(gradients(adjoint, field, parameters), reference, 1e-6)


def check_devices() -> None:
    """A solve on each device."""
    expected = torch.full((3,), math.exp(-1.0))
    for i in range(torch.cuda.device_count()):
        close(solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(3, device=f"cuda:{i}")).y[-1], expected, 1e-3)


def all_finite(*answers: np.ndarray) -> None:
    """Refuse answers that hold NaN or infinity."""
    for answer in answers:
        if not np.isfinite(answer).all():
            raise CheckError("the answers hold NaN or infinity")


X = np.random.RandomState(0).normal(size=(60, 2))


def check_classifier() -> None:
    """Which side of a line samples are on."""
    y = X[:, 0] > X[:, 1]
    classifier = skode.ODENetClassifier((8,), state_size=4, max_iter=20, learning_rate_init=1e-2, random_state=0)
    all_finite(classifier.fit(X, y).predict_proba(X))
    if (score := classifier.score(X, y)) < 0.8:
        raise CheckError(f"accuracy {score:.2f} on data that a line separates")


def check_regressor() -> None:
    """A sum of features."""
    y = X.sum(axis=1)
    regressor = skode.ODENetRegressor(
        (8,), state_size=4, learning_rate_init=3e-2, max_iter=40, learning_rate="cosine", random_state=0
    )
    all_finite(regressor.fit(X, y).predict(X))
    if (score := regressor.score(X, y)) < 0.5:
        raise CheckError(f"R2 {score:.2f} on a sum of the features")


def check_density() -> None:
    """A normal density."""
    density = skode.CNFDensityEstimator((8,), max_iter=3, random_state=0).fit(X)
    all_finite(density.score_samples(X), density.sample(5, random_state=0))


def check_series() -> None:
    """Four sines, seen at times of their own."""
    times = np.sort(np.random.RandomState(0).uniform(0.0, 6.0, (4, 10)), axis=1)
    rows = np.column_stack([np.repeat(np.arange(4), 10), times.ravel()])
    series = skode.LatentODERegressor(
        series=0, time=1, latent_size=2, hidden_layer_sizes=(8,), encoder_size=8, max_iter=3, random_state=0
    )
    mean, std = series.fit(rows, np.sin(rows[:, 1])).predict(rows, return_std=True)
    all_finite(mean, std)


#: What is checked, by what it states.
CHECKS: dict[str, Callable[[], None]] = {
    "dopri5 meets the closed form of decay": check_explicit,
    "kvaerno5 meets the closed form of a stiff problem": check_stiff,
    f"all {len(METHODS)} methods solve decay": check_methods,
    "the three adjoints agree with each other and with a closed form": check_adjoints,
    "ODENetClassifier fits and predicts": check_classifier,
    "ODENetRegressor fits and predicts": check_regressor,
    "CNFDensityEstimator fits, scores and draws": check_density,
    "LatentODERegressor fits and predicts with a standard deviation": check_series,
}

#: And where there is a CUDA device.
ON_CUDA: dict[str, Callable[[], None]] = {"dopri5 meets the closed form of decay on every CUDA device": check_devices}


def main(arguments: Sequence[str] = ()) -> int:
    """Print the report; the exit code is 1 where a check failed."""
    argparse.ArgumentParser("python -m skode", description=__doc__).parse_args(arguments)
    print("\n".join(versions()), end="\n\n")
    print("\n".join(devices()), end="\n\n")
    n_failed, began = 0, time.perf_counter()
    checks = CHECKS | ON_CUDA if torch.cuda.is_available() else CHECKS
    for statement, check in checks.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check()
        except Exception as error:
            n_failed += 1
            print(f"failed  {statement}: {type(error).__name__}: {error}")
        else:
            print(f"ok      {statement}")
    n = len(checks)
    print(f"\n{n - n_failed} of {n} checks passed in {time.perf_counter() - began:.1f} s")
    return int(n_failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
