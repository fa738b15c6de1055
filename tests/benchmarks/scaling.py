"""How the cost of an epoch grows with members, rows and the length of sequences: CPU seconds and peak memory.

Of each pair of neighbours the growth of the cost is divided by that of its cause: above 1 the cost grows faster. Two
causes of such growth are shown: pages touched for the first time, and gathering a step's rows from the data. Writes
Markdown: ``python -m tests.benchmarks.scaling``; reports/benchmarks/scaling.md is made of it.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch

from mmsa_core.loader import SplitTensors, take
from mmsa_core.population import MET, MemberSpec, Population
from search.bench import _peak_bytes
from tests.benchmarks.speed import Case, cpu_seconds, made_up, together_epoch

VALID = 200
ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """An epoch's CPU seconds, those of them that gather the rows of its steps, the pages that it touched for the first
    time, and the bytes that a population adds to the data at most."""

    seconds: float
    gathering: float
    faults: float
    peak: int


@dataclass(frozen=True)
class Point:
    """What one epoch is measured on; ``cause`` is the number that varies."""

    cause: int
    case: Case
    rows: int
    members: int

    def measure(self) -> Cost:
        """Return the medians of some epochs after the step was recorded."""
        made = (made_up(n, self.case.steps, seed) for seed, n in enumerate((self.rows, VALID)))
        train, valid = (SplitTensors(split, torch.device("cpu")) for split in made)
        config = self.case.config
        population = Population([MemberSpec(config, seed) for seed in range(self.members)], train)
        data = valid.batch(config)
        warm = 1 + MET * config.batch_size // self.rows
        for number in range(1, warm + 1):
            population.train_epoch(number)
        times, faults, gathers = [], [], []
        for number in range(warm + 1, warm + ROUNDS + 1):
            before = _faults()
            times.append(cpu_seconds(lambda n=number: together_epoch(population, n, data)))  # type: ignore[misc]
            faults.append(_faults() - before)
            gathers.append(cpu_seconds(lambda n=number: _gather(population, n)))  # type: ignore[misc]
        peak = _peak_bytes(config, train, valid, self.members)
        return Cost(median(times), median(gathers), median(faults), peak)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _gather(population: Population, epoch: int) -> None:
    """Gather the rows of an epoch's steps, and no more."""
    rows, _ = population._order(epoch)
    for index in rows.split(population.config.batch_size, dim=-1):
        take(population.data, index)


def series() -> Iterator[tuple[str, list[Point]]]:
    """Yield what varies, and its points."""
    yield "members (pool, 1 step, 64 rows)", [Point(k, Case("", 1, "pool"), 64, k) for k in (1, 4, 16, 64, 256)]
    yield "rows (linear, 1 step, 1 member)", [Point(n, Case("", 1, "linear"), n, 1) for n in (1_000, 10_000, 100_000)]
    for encoder in ("pool", "attention", "lstm"):
        name = f"steps of a sequence ({encoder}, 64 rows, 4 members)"
        yield name, [Point(t, Case("", t, encoder), 64, 4) for t in (1, 5, 50, 500)]


def main() -> None:
    torch.set_num_threads(1)
    out = sys.stdout
    out.write(
        "| what varies | at | CPU s an epoch | of it gathering | new pages | MB "
        "| growth of time / of the cause | of memory / of the cause |\n| --- " + "| ---: " * 7 + "|\n"
    )
    for name, points in series():
        before: tuple[int, Cost] | None = None
        for point in points:
            now = point.measure()
            growth = "- | -"
            if before is not None:
                cause = point.cause / before[0]
                growth = f"{now.seconds / before[1].seconds / cause:.2f} | {now.peak / before[1].peak / cause:.2f}"
            before = (point.cause, now)
            gathering = now.gathering / now.seconds
            out.write(
                f"| {name} | {point.cause:,} | {now.seconds:.3g} | {gathering:.0%} | {now.faults:,.0f} "
                f"| {now.peak / 1e6:.1f} | {growth} |\n"
            )
            out.flush()


if __name__ == "__main__":
    main()
