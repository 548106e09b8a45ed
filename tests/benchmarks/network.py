"""Fits of several processes over networks of several delays and rates, and what a model says they take.

Run as ``python -m tests.benchmarks.network`` by root on Linux; it takes some minutes, and needs a machine that does
nothing else. Processes run in network namespaces of their own (``virtual_network.py``), which vanish with this process.

The model has, for each network, two numbers of an exchange of two processes: alpha, seconds until each has what the
other sends, and beta, seconds per byte (Hockney, "The communication challenge for MPP", Parallel Computing 20, 1994),
and a third, gamma, for each further process that one sends to. A roll call, from each to each, takes
``alpha + (p - 2) gamma``. The sum of ``n`` bytes is two such exchanges of ``n / p`` bytes to each,
``2 (alpha + (p - 2) gamma) + 2 (p - 1) / p n beta``; where these are long it is gloo's all-reduce, twice around the
ring, ``2 (p - 1) alpha + 2 (p - 1) / p n beta``. An update takes the computation of a share, times ``p / cores`` where
processes share cores, the roll calls that were counted, and one sum of the gradient. The computation is that of one
process alone, which takes the share of one in ``p``, with no others: their answers are made up from its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.datasets import make_spirals
from skode.distributed.group import DIRECT, Processes
from skode.distributed.scope import joined
from tests.benchmarks.report import setup, table
from tests.benchmarks.virtual_network import UnavailableError, VirtualNetwork, check_available, set_link
from tests.distributed.exchanges import Update, recorded
from tests.distributed.launch import Job

#: Networks that are made: seconds one way, and bits per second.
LINKS = {
    "50 µs, 10 Gbit/s": (5e-5, 1e10),
    "200 µs, 1 Gbit/s": (2e-4, 1e9),
    "1 ms, 1 Gbit/s": (1e-3, 1e9),
    "5 ms, 100 Mbit/s": (5e-3, 1e8),
}

#: Networks that are foretold for; None: that of one machine, as it is measured.
FAR_LINKS = {
    "one machine": None,
    "50 µs, 10 Gbit/s": (5e-5, 1e10),
    "200 µs, 1 Gbit/s": (2e-4, 1e9),
    "1 ms, 1 Gbit/s": (1e-3, 1e9),
}
FAR = [2, 4, 8, 16, 32, 64, 128, 256]

#: Elements of float32 that are summed, to find alpha and beta.
SIZES = [1_000, 10_000, 100_000, 1_000_000]

#: Updates of each fit, of which the last ones count.
N_UPDATES = 10

#: Rows of the data of "wide" and "density".
N_WIDE, N_DENSITY = 8192, 4000


def digits() -> Any:
    """A small table, with the default batch of 200."""
    X, y = load_digits(return_X_y=True)
    return ODENetClassifier(max_iter=2, alpha=1e-4, random_state=0).fit(X[:1600], y[:1600])


def wide() -> Any:
    """One large batch, and a field of 64 states and 256 hidden units."""
    X = np.random.default_rng(0).standard_normal((N_WIDE, 64))
    y = np.sin(X[:, 0] * X[:, 1]) + X[:, 2]
    parameters = {"hidden_layer_sizes": (256,), "batch_size": N_WIDE, "max_iter": 12, "alpha": 1e-4}
    return ODENetRegressor(**parameters, random_state=0).fit(X, y)


def density() -> Any:
    """A flow of eight dimensions, with batches of 1,000."""
    X = np.random.default_rng(0).standard_normal((N_DENSITY, 8))
    X[:, 1] += X[:, 0] ** 2
    parameters = {"batch_size": 1000, "max_iter": 5, "stacking": False, "matching_iter": 0}
    return CNFDensityEstimator(**parameters, random_state=0).fit(X)


def latent() -> Any:
    """A hundred series of 40 rows, in batches of 50."""
    X, y = make_spirals(n_series=100, n_observations=40, random_state=0)
    parameters = {"batch_size": 50, "max_iter": 50, "hidden_layer_sizes": (32,), "latent_size": 4, "encoder_size": 32}
    return LatentODERegressor("series", "time", **parameters, warm_up=0.0, random_state=0).fit(X, y)


FITS: dict[str, Callable[[], Any]] = {"digits": digits, "wide": wide, "density": density, "latent": latent}

#: Rows of a batch, or series.
BATCHES = {"digits": 200, "wide": N_WIDE, "density": 1000, "latent": 50}


class Alone(Processes):
    """One of several processes, without the others: they do what it does.

    Parameters
    ----------
    size : int
        How many there would be.
    """

    def __init__(self, size: int) -> None:
        self.rank, self.size = 0, size
        self.now = time.perf_counter()
        self.interrupted, self.interruption = False, None
        self._broken = ""

    def of_first(self, value: float) -> float:
        return value

    def _roll_call(
        self, value: float = 0.0, n: float = 0.0, *, failed: bool = False, left: bool = False
    ) -> tuple[float, float, bool, bool]:
        self.now = time.perf_counter()
        return self.size * value, self.size * n, failed, left

    def _gathered(self, value: Any) -> list[Any]:
        return [value] * self.size

    def _exchange(self, operation: Any, *args: Any, **kwargs: Any) -> None:
        if operation is dist.all_reduce:
            args[0].mul_(self.size)
        elif operation is dist.all_to_all_single:
            args[0].copy_(args[1])


@contextmanager
def alone_of(size: int) -> Iterator[None]:
    """Fits of this process alone that take the share of one of several."""
    with patch("skode.training.company.joined", lambda: Alone(size) if size > 1 else None):
        yield


def updates_of(fit: Callable[[], Any]) -> list[Update]:
    """The first updates of a fit but two, which warm up."""
    with warnings.catch_warnings(), recorded(N_UPDATES) as updates:
        warnings.simplefilter("ignore")
        fit()
    return updates[2:]


def typical(updates: Sequence[Update]) -> float:
    """Median of their seconds."""
    return float(np.median([update.seconds for update in updates]))


def computations(sizes: Sequence[int], names: Sequence[str]) -> dict[str, dict[int, float]]:
    """Seconds that the share of one in so many processes takes to compute, by fit and number.

    Shares of fewer than two rows take as long as those of two.
    """
    found: dict[str, dict[int, float]] = {}
    for name in names:
        found[name] = {}
        most = BATCHES[name] // 2
        for size in sorted({min(size, most) for size in sizes}):
            with alone_of(size):
                found[name][size] = typical(updates_of(FITS[name]))
        found[name] |= {size: found[name][most] for size in sizes if size > most}
    return found


def measured(links: dict[str, tuple[float, float]] | None, names: Sequence[str]) -> dict[str, dict[Any, Any]]:
    """In each process: of each network seconds of roll calls and sums, by bytes, and the updates of fits."""
    torch.set_num_threads(1)
    processes = joined()
    assert processes is not None
    found: dict[str, dict[Any, Any]] = {}
    for link, (delay, rate) in (links or {"": (0.0, 0.0)}).items():
        processes.totals()
        if links and processes.rank == 0:
            set_link(delay, rate)
        times: dict[Any, Any] = {"roll call": _median(processes.totals, processes, 60)}
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(100):
            processes.totals()
        after = resource.getrusage(resource.RUSAGE_SELF)
        times["processor"] = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 100
        for n in SIZES:
            x = torch.zeros(n)

            def add(x: Any = x) -> None:
                processes.sum_up([x])

            def around_the_ring(x: Any = x) -> None:
                processes._exchange(dist.all_reduce, x)

            for way, call in (("sum", add), ("ring", around_the_ring)):
                call(), call()  # until TCP has a window for so much
                times[way, x.nbytes] = _median(call, processes, 9)
        times["fits"] = {name: updates_of(FITS[name]) for name in names}
        found[link] = times
    return found


def _median(call: Callable[[], Any], processes: Processes, n: int) -> float:
    seconds = []
    for _ in range(n):
        processes.totals()
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def run(size: int, links: dict[str, tuple[float, float]] | None, names: Sequence[str]) -> dict[str, dict[Any, Any]]:
    """Measurements of rank 0 of so many processes, in a virtual network or on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        target = "tests.benchmarks.network:measured"
        if links is None:
            job = Job(Path(folder), target, links, names, size=size)
            result = job.results(timeout=600)[0]
        else:
            with VirtualNetwork(size) as network:
                prefixes = [network.prefix(i) for i in range(size)]
                job = Job(folder, target, links, names, size=size, prefixes=prefixes, environment=network.environment())
                result = job.results(timeout=600)[0]
        if not isinstance(result, dict):
            raise RuntimeError(f"A process has failed: {result!r}\n{job.output(0)}")
        return result


