"""Solves and fits on a CUDA device, beside the peers and the bare evaluations: ``python -m tests.benchmarks.cuda``.

A part that fails prints why and the others go on; with ``--json`` nothing that was found is lost, and runs of single
parts add up to one page.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import json
import math
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier
from skode.datasets import make_spirals
from skode.timeseries.sizes import LEAST_UPDATES
from tests.benchmarks.peers import END, LIBRARIES, Contender, Problem, make_problem
from tests.benchmarks.report import ROOT, setup, table
from tests.benchmarks.speed import MANY_TIMES, SHAPES, irregular_calls
from tests.benchmarks.timing import interleaved, milliseconds

ALL_SHAPES = (*SHAPES, (4096, 64, 256), (16384, 64, 512), (65536, 2, 64))
OUTPUTS_SHAPE = (256, 32, 128)
SOLVERS = ("skode", "skode, plain module", "torchdiffeq", "diffrax")
FLOOR = "bare evaluations, one graph"

#: Calls before any is timed: skode captures its graphs in the first few.
WARM_UP, WARM_UP_SECONDS = 5, 1.5
MOST_ROUNDS = 15
#: A call of so many seconds is timed apart, and a few times only.
SLOW, SLOW_ROUNDS = 0.3, 3
#: diffrax is compiled for so many shapes at a time.
COMPILERS, COMPILE_LIMIT = 4, 150.0

MNIST_PLACES = (
    ROOT / ".mnist" / "mnist.npz",
    ROOT / "shared" / "data" / "mnist" / "mnist.npz",
    ROOT.parent / "shared" / "data" / "mnist" / "mnist.npz",
)
MNIST_SETTINGS: dict[str, Any] = {
    "image_shape": (1, 28, 28),
    "hidden_layer_sizes": (96,),
    "state_size": 64,
    "image_shift": 2,
    "input_dropout": 0.0,
    "batch_size": 256,
    "alpha": 0.02,
    "learning_rate_init": 1e-2,
    "max_iter": 56,
    "n_iter_no_change": None,
    "random_state": 0,
}
#: The piece that is told of settings tried on held-out training images; not for the page.
TUNING = "tuning"
MNIST_LIMIT, MOST_PARAMETERS, MNIST_HELD_OUT = 300.0, 220_000, 10_000

DENSITY_ROWS, DENSITY_HELD_OUT = 1_600_000, 50_000
DENSITY_SETTINGS: dict[str, Any] = {"batch_size": 8192, "max_iter": 3, "random_state": 0}
DENSITY_LIMIT = 90.0

LATENT_SERIES, LATENT_ROWS, LATENT_THREADS = 500, 100, 2
#: Epochs before any is timed, and epochs timed, on the device and on the CPU.
LATENT_EPOCHS, LATENT_CPU_EPOCHS = (10, 40), (2, 12)

NOTES = f"""\
All is float32, and torch and jax multiply matrices in full float32 (torch: `allow_tf32` is off, its default; jax:
`jax_default_matmul_precision` is "highest", for its own default on such a card is less). Times are wall clock, with the
device synchronised before a turn begins and before it ends; a turn has several calls where they are short. Medians over
at most {MOST_ROUNDS} interleaved rounds, ratios within rounds; a call of more than {SLOW} s is timed apart,
{SLOW_ROUNDS} times. Every contender was called {WARM_UP} times before. dopri5, rtol = atol = 1e-5. The floor is as many
evaluations of the plain torch module as skode's solve makes, one after another, captured as one CUDA graph and
replayed; with gradient, the same and autograd's way back to the input and all weights, in one graph. diffrax is jitted
and warm; its time to compile, forward + gradient, is that of {COMPILERS} compilations at a time. NFE as on the page on
speed. Errors are relative, in the maximum norm, to torchdiffeq's dopri8 at 1e-10 in float64; a gradient's difference is
to skode's."""

HEADS = {
    "solves": "## Solves",
    "outputs": "## Many output times",
    "mnist": """\
## MNIST

Convolutions are at torch's default, which on such a card is TF32.""",
    "density": """\
## A density of 1.6 million rows

The table is synthetic: a mixture of 20 anisotropic normals in 6 dimensions, its coordinates bent (log-normal,
heavy-tailed, bounded, skew), drawn with a fixed seed, so that its density is known. It has the size of POWER's training
set (Papamakarios et al., "Masked autoregressive flow", NeurIPS 2017: 1.66 million rows, 6 columns), but isn't that
table. A tenth of the rows is held out for validation, which counts as part of an epoch.""",
    "latent": "## An update of the latent ODE",
}

FAILURE = "failure"

#: A piece of a part: its name, the Markdown, and the figures behind it.
Finding = tuple[str, str, dict[str, Any]]
Call = Callable[[], Any]


