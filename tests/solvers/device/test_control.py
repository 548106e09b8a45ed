"""The step-size control on tensors, held against that of the host."""

import ctypes
import itertools
import math
import shutil
import subprocess

import numpy as np
import pytest
import torch

from skode.solvers.device import control
from skode.solvers.device.control import Controls, in_allowed_errors
from skode.solvers.forward.step_control import StepControl, StepSizes
from skode.solvers.forward.step_size import CONTROLLERS, Controller, ControllerEach
from skode.solvers.tolerances import Tolerances

NAN, INF = math.nan, math.inf
EXPONENTS = {**CONTROLLERS, "own": (0.7, -0.3, 0.1)}
BOUNDS = {"free": {}, "bounded": {"min_step": 0.05, "max_step": 0.4}, "longest": {"max_step": 0.2}}
ORDERS = [1, 4, 7]


def step_control(exponents=(1.0, 0.0, 0.0), **sizes):
    return StepControl(Tolerances(1e-3, 1e-6), exponents=exponents, sizes=StepSizes(**sizes))


def number(x):
    return torch.tensor(x, dtype=torch.float64)


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


def ratios(n, seed):
    """Ratios of all sizes, with those among them that are special."""
    rng = np.random.default_rng(seed)
    drawn = 10.0 ** rng.uniform(-12.0, 3.0, n)
    for special in (NAN, INF, 0.0, 1.0, 1e-10, 1e300, np.nextafter(1.0, 2.0)):
        drawn[rng.integers(0, n, max(n // 20, 1))] = special
    return drawn


def chosen_by_host(settings, t, size, t1, direction):
    """As in ``shared_steps._adaptive``."""
    shortest, longest = settings.sizes.min_step or 0.0, settings.sizes.max_step or INF
    wanted = direction * max(min(abs(size), longest), shortest)
    t_next = t1 if 1.01 * abs(wanted) >= abs(t1 - t) else t + wanted
    return t_next - t, abs(wanted), t_next


def judged_by_host(settings, controller, ratio, t, t_next, t1, wanted):
    """As in ``shared_steps._adaptive``: whether the step is good, the time, and the size of the next one."""
    h = abs(t_next - t)
    shortest = settings.sizes.min_step or 0.0
    if ratio <= 1.0 or (wanted <= shortest and math.isfinite(ratio)):
        factor = controller.factor(min(ratio, 1.0))
        return True, t_next, max(h * factor, min(wanted, wanted * factor) if t_next == t1 else 0.0)
    return False, t, h * controller.factor(ratio)


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_step_is_chosen_as_by_the_host(bounds, direction):
    settings = step_control(**BOUNDS[bounds])
    controls = Controls.of(settings, 4, direction)
    rng = np.random.default_rng(0)
    for size in (*10.0 ** rng.uniform(-8, 1, 50), 0.0, 1.0, 1.0 / 1.01, 0.99, 1e300):
        for t in (0.0, 0.3, 0.99, 1.0):
            found = controls.choose(number(direction * t), number(size), number(direction))
            expected = chosen_by_host(settings, direction * t, size, direction, direction)
            assert [float(x) for x in found] == list(expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("name", EXPONENTS)
def test_attempts_are_judged_as_by_the_host(name, bounds, order):
    """Steps over made-up ratios, whose numbers stay on the device from attempt to attempt."""
    settings = step_control(EXPONENTS[name], **BOUNDS[bounds])
    controls, controller = Controls.of(settings, order, 1.0), Controller(settings.exponents, order)
    t, size, t1 = 0.0, 0.1, 100.0
    clock = [number(x) for x in (t, size, 1.0, 1.0, 0.0)]
    for ratio in ratios(60, seed=order):
        _, wanted, t_next = chosen_by_host(settings, t, size, t1, 1.0)
        good, t, size = judged_by_host(settings, controller, float(ratio), t, t_next, t1, wanted)
        _, wanted_there, t_next_there = controls.choose(clock[0], clock[1], number(t1))
        good_there, *clock = controls.judge(number(ratio), clock[0], t_next_there, number(t1), wanted_there, *clock[2:])
        assert bool(good_there) is good
        assert float(clock[4]) == float(controller.after_rejection)
        assert float(clock[0]) == pytest.approx(t, rel=1e-13)
        assert float(clock[1]) == pytest.approx(size, rel=1e-12)
        assert [float(x) for x in clock[2:4]] == pytest.approx(controller.before, rel=1e-15)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", EXPONENTS)
def test_attempts_of_samples_are_judged_as_by_the_host(name, order):
    n = 40
    settings = step_control(EXPONENTS[name])
    controls, controller = Controls.of(settings, order, 1.0), ControllerEach(settings.exponents, order, n)
    one, t1 = torch.ones(n, dtype=torch.float64), numbers([INF] * n)
    last = before = one
    rejected = torch.zeros_like(one)
    for k in range(20):
        ratio = ratios(n, seed=k)
        factor = controller.factor(ratio)
        # A step of size 1, so that the next one's size is the factor.
        good, t, size, last, before, rejected = controls.judge(
            torch.from_numpy(ratio), 0.0 * one, one, t1, one, last, before, rejected
        )
        np.testing.assert_allclose(size, factor, rtol=1e-12)
        np.testing.assert_array_equal(good.bool(), ratio <= 1.0)
        np.testing.assert_array_equal(t, ratio <= 1.0)
        np.testing.assert_array_equal(rejected.bool(), controller.after_rejection)
        np.testing.assert_allclose(torch.stack([last, before]), controller.before, rtol=1e-15)


def test_the_step_that_was_cut_short_by_the_end_says_little():
    settings = step_control()
    controls = Controls.of(settings, 4, 1.0)
    _, _, size, *_ = controls.judge(*[number(x) for x in (1e-8, 0.0, 1e-3, 1e-3, 0.5, 1.0, 1.0, 0.0)])
    assert float(size) == 0.5
    _, _, size, *_ = controls.judge(*[number(x) for x in (1.0, 0.0, 1e-3, 1e-3, 0.5, 1.0, 1.0, 0.0)])
    assert float(size) == pytest.approx(0.45)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 1e-6), (1e-3, 0.0), (0.0, 1e-6)])
def test_errors_in_units_of_the_allowed_one(rtol, atol, dtype):
    special = [0.0, 1.0, -2.0, NAN, INF, 1e-30]
    error, y, y_next = (numbers(column).to(dtype) for column in zip(*itertools.product(special, repeat=3), strict=True))
    found = in_allowed_errors(error, y, y_next, rtol, atol)
    expected = Tolerances(rtol, atol).in_allowed_errors(error, y, y_next)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


# The kernels' source, compiled for the CPU

KERNELS = """
#include <cmath>
using namespace std;
%s
extern "C" void run_choose(const double* x, double* out) {
    choose<double>(x[0], x[1], x[2], x[3], x[4], x[5], out[0], out[1], out[2]);
}
extern "C" void run_judge(const double* x, double* out) {
    judge<double>(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12],
        out[0], out[1], out[2], out[3], out[4], out[5]);
}
extern "C" void run_scale(const double* x, double* out) {
    out[0] = in_allowed_errors<double>(x[0], x[1], x[2], x[3], x[4], x[5]);
}
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A function that calls one of the kernels."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(KERNELS % (control._CHOOSE + control._JUDGE + control._SCALE))
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", "kernels.so", "kernels.cpp"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    library = ctypes.CDLL(str(folder / "kernels.so"))

    def call(name, n_outputs, *arguments):
        given, out = (ctypes.c_double * len(arguments))(*arguments), (ctypes.c_double * n_outputs)()
        getattr(library, f"run_{name}")(given, out)
        return list(out)

    return call


def same(found, expected):
    """Up to rounding, NaN included."""
    np.testing.assert_allclose(found, [float(x) for x in expected], rtol=1e-13)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_the_kernel_chooses_the_same_step(kernel, bounds):
    for direction in (1.0, -1.0):
        controls = Controls.of(step_control(**BOUNDS[bounds]), 4, direction)
        for t, size in itertools.product((0.0, 0.5, 0.99, 1.0), (0.0, 0.01, 0.3, 0.995, 5.0)):
            t = direction * t
            found = kernel("choose", 3, t, size, direction, direction, controls.shortest, controls.longest)
            same(found, controls.choose(number(t), number(size), number(direction)))


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("name", EXPONENTS)
def test_the_kernel_judges_the_same(kernel, name, bounds):
    controls = Controls.of(step_control(EXPONENTS[name], **BOUNDS[bounds]), 4, 1.0)
    own = (controls.shortest, *controls.exponents, controls.elementary)
    rng = np.random.default_rng(3)
    for ratio, wanted in itertools.product(ratios(40, seed=1), (0.02, 0.3)):
        last, before = rng.uniform(1e-10, 1.0, 2)
        rejected, t1 = float(rng.integers(2)), rng.choice([0.5, 2.0])
        attempt = (ratio, 0.2, 0.5, t1, wanted, last, before, rejected)
        same(kernel("judge", 6, *attempt, *own), controls.judge(*map(number, attempt)))


def test_the_kernel_scales_errors_the_same(kernel):
    least = torch.finfo(torch.float64).tiny
    for triple in itertools.product([0.0, 1.0, -2.0, NAN, INF, 1e-30], repeat=3):
        for rtol, atol in ((1e-3, 1e-6), (1e-3, 0.0)):
            found = kernel("scale", 1, *triple, rtol, atol, 0.0 if atol else least)
            same(found, [in_allowed_errors(*(number(x).view(1) for x in triple), rtol, atol)])