@dataclass(frozen=True)
class Model:
    """Times of exchanges; see the module.

    Attributes
    ----------
    alpha, beta, gamma : float
        Seconds per hop, per byte, and per further process of a roll call.
    """

    alpha: float
    beta: float
    gamma: float

    @classmethod
    def of(cls, times: dict[int, dict[Any, Any]]) -> Model:
        """From times by number of processes: alpha and beta from two processes, gamma from the roll calls of more."""
        two = times[2]
        rows = [(1.0, 0.0, two["roll call"]), *((2.0, 4.0 * n, two["ring", 4 * n]) for n in SIZES)]
        a, b, t = (np.array(column) for column in zip(*rows, strict=True))
        # Errors count in relation to what was measured.
        (alpha, beta), *_ = np.linalg.lstsq(np.stack([a, b], axis=1) / t[:, None], np.ones(len(t)), rcond=None)
        more = [(p - 2, times[p]["roll call"] - alpha) for p in times if p > 2]
        gamma = sum(k * s for k, s in more) / max(sum(k * k for k, _ in more), 1)
        return cls(float(alpha), float(beta), float(max(gamma, 0.0)))

    def roll_call(self, p: int) -> float:
        return self.alpha + (p - 2) * self.gamma

    def sum(self, n: float, p: int) -> float:
        """Seconds of the sum of so many bytes, after the roll call before it."""
        if p > 2 and n / p <= DIRECT:
            return 2.0 * self.roll_call(p) + 2.0 * (p - 1) / p * n * self.beta
        return self.ring(n, p)

    def ring(self, n: float, p: int) -> float:
        return 2.0 * (p - 1) * self.alpha + 2.0 * (p - 1) / p * n * self.beta

    def exchanges(self, updates: Sequence[Update], p: int) -> float:
        """Mean time of all exchanges of an update."""
        return roll_calls(updates) * self.roll_call(p) + self.sum(updates[0].gradient, p)