def synchronize() -> None:
    """Wait for the CUDA device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def card() -> str:
    """The device, and the versions below torch."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = "unknown"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB, CUDA {torch.version.cuda}, driver {driver}"


def failed(what: str) -> str:
    """Markdown of the exception being handled."""
    return f"{what} failed:\n\n```\n{traceback.format_exc().strip()}\n```"


def guarded(piece: str, find: Callable[[], tuple[str, dict[str, Any]]]) -> Finding:
    """What was found, or why nothing was."""
    try:
        return piece, *find()
    except Exception:
        return piece, failed(piece), {}
    finally:
        free_memory()


def free_memory() -> None:
    """Give the memory of what is gone back to the device, graphs' too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory() -> str:
    """The most that torch's tensors took since the last reset."""
    return f"{torch.cuda.max_memory_allocated() / 2**30:.2f}" if torch.cuda.is_available() else ""


# Solves


def prepare_jax(device: str) -> None:
    """Set jax up on the device, beside torch; ImportError where it can't compute there."""
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    if device == "cuda" and jax.default_backend() != "gpu":
        raise ImportError(f"jax computes on {jax.default_backend()!r} here")


class Compiled:
    """diffrax for several problems, compiled some at a time before anything is timed.

    Parameters
    ----------
    problems : mapping of hashable to Problem
        The problems.
    options : argparse.Namespace
        ``device`` and ``without``.
    """

    def __init__(self, problems: Mapping[Any, Problem], options: argparse.Namespace) -> None:
        self.found: dict[Any, Future[list[Contender]]] = {}
        self.missing = ""
        if "diffrax" in options.without:
            return
        try:
            prepare_jax(options.device)
        except ImportError as error:
            self.missing = f"diffrax is left out: {error}."
            return
        started = perf_counter()
        pool = ThreadPoolExecutor(COMPILERS)
        self.found = {name: pool.submit(LIBRARIES["diffrax"], problem) for name, problem in problems.items()}
        for future in self.found.values():
            try:
                future.exception(timeout=max(0.0, COMPILE_LIMIT - (perf_counter() - started)))
            except TimeoutError:
                break
        pool.shutdown(wait=False, cancel_futures=True)
        print(f"diffrax compiled for {len(problems)} problems in {perf_counter() - started:.1f} s", flush=True)

    def contenders(self, name: Any) -> tuple[list[Contender], list[str]]:
        """The contender for a problem, if all went well; else why not."""
        if name not in self.found:
            return [], [self.missing] if self.missing else []
        try:
            return self.found[name].result(timeout=0), []
        except BaseException as error:  # a future that was cancelled too
            return [], [f"diffrax is left out: {type(error).__name__}: {str(error)[:500]}"]


def contenders(problem: Problem, without: Sequence[str]) -> tuple[list[Contender], list[str]]:
    """Put a problem to each library of torch; a library that fails is left out."""
    found, missing = [], []
    for library in SOLVERS:
        if library == "diffrax" or library in without:
            continue
        try:
            found += LIBRARIES[library](problem)
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            missing.append(f"{library} is left out: {type(error).__name__}: {str(error)[:500]}")
    return found, missing


@dataclass
class Times:
    """Seconds per call of each contender, and why others have none."""

    taken: dict[Any, np.ndarray] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def milliseconds(self, name: Any) -> str | None:
        """The median, None where there is none."""
        return milliseconds(self.taken[name]) if name in self.taken else None

    def ratio(self, name: Any, reference: Any) -> float | None:
        """The median over rounds of a contender's time to another's; where their rounds differ, that of medians."""
        if name not in self.taken or reference not in self.taken:
            return None
        one, other = self.taken[name], self.taken[reference]
        return float(np.median(one / other) if len(one) == len(other) else np.median(one) / np.median(other))

    def medians(self) -> dict[str, float]:
        """Seconds, by the contenders' names."""
        return {str(name): float(np.median(seconds)) for name, seconds in self.taken.items()}

    def rounds(self) -> dict[str, int]:
        """Turns that each contender had."""
        return {str(name): len(seconds) for name, seconds in self.taken.items()}


def race(calls: Mapping[Any, Call], seconds: float) -> Times:
    """Time calls in turns after warming each up; one that fails is left out, a slow one is timed apart."""
    times, quick, slow = Times(), {}, {}
    for name, call in calls.items():
        try:
            (slow if _warm_up(call) > SLOW else quick)[name] = call
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            times.failures.append(f"{name} failed: {type(error).__name__}: {str(error)[:500]}")
    if quick:
        times.taken |= interleaved(quick, seconds=seconds, most_rounds=MOST_ROUNDS, synchronize=synchronize)
    for name, call in slow.items():
        times.taken |= interleaved({name: call}, rounds=SLOW_ROUNDS, synchronize=synchronize)
    return times


