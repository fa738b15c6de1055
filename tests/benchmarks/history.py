"""How many ended trials TPE should see: the best value found against the time that its draws take.

A made-up study: every parameter of the shipped space ``modules`` has an effect of its own, some pairs of choices act
together, and each trial has the noise of a seed. Nothing is trained, so that long studies can be repeated. Trials are
asked for in populations of 8, as a study does. Writes Markdown: ``python -m tests.benchmarks.history``.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
from scipy.stats import t

from mmsa_core.noise import mix
from search import sampling
from search.draft import Draft
from search.nodes import Arms, FloatRange, IntRange, Leaf, Values
from search.space import Space
from search.study import StudyConfig

SIZE = 8
NOISE = 0.3


class Response:
    """What a configuration is worth, the lower the better; each seed is another problem."""

    def __init__(self, space: Space, seed: int) -> None:
        self.leaves = space.leaves()
        self.seed = seed
        choices = [name for name, leaf in self.leaves.items() if isinstance(leaf, Arms)]
        random.Random(seed).shuffle(choices)
        self.pairs = list(pairwise(choices))[::2]

    def __call__(self, params: Mapping[str, Any]) -> float:
        own = sum(self._effect(name, self.leaves[name], value) for name, value in params.items())
        both = [(a, b) for a, b in self.pairs if a in params and b in params]
        return own + sum(self._normal("both", a, b, params[a], params[b]) for a, b in both)

    def _effect(self, name: str, leaf: Leaf, value: Any) -> float:
        weight = abs(self._normal("weight", name))
        if isinstance(leaf, Arms | Values):
            return weight * self._normal("choice", name, value)
        assert isinstance(leaf, FloatRange | IntRange)
        scale = math.log if leaf.log else float
        place = (scale(value) - scale(leaf.low)) / (scale(leaf.high) - scale(leaf.low) or 1.0)
        return weight * 3.0 * (place - random.Random(mix("best", self.seed, name)).random()) ** 2

    def _normal(self, *key: Any) -> float:
        return random.Random(mix(self.seed, *map(str, key))).gauss(0.0, 1.0)


def run(config: StudyConfig, space: Space, history: int, seed: int, trials: int) -> tuple[list[float], float]:
    """Return the true value of the best seen so far by trial, and the CPU seconds of a draw."""
    sampling.HISTORY = history
    response, noise = Response(space, seed), random.Random(seed)
    study = optuna.create_study()
    found, best, course, spent = math.inf, math.inf, [], 0.0
    for first in range(0, trials, SIZE):
        view, structure = sampling.Sight(study, history).view(), {}
        asked = []
        for k in range(SIZE):
            started = time.process_time()
            sampler = sampling.make_sampler(config, mix(seed, first, k), structure, view)
            draft = Draft(study, sampler, view.count)
            space.sample(draft)
            spent += time.process_time() - started
            asked.append(draft.create({}))
            view.add(asked[-1])
            structure = space.structural(asked[0].params)
        for trial in asked:
            true = response(trial.params)
            value = true + noise.gauss(0.0, NOISE)
            study.tell(trial.number, value)
            if value < best:
                best, found = value, true
            course.append(found)
    return course, spent / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--views", type=int, nargs="+", default=[250, 150, 100, 50], metavar="TRIALS")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tree = {"study": "history", "objective": {"metric": "mae", "convention": "mosi"}, "space": "modules"}
    config = StudyConfig.check({**tree, "budget": {"trials": given.trials}})
    space, marks = config.search_space(), [given.trials // 4, given.trials // 2, given.trials]
    views: list[int] = given.views
    values: dict[int, list[list[float]]] = {v: [] for v in views}
    cost: dict[int, list[float]] = {v: [] for v in views}
    for seed in range(given.repeats):
        for view in views:
            course, seconds = run(config, space, view, seed, given.trials)
            values[view].append([course[m - 1] for m in marks])
            cost[view].append(seconds)
            sys.stderr.write(f"{seed} {view} {values[view][-1]} {1000 * seconds:.1f}\n")
    head = " | ".join(f"after {m}" for m in marks)
    sys.stdout.write(f"| trials seen | {head} | ms of CPU a draw |\n| ---: {'| ---: ' * (len(marks) + 1)}|\n")
    base, quantile = np.array(values[views[0]]), float(t.ppf(0.975, given.repeats - 1))
    for view in views:
        difference = np.array(values[view]) - base
        error = difference.std(0, ddof=1) / math.sqrt(given.repeats)
        cells = [f"{m:+.2f} ± {quantile * e:.2f}" for m, e in zip(difference.mean(0), error, strict=True)]
        if view == views[0]:
            cells = [f"{m:.2f}" for m in base.mean(0)]
        sys.stdout.write(f"| {view} | {' | '.join(cells)} | {1000 * np.mean(cost[view]):.1f} |\n")


if __name__ == "__main__":
    main()
