"""Do first trials help a search: leaders of another run, or modules that the data's interactions advise?

Planted problems, several plantings each; on every planting the same study is run from scratch and with first trials.
The best trial so far after 16, 32 and 48 trials is trained again on fresh seeds, and compared with the search from
scratch planting by planting. Writes Markdown: ``python -m tests.benchmarks.priors``; reports/benchmarks/priors.md is
made of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from optuna.trial import FrozenTrial

from mmsa_core.data.scaler import Scaler
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import Problem, planted
from search import priors, warm_start
from search.ledger import Ledger
from search.populations import Reply, Slot, Task
from search.run_folder import RunFolder
from search.space import Space
from search.statistics import paired
from search.study import StudyConfig, WarmStartConfig
from search.trials import FirstTrial, configuration
from search.worker import Worker
from search.yaml_io import write_yaml

PROBLEMS: tuple[Problem, ...] = ("modules", "shared", "gating", "null")
AT = (16, 32, 48)
"""Trials after which the best so far is looked at."""
FRESH = range(1000, 1004)
"""The seeds that it is trained again with."""
ROWS, POPULATION, ALL = 320, 4, "all together"
ARMS = SCRATCH, LEADERS, ADVISED = "none", "leaders of another planting", "advised modules"


@dataclass(frozen=True)
class Planting:
    """One planting of a problem, and where the runs on it are kept."""

    problem: Problem
    seed: int
    folder: Path

    @cached_property
    def splits(self) -> dict[str, Split]:
        raw = planted(self.seed, train=ROWS, problem=self.problem)
        scaler = Scaler.fit(raw["train"])
        return {name: scaler.apply(raw[name]) for name in ("train", "valid")}

    @cached_property
    def worker(self) -> Worker:
        return Worker(self.splits["train"], self.splits["valid"], torch.device("cpu"))

    @property
    def config(self) -> StudyConfig:
        space = Space.load("planted").override("batch_size", 64)
        return StudyConfig.check(
            {
                "study": f"{self.problem}-{self.seed}",
                "objective": {"metric": "mae", "convention": "mosi"},
                "budget": {"trials": AT[-1]},
                "seeds": {"base": self.seed},
                "rungs": {"epochs": [4, 8, 16], "keep": 0.5},
                "population": POPULATION,
                "space": dict(space.tree),
            }
        )

    def searched(self, arm: str, first: Sequence[FirstTrial]) -> list[float]:
        """Search with ``first`` trials and return the confirmed value of the best trial after each of ``AT``."""
        config, path = self.config, self.run(arm)
        path.mkdir(parents=True)
        write_yaml(path / "resolved.yaml", config.resolved())
        source = Ledger(config, config.search_space(), RunFolder(path), POPULATION, first=first)
        while isinstance(task := source.next(), Task):
            source.finish(task.name, self.worker.run(task, source.report))
        trials = source.study.get_trials(deepcopy=False)
        best = [min((t for t in trials[:n] if t.value is not None), key=lambda t: float(t.value or 0)) for n in AT]
        values = {t.number: self.confirmed(t, source.space) for t in best}
        return [values[t.number] for t in best]

    def confirmed(self, trial: FrozenTrial, space: Space) -> float:
        """Return a trial's mean valid MAE over fresh seeds."""
        config = configuration(trial, space, self.config.rungs.epochs[-1])
        slots = tuple(Slot(k, seed, config) for k, seed in enumerate(FRESH))
        task = Task("confirm", slots, (), "mae", "mosi")
        outcomes = self.worker.run(task, lambda *_: Reply()).outcomes
        return float(np.mean([o.value for o in outcomes]))

    def run(self, arm: str) -> Path:
        return self.folder / f"{self.problem}-{self.seed}-{arm.replace(' ', '_')}"

    def taken_from(self, other: Planting) -> list[FirstTrial]:
        """Return the leaders of the search from scratch on another planting."""
        run = other.run(SCRATCH)
        leaders = (WarmStartConfig(run=str(run), leaders=warm_start.leaders_of(run)),)
        config = self.config.model_copy(update={"warm_start": leaders})
        return warm_start.first_trials(config, config.search_space())

    def advised(self) -> list[FirstTrial]:
        """Return what the interactions of the training rows advise."""
        return priors.first_trials(self.config.search_space(), priors.advice(self.splits["train"]), AT[-1])


def measured(plantings: int, folder: Path) -> Iterator[tuple[Problem, str, list[float]]]:
    """Yield the confirmed values of every arm of every problem, planting by planting: after each of ``AT``."""
    before: dict[Problem, Planting] = {}
    for seed in range(plantings + 1):
        for problem in PROBLEMS:
            last, now = before.get(problem), Planting(problem, seed, folder)
            values = now.searched(SCRATCH, [])
            before[problem] = now
            if seed < plantings:
                yield problem, SCRATCH, values
            if last is not None:
                yield problem, LEADERS, last.searched(LEADERS, last.taken_from(now))
                yield problem, ADVISED, last.searched(ADVISED, last.advised())


def report(rows: Sequence[tuple[Problem, str, list[float]]]) -> Iterator[str]:
    """Yield a table: the mean of every arm, and what it is below the search from scratch, paired by planting."""
    yield f"| problem | first trials | {' | '.join(f'after {n}' for n in AT)} |"
    yield f"| --- | --- | {' | '.join('---:' for _ in AT)} |"
    for problem in (*PROBLEMS, ALL):
        arms = {arm: np.array([v for p, a, v in rows if problem in (p, ALL) and a == arm]) for arm in ARMS}
        scratch = arms[SCRATCH]
        for arm, own in arms.items():
            means = [f"{v:.3f}" for v in own.mean(0)]
            if arm != SCRATCH:
                pairs = [paired(list(a), list(b)) for a, b in zip(own.T, scratch.T, strict=True)]
                means = [f"{m}, {e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}]" for m, e in zip(means, pairs, strict=True)]
            yield f"| {problem} | {arm} | {' | '.join(means)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plantings", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measured(given.plantings, Path(folder)):
            rows.append(row)
            sys.stderr.write(f"{row}\n")
    sys.stdout.write("\n".join([*report(rows), "", f"{time.process_time():.0f} s of CPU time."]) + "\n")


if __name__ == "__main__":
    main()