def _warm_up(call: Call) -> float:
    """Call a few times, fewer where that takes long; seconds of the last call."""
    started = perf_counter()
    for _ in range(WARM_UP):
        before = perf_counter()
        call()
        synchronize()
        if perf_counter() - started > WARM_UP_SECONDS:
            break
    return perf_counter() - before


def floors(problem: Problem, nfev: int) -> tuple[Call, Call]:
    """So many evaluations of the module in a chain, and the same with gradients of the input and all weights."""
    net = copy.deepcopy(problem.net)  # whose gradients no other stream knows of
    y0 = problem.y0.clone().requires_grad_()

    def chain(y: Tensor) -> Tensor:
        for _ in range(nfev):
            y = net(y)
        return y

    def forward() -> Tensor:
        with torch.no_grad():
            return chain(problem.y0)

    def gradient() -> tuple[Tensor, ...]:
        return torch.autograd.grad(chain(y0).square().sum(), [y0, *net.parameters()])

    return replayed(forward), replayed(gradient)


def replayed(call: Call) -> Call:
    """A call whose kernels are captured as one CUDA graph and replayed; without CUDA, the call itself."""
    if not torch.cuda.is_available():
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = call()

    def replay() -> Any:
        graph.replay()
        return outputs

    return replay


def reference(problem: Problem) -> np.ndarray:
    """States at the output times in float64, by another library's method of high order, on the problem's device."""
    from torchdiffeq import odeint

    net = copy.deepcopy(problem.net).double()
    y0 = problem.y0.double()
    times = torch.from_numpy(np.append(0.0, problem.times)).to(y0)
    with torch.no_grad():
        return to_numpy(odeint(lambda t, y: net(y), y0, times, rtol=1e-10, atol=1e-10, method="dopri8")[1:])


def to_numpy(array: Any) -> np.ndarray:
    """An array of any library, on any device."""
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)


