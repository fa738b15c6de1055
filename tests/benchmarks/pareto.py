"""What pruning by fronts saves in a study of a metric and a cost, and what it loses.

A study of MAE and parameters on the planted problem ``modules`` (a product of text and audio), whose space holds widths
from 8 to 64 and four fusions, is searched with the same seeds without pruning, with pruning by the metric alone, and
with pruning by the fronts of metric and cost. Writes Markdown: ``python -m tests.benchmarks.pareto``;
reports/benchmarks/pareto.md is made of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmsa_core.data.scaler import Scaler
from mmsa_core.data.synthetic import planted
from search.ledger import Ledger
from search.pareto import Point
from search.populations import Reply, Task
from search.run_folder import RunFolder
from search.statistics import estimate, paired
from search.study import StudyConfig
from search.trials import cost, front, score, summary
from search.worker import Worker

ENCODER = {"name": "linear", "dim": {"choice": [8, 16, 32, 64]}, "dropout": 0.1}
SPACE: dict[str, Any] = {
    "encoders": dict.fromkeys(("text", "audio", "vision"), ENCODER),
    "width": {"choice": [8, 16, 32, 64]},
    "fusion": {"choice": {"concat": {}, "gated": {}, "low_rank": {"rank": {"choice": [2, 4, 8]}}, "tensor": {}}},
    "heads": {"dim": 16, "dropout": {"float": [0.0, 0.5], "default": 0.1}},
    "labels": "none",
    "optimizer": {"lr": {"float": [0.001, 0.02], "log": True, "default": 0.005}, "clip": 1.0},
    "batch_size": 32,
}
ARMS = {"none": "no pruning", "metric": "the metric alone", "fronts": "fronts of metric and cost"}
SIZE = 4
"""Members of a population."""
LEAST, MOST = 1e3, 1e5
"""Parameters between which hypervolumes are taken, on a log scale; what is dearer adds nothing."""


@dataclass(frozen=True)
class Course:
    """A study's end, and (member-epochs spent, hypervolume) after each of its populations."""

    counts: Mapping[str, int]
    steps: tuple[tuple[int, float], ...]
    ahead: Sequence[Point]

    @property
    def spent(self) -> int:
        return self.steps[-1][0]

    def at(self, epochs: int) -> float:
        """Return the hypervolume of what had ended by then."""
        return max((volume for spent, volume in self.steps if spent <= epochs), default=0.0)


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the area that points of a front, smaller is better, cover towards ``reference``."""
    area, ceiling = 0.0, reference[1]
    for x, y in sorted(points):
        if x < reference[0] and y < ceiling:
            area += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return area


def study(arm: str, base: int, trials: int) -> StudyConfig:
    return StudyConfig.check(
        {
            "study": f"pareto-{arm}-{base}",
            "objective": {"metric": "mae", "convention": "mosi", "cost": "parameters"},
            "budget": {"trials": trials},
            "seeds": {"base": base},
            "rungs": {"epochs": [2, 4, 8, 16], "keep": 0.5},
            "space": SPACE,
            "pruner": "none" if arm == "none" else "rungs",
        }
    )


def course(arm: str, base: int, trials: int) -> Course:
    """Search once, in this process; ``base`` is the planting's seed and the study's."""
    raw = planted(base, problem="modules")
    scaler = Scaler.fit(raw["train"])
    train, valid = (scaler.apply(raw[name]) for name in ("train", "valid"))
    chance = float(np.abs(valid.labels - np.median(train.labels)).mean())
    config = study(arm, base, trials)
    worker, spent, steps = Worker(train, valid, torch.device("cpu")), 0, []
    with tempfile.TemporaryDirectory() as folder:
        source = Ledger(config, config.search_space(), RunFolder(Path(folder)), SIZE)

        def report(task: str, epoch: int, values: Mapping[int, float], cost: float | None = None) -> Reply:
            nonlocal spent
            spent += len(values)
            return source.report(task, epoch, values, cost if arm == "fronts" else None)

        while isinstance(task := source.next(), Task):
            source.finish(task.name, worker.run(task, report))
            ahead = [(score(t) or 0.0, cost(t) or 0.0) for t in front(source.study)]
            scaled = [(value / chance, log10(known / LEAST) / log10(MOST / LEAST)) for value, known in ahead]
            steps.append((spent, hypervolume(scaled, (1.0, 1.0))))
        return Course(summary(source.study, config, running=False)["counts"], tuple(steps), ahead)


def report(seeds: int, trials: int) -> Iterator[str]:
    found: dict[str, list[Course]] = {arm: [] for arm in ARMS}
    yield "| seed | pruning by | member-epochs | complete | pruned | hypervolume | front: MAE at parameters |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | --- |"
    for base in range(seeds):
        for arm, name in ARMS.items():
            one = course(arm, base, trials)
            found[arm].append(one)
            ahead = ", ".join(f"{value:.3f} at {known:.0f}" for value, known in one.ahead)
            yield (
                f"| {base} | {name} | {one.spent} | {one.counts['complete']} | {one.counts['pruned']} "
                f"| {one.steps[-1][1]:.4f} | {ahead} |"
            )
    yield f"\nMeans over {seeds} seeds, differences paired by seed [95 % interval]; a larger hypervolume is better.\n"
    yield "| pruning by | member-epochs | hypervolume | minus no pruning | no pruning, as many epochs | minus that |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    plain = [c.steps[-1][1] for c in found["none"]]
    for arm, name in ARMS.items():
        own = [c.steps[-1][1] for c in found[arm]]
        equal = [none.at(c.spent) for none, c in zip(found["none"], found[arm], strict=True)]
        cells = ["", "", ""] if arm == "none" else [shown(own, plain), f"{np.mean(equal):.4f}", shown(own, equal)]
        spent = estimate([c.spent for c in found[arm]])
        yield f"| {name} | {spent.mean:.0f} | {np.mean(own):.4f} | " + " | ".join(cells) + " |"


def shown(a: Sequence[float], b: Sequence[float]) -> str:
    e = paired(a, b)
    return f"{e.mean:+.4f} [{e.low:+.4f}, {e.high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--trials", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for line in report(given.seeds, given.trials):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
