"""What the harness costs a trial: the time inside the ledger, with a worker that only pretends to train.

A study of the shipped space ``modules`` with populations of 8 and five rungs runs to different numbers of trials, with
each storage. What is shown is the cost of its last tenth, which is what a trial costs in a study of that length. Writes
Markdown: ``python -m tests.benchmarks.overhead``; reports/benchmarks/overhead.md is made of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from search.ledger import Ledger
from search.populations import Outcome, Result, Task
from search.run_folder import RunFolder
from search.study import StudyConfig

ROWS = 200
EPOCHS = 32
SIZE = 8
PARTS = ("next", "report", "finish")

R = TypeVar("R")


@dataclass
class Clock:
    """Seconds of CPU time and of wall time by part of the ledger."""

    cpu: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    wall: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def __call__(self, part: str, call: Callable[[], R]) -> R:
        cpu, wall = time.process_time(), time.perf_counter()
        found = call()
        self.cpu[part] += time.process_time() - cpu
        self.wall[part] += time.perf_counter() - wall
        return found


def train(ledger: Ledger, task: Task, clock: Clock, rng: np.random.Generator) -> Result:
    """Pretend to train a population, epoch by epoch, with curves of random height."""
    heights = rng.uniform(0.5, 1.5, len(task.slots))
    outcomes = [Outcome(config=dict(s.config), predictions=np.zeros(ROWS, np.float32)) for s in task.slots]
    alive = list(range(len(task.slots)))
    for epoch in range(1, EPOCHS + 1):
        values = {k: float(heights[k] * (1 + 1 / epoch)) for k in alive}
        for k in alive:
            outcomes[k].value, outcomes[k].best_epoch = values[k], epoch
            outcomes[k].curve.append((epoch, 0.5, values[k]))
        reply = clock("report", lambda e=epoch, v=values: ledger.report(task.name, e, v))  # type: ignore[misc]
        for k in reply.drop:
            outcomes[k].dropped = True
        alive = [k for k in alive if not outcomes[k].dropped]
        if not alive:
            break
    return Result(outcomes, False, 1.0, 1000)


def run(trials: int, storage: str, sampler: str, folder: Path) -> str:
    """Run a study and return its row of the table."""
    config = StudyConfig.check(
        {
            "study": "overhead",
            "objective": {"metric": "mae", "convention": "mosi"},
            "budget": {"trials": trials},
            "rungs": {"epochs": [2, 4, 8, 16, EPOCHS], "keep": 0.5},
            "space": "modules",
            "sampler": sampler,
            "storage": storage,
        }
    )
    folder.mkdir()
    ledger, clock, rng = (
        Ledger(config, config.search_space(), RunFolder(folder), SIZE),
        Clock(),
        np.random.default_rng(0),
    )
    counted = max(2 * SIZE, trials // 10)
    done = left = 0
    while True:
        if left == 0 and done >= trials - counted:
            clock, left = Clock(), trials - done
        task = clock("next", ledger.next)
        if not isinstance(task, Task):
            break
        result = train(ledger, task, clock, rng)
        clock("finish", lambda t=task, r=result: ledger.finish(t.name, r))  # type: ignore[misc]
        done += len(task.slots)
    parts = " | ".join(f"{1000 * clock.cpu[p] / left:.1f}" for p in PARTS)
    cpu, wall = (1000 * sum(seconds.values()) / left for seconds in (clock.cpu, clock.wall))
    return f"| {storage} | {sampler} | {trials} | {parts} | {cpu:.1f} | {wall:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--storages", nargs="+", default=["journal", "sqlite"])
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random"])
    given = parser.parse_args()
    out = sys.stdout
    out.write("| storage | sampler | trials | next | report | finish | ms of CPU a trial | ms of wall time a trial |\n")
    out.write("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
    with tempfile.TemporaryDirectory() as scratch:
        for number in given.trials:
            for storage in given.storages:
                for sampler in given.samplers:
                    out.write(run(number, storage, sampler, Path(scratch) / f"{storage}-{sampler}-{number}") + "\n")
                    out.flush()


if __name__ == "__main__":
    main()