def flat(gradient: Sequence[Any]) -> np.ndarray:
    """All parts of a gradient behind each other."""
    return np.concatenate([to_numpy(part).ravel() for part in gradient])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Relative to b, in the maximum norm."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def shapes_of(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    """The shapes asked for; small ones in a rehearsal."""
    shapes = [ALL_SHAPES[i] for i in options.shapes]
    return [small(shape) for shape in shapes] if options.small else shapes


def small(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """A shape to rehearse with."""
    batch, state, hidden = shape
    return max(batch // 20, 4), min(state, 8), max(hidden // 16, 8)


def solves(options: argparse.Namespace) -> Iterator[Finding]:
    """A table for each shape; at last one of ratios."""
    found = {}
    for shape in shapes_of(options):
        # Compiled shape by shape, so that what has been found is told before the next one is compiled.
        compiled = Compiled({shape: make_problem(*shape, device=options.device)}, options)
        piece = guarded(str(shape), partial(_solves_of, shape, compiled, options))
        found[piece[0]] = piece[2]
        yield piece
    yield "ratios", ratio_table(found), {}


def _solves_of(
    shape: tuple[int, int, int], compiled: Compiled, options: argparse.Namespace
) -> tuple[str, dict[str, Any]]:
    problem = make_problem(*shape, device=options.device)
    found, missing = contenders(problem, options.without)
    jitted, reasons = compiled.contenders(shape)
    found += jitted
    nfev = found[0].nfev
    bare_forward, bare_gradient = floors(problem, nfev)
    forward = race({FLOOR: bare_forward} | {c.name: c.states for c in found}, options.seconds)
    gradient = race({FLOOR: bare_gradient} | {c.name: c.gradient for c in found if c.gradient}, options.seconds)
    figures: dict[str, Any] = {"nfev": {c.name: c.nfev for c in found}, **_accuracies(problem, found)}
    figures |= {"forward": forward.medians(), "gradient": gradient.medians()}
    figures["rounds"] = {"forward": forward.rounds(), "gradient": gradient.rounds()}
    figures["compile"] = {c.name: c.compile_seconds for c in found if c.compile_seconds}
    for kind, times in (("forward", forward), ("gradient", gradient)):
        names = [name for name in times.taken if name != "skode"]
        figures[f"{kind} / skode"] = {name: times.ratio(name, "skode") for name in names}
        figures[f"skode {kind} / floor"] = times.ratio("skode", FLOOR)
    rows = [_floor_row(nfev, forward, gradient)] + [_row(c, forward, gradient, figures) for c in found]
    header = ["", "NFE", "forward, ms", "/ skode", "forward + backward, ms", "/ skode", "error", "gradient differs by"]
    title = f"### batch, state, hidden = {shape}"
    notes = dict.fromkeys([*missing, *reasons, *forward.failures, *gradient.failures])
    return "\n\n".join([title, table([*header, "compiled in, s"], rows), *notes]), figures


def _floor_row(nfev: int, forward: Times, gradient: Times) -> list[Any]:
    cells = [
        cell for times in (forward, gradient) for cell in (times.milliseconds(FLOOR), told(times.ratio(FLOOR, "skode")))
    ]
    return [FLOOR, nfev, *cells, None, None, None]


def _row(contender: Contender, forward: Times, gradient: Times, figures: dict[str, Any]) -> list[Any]:
    name, nfev = contender.name, str(contender.nfev)
    if contender.nfev_gradient is not None:
        nfev += f" ({contender.nfev_gradient})"
    cells = [
        cell for times in (forward, gradient) for cell in (times.milliseconds(name), told(times.ratio(name, "skode")))
    ]
    accuracies = [
        None if name not in figures[kind] else f"{figures[kind][name]:.0e}" for kind in ("error", "gradient differs by")
    ]
    compiled = " + ".join(f"{seconds:.1f}" for seconds in contender.compile_seconds.values())
    return [name, nfev, *cells, *accuracies, compiled]


def told(ratio: float | None) -> str | None:
    """A ratio in a table."""
    return None if ratio is None else f"{ratio:.2f}"


def _accuracies(problem: Problem, found: list[Contender]) -> dict[str, dict[str, float]]:
    """Errors of states, and differences of gradients to the first contender's; what can't be had is left out."""
    errors, differences = {}, {}
    try:
        exact = reference(problem)
        first = flat(found[0].gradient()) if found[0].gradient else None
        for contender in found:
            errors[contender.name] = difference(to_numpy(contender.states()), exact)
            if contender.gradient and first is not None:
                differences[contender.name] = difference(flat(contender.gradient()), first)
    except Exception:
        print(traceback.format_exc(), flush=True)
    return {"error": errors, "gradient differs by": differences}


def ratio_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Ratios of all shapes.

    Parameters
    ----------
    figures : mapping of str to mapping
        What :func:`solves` found, by shape.
    """
    peers = ["torchdiffeq odeint", "torchdiffeq odeint_adjoint", "diffrax", "skode, plain module"]
    rows = []
    for shape, found in figures.items():
        if "gradient / skode" not in found:
            continue
        row = [found["skode forward / floor"], found["skode gradient / floor"]]
        row += [found["gradient / skode"].get(name) for name in peers]
        row += [found["forward / skode"].get(name) for name in ("torchdiffeq odeint", "diffrax")]
        rows.append([shape, *map(told, row)])
    header = ["batch, state, hidden", "skode / floor, forward", "skode / floor"]
    header += [f"{name} / skode" for name in peers] + ["torchdiffeq / skode, forward", "diffrax / skode, forward"]
    return "### Ratios (forward + backward unless said otherwise)\n\n" + table(header, rows)


def outputs(options: argparse.Namespace) -> Iterator[Finding]:
    """A hundred output times against one, and times of each series' own."""
    yield guarded("irregular", partial(_irregular, options))
    yield guarded("many", partial(_many_outputs, options))