def roll_calls(updates: Sequence[Update]) -> float:
    """The mean number of roll calls of an update."""
    return float(np.mean([update.roll_calls for update in updates]))


def milli(seconds: float) -> str:
    """Milliseconds, to three digits."""
    value = 1e3 * seconds
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def near(sizes: Sequence[int], links: dict[str, tuple[float, float]], names: Sequence[str]) -> None:
    """Measure over virtual networks, and compare with the model."""
    computed = computations([1, *sizes], names)
    by_size = {p: run(p, links, names) for p in sizes}
    models = {link: Model.of({p: by_size[p][link] for p in sizes}) for link in links}
    rows: list[list[Any]] = []
    for link, model in models.items():
        for p in sizes:
            times = by_size[p][link]
            software = model.alpha - 2.0 * links[link][0]
            row = [link, p, milli(model.alpha), milli(software), f"{1e9 * model.beta:.3g}", milli(model.gamma)]
            row += [f"{milli(times['roll call'])} ({times['roll call'] / model.roll_call(p):.2f})"]
            sums = [(times["sum", 4 * n], model.roll_call(p) + model.sum(4 * n, p)) for n in SIZES]
            sums.append((times["ring", 4 * SIZES[0]], model.ring(4 * SIZES[0], p)))
            row += [f"{milli(took)} ({took / foretold:.2f})" for took, foretold in sums]
            rows.append(row)
    head = ["one way, rate", "processes", "alpha, ms", "without delays", "beta, ns", "gamma, ms", "roll call, ms"]
    print("\nMilliseconds, and in brackets what they are of the model's:\n")
    head += [f"sum of {4 * n // 1000} kB" for n in SIZES] + [f"ring, {4 * SIZES[0] // 1000} kB"]
    print(table(head, rows), flush=True)

    cores = len(os.sched_getaffinity(0))
    rows, ratios = [], []
    for name in names:
        for link, model in models.items():
            for p in sizes:
                updates = by_size[p][link]["fits"][name]
                foretold = computed[name][p] * max(1.0, p / cores), model.exchanges(updates, p)
                exchanging = float(np.median([update.exchanging for update in updates]))
                taken = typical(updates)
                found = taken - exchanging, exchanging
                ratios.append(taken / sum(foretold))
                row = [name, link, p, f"{roll_calls(updates):.1f}"]
                row += [f"{milli(one)}, {milli(other)}" for one, other in zip(foretold, found, strict=True)]
                row += [
                    f"{milli(sum(foretold))}, {milli(taken)}",
                    f"{ratios[-1]:.2f}",
                    f"{computed[name][1] / taken:.2f}",
                ]
                rows.append(row)
    head = ["fit", "one way, rate", "processes", "roll calls", "computing, ms", "exchanges, ms", "update, ms"]
    print(f"\nUpdates of fits on {cores} cores, foretold and measured:\n")
    print(table([*head, "measured / foretold", "speed-up"], rows))
    print(
        f"\nmeasured / foretold: median {np.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}, "
        f"within 20 % in {sum(abs(r - 1) < 0.2 for r in ratios)} of {len(ratios)}.",
        flush=True,
    )


