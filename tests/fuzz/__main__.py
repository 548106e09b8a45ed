"""Fuzz the estimators: ``python -m tests.fuzz --cases 1000 --estimator density``; one case again: ``--seed 17``."""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict

from tests.fuzz import ESTIMATORS, limited_memory, new_case
from tests.fuzz.cases import worst
from tests.fuzz.outcomes import ENDS, End


def main() -> int:
    """Run cases, and print how they ended; returns how many ended badly."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--estimator", choices=sorted(ESTIMATORS), help="which one (all)")
    parser.add_argument("--cases", type=int, default=1000, help="cases of each estimator (1000)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first (0)")
    parser.add_argument("--seed", type=int, help="the one case to run, told call by call")
    options = parser.parse_args()
    names = [options.estimator] if options.estimator else sorted(ESTIMATORS)
    with limited_memory():
        if options.seed is not None:
            return sum(_tell(name, options.seed) for name in names)
        return sum(_survey(name, range(options.first, options.first + options.cases)) for name in names)


def _survey(name: str, seeds: range) -> int:
    """Run many cases; prints counts by outcome, and the bad ones by where they come from."""
    counts, calls = Counter[str](), Counter[str]()
    bad: dict[tuple[str, str], list[tuple[int, End]]] = defaultdict(list)
    began, slowest = time.perf_counter(), (0.0, -1)
    for seed in seeds:
        start = time.perf_counter()
        ends = new_case(name, seed).run()
        slowest = max(slowest, (time.perf_counter() - start, seed))
        counts[worst(ends).kind] += 1
        calls.update(end.kind for end in ends)
        for end in ends:
            if end.bad:
                bad[end.kind, end.detail.rpartition("[")[2]].append((seed, end))
    seconds = time.perf_counter() - began
    print(f"{name}: {len(seeds)} cases in {seconds:.0f} s, the slowest {slowest[0]:.1f} s (seed {slowest[1]})")
    print("   cases   calls")
    for kind in ENDS:
        print(f"  {counts[kind]:6d}  {calls[kind]:6d}  {kind}")
    for (kind, place), found in sorted(bad.items(), key=lambda item: -len(item[1])):
        seeds_of = sorted({seed for seed, _ in found})
        print(
            f"  {kind} [{place} x{len(found)}, in seeds {seeds_of[:8]}\n      {found[0][1].step}: {found[0][1].detail}"
        )
    return sum(count for kind, count in counts.items() if kind.startswith("BAD"))


def _tell(name: str, seed: int) -> int:
    """Run one case, and print all of it."""
    case = new_case(name, seed)
    print(name, seed, case.told)
    ends = case.run()
    for end in ends:
        print(f"  {end.step}: {end.kind}\n      {end.detail}")
    return worst(ends).bad


if __name__ == "__main__":
    raise SystemExit(main() > 0)