def _many_outputs(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    shape = small(OUTPUTS_SHAPE) if options.small else OUTPUTS_SHAPE
    times_of = {1: END, 100: MANY_TIMES}
    problems = {n: make_problem(*shape, times, device=options.device) for n, times in times_of.items()}
    compiled = Compiled(problems, options)
    calls, missing = {}, []
    for n, problem in problems.items():
        found, reasons = contenders(problem, options.without)
        jitted, why_not = compiled.contenders(n)
        missing += [*reasons, *why_not]
        raced = [c for c in [*found, *jitted] if c.gradient and not c.name.endswith("odeint_adjoint")]
        calls |= {(c.name, n): c.gradient for c in raced}
    times = race(calls, 2 * options.seconds)
    ratios = {name: times.ratio((name, 100), (name, 1)) for name, n in calls if n == 1}
    rows = [
        [name, times.milliseconds((name, 1)), times.milliseconds((name, 100)), told(ratio)]
        for name, ratio in ratios.items()
    ]
    title = f"### 100 output times against one, forward + backward, batch, state, hidden = {shape}"
    text = [title, table(["", "1 time, ms", "100 times, ms", "ratio"], rows), *dict.fromkeys(missing + times.failures)]
    return "\n\n".join(text), {"medians": times.medians(), "ratios": ratios}


def _irregular(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Fifty series, each observed at forty times of its own, forward + backward."""
    n_series, n_times = (5, 10) if options.small else (50, 40)
    problem = make_problem(n_series, 4, 32, device=options.device)
    own = np.sort(np.random.default_rng(0).uniform(0.0, 1.0, (n_series, n_times)), axis=1)
    times = race(irregular_calls(problem, own, with_adjoint=False), options.seconds)
    rows = [[name, times.milliseconds(name), told(times.ratio(name, "skode, own times"))] for name in times.taken]
    title = f"### {n_series} series with {n_times} own times each, forward + backward, state, hidden = (4, 32)"
    text = [title, table(["", "ms", "/ skode, own times"], rows), *times.failures]
    return "\n\n".join(text), {"medians": times.medians()}


# Fits


class EpochClock:
    """A callback that notes when training began and when each epoch ended, and asks to stop where that took too long.

    Parameters
    ----------
    limit : float
        Seconds of training after which to stop.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.made = perf_counter()
        self.moments: list[float] = []

    def setup(self, estimator: Any, context: Any) -> None:
        """Nothing to do."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Nothing to do."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Note when training begins."""
        if not self.moments:
            self._note()

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool | None:
        """Note the end of an epoch."""
        if context.task_name != "epoch":
            return None
        self._note()
        return self.moments[-1] - self.moments[0] > self.limit

    def _note(self) -> None:
        synchronize()
        self.moments.append(perf_counter())

    @property
    def set_up(self) -> float:
        """Seconds from the making of this clock to the beginning of training."""
        return self.moments[0] - self.made

    @property
    def epochs(self) -> np.ndarray:
        """Seconds of each epoch, validation included."""
        return np.diff(self.moments)


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings given as ``key=value``; a value that is no literal of Python is a string."""
    settings = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            settings[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[key] = value
    return settings


def mnist_images(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and digits to train on and to test on: with ``--mnist-tune`` both are of the training set."""
    places = (options.mnist,) if options.mnist else MNIST_PLACES
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise FileNotFoundError(f"No MNIST at any of {[str(place) for place in places]}; say where by --mnist.")
    with np.load(path) as stored:
        X, y, X_test, y_test = (stored[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    if options.mnist_tune:
        X, X_test = X[:-MNIST_HELD_OUT], X[-MNIST_HELD_OUT:]
        y, y_test = y[:-MNIST_HELD_OUT], y[-MNIST_HELD_OUT:]
    if options.small:
        X, y, X_test, y_test = X[:600], y[:600], X_test[:300], y_test[:300]
    pixels = [(images.reshape(len(images), -1) / 255.0).astype(np.float32) for images in (X, X_test)]
    return pixels[0], y, pixels[1], y_test


def mnist(options: argparse.Namespace) -> Iterator[Finding]:
    """A classifier of handwritten digits, by convolutions and an ODE."""
    X, y, X_test, y_test = mnist_images(options)
    settings = MNIST_SETTINGS | ({"max_iter": 2} if options.small else {}) | overrides(options.mnist_set)
    model = ODENetClassifier(**settings, device=options.device, verbose=True)
    reset_peak_memory()
    clock = EpochClock(MNIST_LIMIT)
    model.set_callbacks(clock).fit(X, y)
    seconds = perf_counter() - clock.made
    wrong = np.concatenate([model.predict(part) != own for part, own in batches(X_test, y_test)])
    n_parameters = sum(parameter.numel() for parameter in model.module_.parameters())
    figures = {
        "parameters": n_parameters,
        "error, %": 100.0 * float(wrong.mean()),
        "seconds of fit": seconds,
        "seconds before training": clock.set_up,
        "epochs": model.n_iter_,
        "median seconds of an epoch": float(np.median(clock.epochs)),
        "NFE of a solve, mean": float(np.mean(model.nfe_forward_)),
        "NFE of a gradient, mean": float(np.mean(model.nfe_backward_)),
        "last loss": model.loss_,
        "peak memory, GiB": peak_memory(),
    }
    which = "the last 10,000 training images, which were held out" if options.mnist_tune else "the test images"
    title = f"ODENetClassifier, {len(X)} images to train on; the error is that on {which} ({wrong.sum()} are wrong)."
    text = [title, f"Settings: {settings_line(settings)}.", as_table(figures)]
    if n_parameters > MOST_PARAMETERS:
        text.append(f"More than the {MOST_PARAMETERS:,} parameters that were to be had at most.")
    yield TUNING if options.mnist_tune else "test", "\n\n".join(text), figures | {"settings": settings}


def settings_line(settings: Mapping[str, Any]) -> str:
    """Settings as an estimator's constructor has them."""
    return "`" + ", ".join(f"{name}={value!r}" for name, value in settings.items()) + "`"


def batches(*arrays: np.ndarray, size: int = 2000) -> Iterator[tuple[np.ndarray, ...]]:
    """Some rows at a time."""
    for first in range(0, len(arrays[0]), size):
        yield tuple(array[first : first + size] for array in arrays)


def as_table(figures: Mapping[str, Any]) -> str:
    """Figures, one below another."""
    rows = [[name, f"{value:.4g}" if isinstance(value, float) else value] for name, value in figures.items()]
    return table(["", "figure"], rows)


def reset_peak_memory() -> None:
    """Begin to watch torch's memory anew."""
    free_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


class SyntheticTable:
    """A mixture of anisotropic normals in six dimensions, each coordinate bent; its density is known.

    Rows are ``x_j = g_j(u_j)`` with ``u`` of the mixture, so that ``log p(x) = log p(u) - sum_j log g_j'(u_j)``.

    Parameters
    ----------
    n_components : int, default=20
        Normals in the mixture.
    random_state : int, default=0
        Seed of the mixture.
    """

    N_FEATURES = 6

    def __init__(self, n_components: int = 20, random_state: int = 0) -> None:
        rng = np.random.default_rng(random_state)
        d = self.N_FEATURES
        self.log_weights = np.log(rng.dirichlet(np.full(n_components, 3.0)))
        self.means = 1.5 * rng.standard_normal((n_components, d))
        axes = np.linalg.qr(rng.standard_normal((n_components, d, d)))[0]
        spreads = np.exp(rng.uniform(np.log(0.15), np.log(1.0), (n_components, 1, d)))
        self.factors = axes * spreads  # covariances are factor @ factor.T

    def draw(self, n: int, random_state: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows in float32, and what they are of the mixture, in float64."""
        rng = np.random.default_rng(random_state)
        component = rng.choice(len(self.means), size=n, p=np.exp(self.log_weights))
        noise = rng.standard_normal((n, self.N_FEATURES))
        u = np.empty_like(noise)
        for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            rows = component == k
            u[rows] = mean + noise[rows] @ factor.T
        return self._bent(u)[0].astype(np.float32), u

    def log_prob(self, u: np.ndarray) -> np.ndarray:
        """The logarithm of the density of rows, which are told by what they are of the mixture."""
        return self._log_mixture(u) - self._bent(u)[1].sum(1)

    def _log_mixture(self, u: np.ndarray) -> np.ndarray:
        log_p = np.empty((len(self.means), len(u)))
        for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            z = (u - mean) @ np.linalg.inv(factor).T
            log_det = np.linalg.slogdet(factor)[1]
            log_p[k] = self.log_weights[k] - 0.5 * (z * z).sum(1) - log_det
        return np.logaddexp.reduce(log_p, axis=0) - 0.5 * self.N_FEATURES * np.log(2.0 * np.pi)

    def _bent(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates: as they are, log-normal, with heavy tails, with a gap, bounded below, and skew."""
        a, b, c, d, e, f = u.T
        x = [a, np.exp(0.5 * b), np.sinh(c), d + 0.9 * np.tanh(d), np.logaddexp(0.0, e), f + 0.3 * np.hypot(1.0, f)]
        slopes = [
            np.ones_like(a),
            0.5 * np.exp(0.5 * b),
            np.cosh(c),
            1.0 + 0.9 / np.cosh(d) ** 2,
            1.0 / (1.0 + np.exp(-e)),
            1.0 + 0.3 * f / np.hypot(1.0, f),
        ]
        return np.stack(x, axis=1), np.log(np.stack(slopes, axis=1))


def density(options: argparse.Namespace) -> Iterator[Finding]:
    """A continuous normalizing flow of a large table."""
    settings = DENSITY_SETTINGS | overrides(options.density_set)
    n_rows, n_held_out = (20_000, 1000) if options.small else (DENSITY_ROWS, DENSITY_HELD_OUT)
    synthetic = SyntheticTable()
    X, _ = synthetic.draw(n_rows, 1)
    held_out, unbent = synthetic.draw(n_held_out, 2)
    fit = partial(_density_of, X, held_out, synthetic.log_prob(unbent), device=options.device)
    yield guarded("large batches", partial(fit, settings))
    if options.density_auto:
        yield guarded("batches of the default size", partial(fit, settings | {"batch_size": "auto", "max_iter": 1}))


def _density_of(
    X: np.ndarray, held_out: np.ndarray, true: np.ndarray, settings: dict[str, Any], *, device: str
) -> tuple[str, dict[str, Any]]:
    reset_peak_memory()
    clock = EpochClock(DENSITY_LIMIT)
    model = CNFDensityEstimator(**settings, device=device, verbose=True).set_callbacks(clock).fit(X)
    seconds, started = perf_counter() - clock.made, perf_counter()
    score = model.score(held_out)
    figures = {
        "seconds of each epoch": [round(float(epoch), 3) for epoch in clock.epochs],
        "seconds of fit": seconds,
        "seconds before training": clock.set_up,
        "NFE of a solve, mean": float(np.mean(model.nfe_forward_)),
        "NFE of a gradient, mean": float(np.mean(model.nfe_backward_)),
        "log-likelihood of others, nats a row": score,
        "that of the true density": float(true.mean()),
        "seconds of scoring them": perf_counter() - started,
        "peak memory, GiB": peak_memory(),
    }
    title = f"CNFDensityEstimator with {settings_line(settings)}, {len(X):,} rows; scored on {len(held_out):,} others."
    return "\n\n".join([title, as_table(figures)]), figures | {"settings": settings}


def latent(options: argparse.Namespace) -> Iterator[Finding]:
    """Updates of a latent ODE, on the device and on two threads of the CPU."""
    n_series, n_rows = (20, 12) if options.small else (LATENT_SERIES, LATENT_ROWS)
    X, y = make_spirals(n_series, n_rows, random_state=0)
    figures, rows = {}, []
    threads = torch.get_num_threads()
    for name, device, (before, timed) in (
        (options.device, options.device, LATENT_EPOCHS),
        (f"cpu, {LATENT_THREADS} threads", "cpu", LATENT_CPU_EPOCHS),
    ):
        torch.set_num_threads(LATENT_THREADS if device == "cpu" else threads)
        clock = EpochClock()
        model = latent_model(n_series, before + timed, device).set_callbacks(clock).fit(X, y)
        updates = clock.epochs[before:] / LEAST_UPDATES
        nfe = float(np.mean(model.nfe_forward_[before:]))
        figures[name] = {"median": float(np.median(updates)), "mean": float(updates.mean()), "nfe": nfe}
        rows.append([name, milliseconds(updates), f"{1e3 * updates.mean():.2f}", f"{nfe:.1f}"])
        print(*rows[-1], sep=" | ", flush=True)
    torch.set_num_threads(threads)
    on_device, on_cpu = figures.values()
    figures["cpu / device"] = {kind: on_cpu[kind] / on_device[kind] for kind in ("median", "mean")}
    title = f"""\
LatentODERegressor, {n_series} spirals of {n_rows} rows, each with its own irregular times, in one batch: time of an
epoch over its {LEAST_UPDATES} updates (loss, gradient, Adam, bookkeeping), at a learning rate that hardly moves the
weights, after some epochs that don't count. Defaults but for validation and for what a fit does after training, which
are left out. The CPU is that of the same machine, with {LATENT_THREADS} threads (of which skode takes one where
matrices are so small that two would wait for each other)."""
    ratios = figures["cpu / device"]
    verdict = f"CPU / device: {ratios['median']:.1f} by medians, {ratios['mean']:.1f} by means."
    yield "update", "\n\n".join([title, table(["", "median, ms", "mean, ms", "NFE"], rows), verdict]), figures


def latent_model(n_series: int, epochs: int, device: str) -> LatentODERegressor:
    """One whose batch is the whole panel, with as little as may be before and after training."""
    return LatentODERegressor(
        series="series",
        time="time",
        batch_size=n_series,
        learning_rate_init=1e-6,
        max_iter=epochs,
        early_stopping=False,
        posterior="encoder",
        noise="white",
        random_state=0,
        device=device,
    )


# The command


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Finding]]] = {
    "solves": solves,
    "outputs": outputs,
    "mnist": mnist,
    "density": density,
    "latent": latent,
}


class Record:
    """All that was found, by part and piece, in a JSON file if there is to be one.

    Parameters
    ----------
    path : Path or None
        The file; what it holds already is kept, but for the pieces that are found anew.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.parts: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self.parts = json.loads(path.read_text())

    def add(self, part: str, piece: str, text: str, figures: dict[str, Any], where: str) -> None:
        """Keep a piece; it is in the file when this returns."""
        found = self.parts.setdefault(part, {})
        found.pop(FAILURE, None)
        found[piece] = {"text": text, "figures": figures, "where": where}
        if piece == "ratios":  # of all shapes, not only of those of this run
            found[piece]["text"] = ratio_table({name: kept["figures"] for name, kept in self.pieces(part)})
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.parts, indent=1, default=str))

    def pieces(self, part: str) -> list[tuple[str, dict[str, Any]]]:
        """Pieces of a part, shapes in order, ratios behind them."""
        order = [*map(str, ALL_SHAPES), "ratios"]
        return sorted(
            self.parts.get(part, {}).items(), key=lambda item: order.index(item[0]) if item[0] in order else -1
        )

    def figures(self, part: str, piece: str) -> dict[str, Any]:
        """Figures of a piece; empty where it was not found."""
        return self.parts.get(part, {}).get(piece, {}).get("figures", {})

    def page(self) -> str:
        """The page's Markdown, with the card before a piece wherever it changes."""
        blocks, before = [NOTES, in_short(self)], None
        for part in (part for part in PARTS if part in self.parts):
            blocks.append(HEADS[part])
            for piece, found in self.pieces(part):
                if piece == TUNING:
                    continue
                if found["where"] != before:
                    before = found["where"]
                    blocks.append(f"On {before}")
                blocks.append(found["text"])
        return "\n\n".join(blocks)


def in_short(record: Record) -> str:
    """A table of what was asked for and what was found."""
    rows: list[list[str]] = []

    def add(what: str, asked: str, found: str) -> None:
        rows.append([what, asked, found])

    for shape in ALL_SHAPES:
        found = record.figures("solves", str(shape))
        ratios = found.get("gradient / skode", {})
        for peer, asked in (("torchdiffeq odeint", "5 or more"), ("diffrax", "1 or more")):
            if shape == OUTPUTS_SHAPE and ratios.get(peer):
                add(f"{shape}, forward + backward: {peer} / skode", asked, f"{ratios[peer]:.2f}")
        for kind, title in (("forward", "forward"), ("gradient", "forward + backward")):
            if shape not in SHAPES and found.get(f"skode {kind} / floor"):
                add(f"{shape}, {title}: skode / floor", "at most 3", f"{found[f'skode {kind} / floor']:.2f}")
    if found := record.figures("mnist", "test"):
        add("MNIST: error", "at most 0.42 %", f"{found['error, %']:.2f} %")
        add("MNIST: seconds of fit", "at most 300", f"{found['seconds of fit']:.0f}")
        add("MNIST: parameters", "at most 220,000", f"{found['parameters']:,}")
    if found := record.figures("density", "large batches"):
        add("density: seconds of an epoch, the longest", "at most 4", f"{max(found['seconds of each epoch']):.2f}")
    if found := record.figures("latent", "update"):
        add("latent ODE: two CPU threads / device", "10 or more", f"{found['cpu / device']['median']:.1f}")
    return table(["", "aim", "found"], rows)


def run_part(name: str, options: argparse.Namespace, record: Record, where: str) -> None:
    """Print what a part finds as soon as it is found, and keep it; a failure is printed and kept as well."""
    started = perf_counter()
    try:
        for piece, text, figures in PARTS[name](options):
            print(text, end="\n\n", flush=True)
            record.add(name, piece, text, figures, where)
    except Exception:
        text = failed(f"The part {name}")
        print(text, end="\n\n", flush=True)
        record.add(name, FAILURE, text, {}, where)
    free_memory()
    print(f"part {name} took {perf_counter() - started:.1f} s", end="\n\n", flush=True)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cuda", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, default=list(PARTS), help="which parts; none: the page only"
    )
    shapes = range(len(ALL_SHAPES))
    parser.add_argument("--shapes", type=int, nargs="+", default=shapes, choices=shapes, help=f"of {ALL_SHAPES}")
    parser.add_argument("--without", nargs="+", default=(), choices=SOLVERS, help="libraries to leave out")
    parser.add_argument("--seconds", type=float, default=3.0, help="time to spend on each group of contenders")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--mnist", type=Path, help="mnist.npz; else looked for")
    parser.add_argument("--mnist-tune", action="store_true", help="hold out training images, don't look at the test's")
    parser.add_argument("--mnist-set", nargs="+", default=(), metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--density-set", nargs="+", default=(), metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--density-auto", action="store_true", help="also an epoch of batches of the default size")
    parser.add_argument("--json", type=Path, help="a file for all figures; those of other parts in it are kept")
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)  # to rehearse without a device
    return parser


def main() -> None:
    """Run the parts, print what they find, and write it where ``--out`` and ``--json`` say."""
    options = _arguments().parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".2")
    if options.device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    elif not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; --device cpu --small rehearses without.")
    warnings.simplefilter("ignore", ConvergenceWarning)
    command = " ".join(["python -m tests.benchmarks.cuda", *sys.argv[1:]])
    where = f"{card()}; {setup()}"
    print(f"On {where}", NOTES, sep="\n\n", end="\n\n", flush=True)
    record = Record(options.json)
    for name in options.only:
        run_part(name, options, record, where)
        write_page(options.out, record, command)
    write_page(options.out, record, command)


def write_page(path: Path | None, record: Record, command: str) -> None:
    """Write the page, if it is wanted; machines and versions stand in it where they were used."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# On a CUDA device\n\nMade by `{command}`.\n\n{record.page()}\n")


if __name__ == "__main__":
    main()