def far(names: Sequence[str]) -> None:
    """Foretell up to 256 processes, with a core each, by what one and two of this machine take."""
    computed = computations([1, *FAR], names)
    here = {p: run(p, None, names if p == 2 else [])[""] for p in (2, 4, 8)}
    loop = Model.of({2: here[2]})
    # A further process costs what its messages take of a processor: those that share cores wait for each other besides.
    gamma = float(np.polyfit(list(here), [times["processor"] for times in here.values()], 1)[0])
    print(
        f"\nOn this machine: alpha {milli(loop.alpha)} ms, beta {1e9 * loop.beta:.3g} ns a byte; roll calls of "
        + ", ".join(f"{p} processes {milli(times['roll call'])} ms" for p, times in here.items())
        + f"; processor time of a roll call {', '.join(milli(times['processor']) for times in here.values())} ms, so "
        f"that gamma is {milli(gamma)} ms.\n"
    )
    facts, rows = [], []
    for name in names:
        updates, seconds = here[2]["fits"][name], computed[name]
        attempts = np.mean([update.attempts for update in updates])
        few = [1, 2, 4, 8]
        per_row = float(np.polyfit([BATCHES[name] / p for p in few], [seconds[p] for p in few], 1)[0])
        computing = [milli(seconds[p]) for p in (1, 2, 4, 8, 16, 64, 256)]
        counts = [f"{attempts:.1f}", f"{roll_calls(updates):.1f}", f"{updates[0].gradient:,}"]
        facts.append([name, *counts, *computing, milli(per_row)])
        for link, how in FAR_LINKS.items():
            model = loop if how is None else Model(loop.alpha + 2.0 * how[0], max(8.0 / how[1], loop.beta), 0.0)
            model = Model(model.alpha, model.beta, gamma)
            took = {1: seconds[1]} | {p: seconds[p] + model.exchanges(updates, p) for p in FAR}
            best = min(took, key=lambda p: took[p])
            # Half of the batch has to take longer than the exchanges of two processes.
            enough = 2.0 * model.exchanges(updates, 2) / per_row
            row = [name, link, *(f"{100 * seconds[1] / (p * took[p]):.0f}" for p in FAR)]
            rows.append([*row, f"{seconds[1] / took[best]:.1f}", best, BATCHES[name] // best, f"{enough:.0f}"])
    head = ["fit", "steps tried", "roll calls", "gradient, bytes"]
    print(table([*head, *(f"share 1/{p}, ms" for p in (1, 2, 4, 8, 16, 64, 256)), "per row, ms"], facts))
    print("\nEfficiency in percent, foretold:\n")
    head = ["fit", "one way, rate", *map(str, FAR), "most speed-up", "with", "rows each", "2 pay from rows"]
    print(table(head, rows), flush=True)


def main() -> None:
    """Measure, foretell, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.network", description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 3, 4], help="numbers of processes, 2 among them")
    parser.add_argument("--fits", nargs="+", default=list(FITS), choices=list(FITS))
    parser.add_argument("--links", nargs="+", default=list(LINKS), choices=list(LINKS))
    parser.add_argument("--only", choices=["near", "far"], help="networks that are made, or what is foretold")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{setup()} Load when this began: {load} (1, 5, 15 minutes); niceness {os.nice(0)}.", flush=True)
    if options.only != "near":
        far(options.fits)
    if options.only != "far":
        try:
            check_available()
        except UnavailableError as reason:
            print(f"\nNo virtual networks here: {reason}", file=sys.stderr)
            return
        near(options.sizes, {link: LINKS[link] for link in options.links}, options.fits)
    print(f"\nLoad when it ended: {', '.join(f'{x:.1f}' for x in os.getloadavg())}.")


if __name__ == "__main__":
    main()
