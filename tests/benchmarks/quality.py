"""Quality per second: how good is what a search would hand over after so much CPU time?

Every variant of the search gets the same CPU seconds of one core, in one process and without Ray, on a planted problem
and on a real data set, several times with other seeds (and other plantings). After a quarter, half and all of the time
its best trial so far is trained again with fresh seeds: what it reaches on held-out rows (planted) or on the valid
split (real) is its true quality. At the end the leaders and the baseline are confirmed, as ``mmsa-search run`` does,
and what that would hand over is judged by fresh seeds too.

``python -m tests.benchmarks.quality run FILE.jsonl`` adds a line for every run, and ``python -m
tests.benchmarks.quality table FILE.jsonl`` makes Markdown of them; reports/benchmarks/quality.md is made of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from mmsa_core.config import MemberConfig
from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import planted
from mmsa_core.loader import SplitTensors
from mmsa_core.model import complete
from mmsa_core.noise import mix
from mmsa_core.population import MemberSpec
from mmsa_core.predict import predict
from mmsa_core.train import Fit, Objective, Progress, Verdict, fit
from search.bench import population_size
from search.ledger import Ledger
from search.populations import Reply, Task
from search.run_folder import RunFolder
from search.statistics import paired
from search.study import StudyConfig
from search.trials import best_trial, leaders
from search.worker import Worker

SHARES = (0.25, 0.5, 1.0)
"""Parts of the time after which the best trial so far is looked at."""
FRESH, ROWS = 16, 4000
"""Seeds, and held-out rows of a planted problem, that say how good a configuration is. The seeds differ between
repetitions: the same three for all made the baseline of the real data look better by .055 than it is, every time."""
LEADERS, CONFIRM = 5, 10
"""Leaders that are confirmed beside the baseline, and with how many seeds of their own."""
DATA = ("planted", "real")
EXPECTED = {"planted": 150, "real": 150}
"""Trials that a study is given as its budget: about what the defaults get done, as a user would write it."""
UNBOUNDED = 1_000_000
ASHA = "TPE + ASHA, one by one"
REFERENCE, DEFAULTS = "rungs", "defaults"
CPU = torch.device("cpu")
RUNGS: dict[str, Any] = {"rungs": {"epochs": [2, 4, 8, 16, 32]}}
SETTINGS: dict[str, dict[str, Any]] = {
    REFERENCE: RUNGS,
    DEFAULTS: {},
    ASHA: {},
    "rungs, random draws": {**RUNGS, "sampler": "random"},
    "rungs from 8 on": {"rungs": {"epochs": [8, 16, 32]}},
    "rungs, population 1": {**RUNGS, "population": 1},
    "rungs, population 64": {**RUNGS, "population": 64},
    "rungs, 3 seeds a trial": {**RUNGS, "seeds": {"search": 3}},
}
"""What each variant gives a study, in the order in which they are run. The defaults end no trial early."""


@dataclass(frozen=True)
class Mark:
    """The best trial after a share of the time: its value in the search and on fresh seeds, and the trials told."""

    share: float
    value: float
    true: float
    trials: int


@dataclass(frozen=True)
class Found:
    """A best trial so far: when (CPU seconds since the start), how many trials there were, its value, and the
    configurations of the leading trials, its own the first."""

    at: float
    trials: int
    value: float
    leading: Sequence[Mapping[str, Any]]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.leading[0]


class Clock:
    """CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self._start = time.process_time()

    def __call__(self) -> float:
        return time.process_time() - self._start


class Problem:
    """A data set in one repetition: rows to search on, rows that tell the truth, and the space."""

    def __init__(self, name: str, repeat: int) -> None:
        self.name, self.repeat = name, repeat
        raw = _planted(repeat) if name == "planted" else _real()
        scaler = Scaler.fit(raw["train"])
        self.train, self.valid = (SplitTensors(scaler.apply(raw[n]), CPU) for n in ("train", "valid"))
        self.rows = scaler.apply(raw["test"]) if name == "planted" else None
        self._known: dict[str, float] = {}

    def study(self, changes: Mapping[str, Any], trials: int) -> StudyConfig:
        """Return the study of a variant: everything is the default that is not changed."""
        seeds = {"base": self.repeat, **changes.get("seeds", {})}
        tree = {
            "study": self.name,
            "objective": {"metric": "mae", "convention": "mosi"},
            "budget": {"trials": trials},
            "space": "planted" if self.name == "planted" else "quick",
        }
        return StudyConfig.check({**tree, **changes, "seeds": seeds})

    def members(self, config: StudyConfig, trials: int) -> int:
        """Return the size of a population as a study of so many trials would choose it."""
        baseline = complete(MemberConfig.from_dict(config.search_space().baseline()[0]))
        return population_size(config.population, baseline, self.train, self.valid, trials)

    def fit(self, config: MemberConfig, seeds: Sequence[int], **more: Any) -> Fit:
        return fit([MemberSpec(config, s) for s in seeds], self.train, self.valid, objective=Objective(), **more)

    def truth(self, config: Mapping[str, Any]) -> float:
        """Return the mean MAE of a configuration over fresh seeds, each at its best epoch on the valid split."""
        whole = complete(MemberConfig.from_dict(config))
        if whole.fingerprint() not in self._known:
            runs = self.fit(whole, [mix("fresh", self.repeat, k) for k in range(FRESH)]).runs
            self._known[whole.fingerprint()] = self._error(whole, [r for r in runs if r.state is not None])
        return self._known[whole.fingerprint()]

    def confirmed(self, configs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return the configuration with the best mean MAE on the valid split over seeds that no search has seen."""
        seeds = [mix("confirm", self.repeat, k) for k in range(CONFIRM)]
        means = [np.mean([r.value for r in self.fit(MemberConfig.from_dict(c), seeds).runs]) for c in configs]
        return configs[int(np.nanargmin(means))]

    def _error(self, config: MemberConfig, runs: Sequence[Any]) -> float:
        assert runs, "a configuration that was found cannot be trained again"
        if self.rows is None:
            return float(np.mean([r.value for r in runs]))
        stacked = {n: torch.stack([r.state[n] for r in runs]) for n in runs[0].state}
        return float(np.abs(predict(config, stacked, self.rows) - self.rows.labels).mean())


def _planted(seed: int) -> dict[str, Split]:
    return planted(seed, test=ROWS, problem="modules", unlabeled=0)


@cache
def _real() -> dict[str, Split]:
    data = open_dataset(Path(os.environ["MMSA_DATA"]) / "mosei_video792.npz")
    return {"train": data.split("train"), "valid": data.split("valid")}


def searched(problem: Problem, config: StudyConfig, size: int, seconds: float) -> Iterator[Found]:
    """Search with the ledger and a worker in this process; yield the best trial at every population's end."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(config, config.search_space(), RunFolder(Path(folder)), size)
        ledger.config = replace_trials(config, UNBOUNDED)  # time ends it; the sampler and the size know of ``trials``
        worker = Worker(problem.train.split, problem.valid.split, CPU)

        def report(task: str, epoch: int, values: Mapping[int, float], cost: float | None = None) -> Reply:
            reply = ledger.report(task, epoch, values, cost)
            return Reply(reply.drop, clock() > seconds)

        while isinstance(task := ledger.next(), Task):
            result = worker.run(task, report)
            if result.stopped:
                return
            ledger.finish(task.name, result)
            told, best = len(ledger.study.get_trials(deepcopy=False)), best_trial(ledger.study)
            if best is not None and best.value is not None:
                leading = [best, *(t for t in leaders(ledger.study, LEADERS) if t.number != best.number)]
                yield Found(clock(), told, best.value, [ledger.asker.configuration(t) for t in leading])


def replace_trials(config: StudyConfig, trials: int) -> StudyConfig:
    return config.model_copy(update={"budget": config.budget.model_copy(update={"trials": trials})})


class Halving:
    """Stops trials as ``ASHAScheduler`` of Ray Tune 2.60 does with its defaults: after epochs 1, 4 and 16 a trial goes
    on if it is in the best quarter of those that came there before it."""

    def __init__(self) -> None:
        self._seen: dict[int, list[float]] = {1: [], 4: [], 16: []}

    def stops(self, epoch: int, value: float) -> bool:
        if (seen := self._seen.get(epoch)) is None:
            return False
        weak = bool(seen) and value > float(np.percentile(seen, 25))
        seen.append(value)
        return weak


def one_by_one(problem: Problem, config: StudyConfig, seconds: float) -> Iterator[Found]:
    """Search as Ray Tune's OptunaSearch with ASHA does: Optuna's own TPE, one member a trial, and every trial told
    complete with its last value. There is no Ray, so that this costs no more than what it trains."""
    clock, halving, space = Clock(), Halving(), config.search_space()
    sampler = optuna.samplers.TPESampler(seed=config.seeds.base)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(space.baseline()[1])
    configs: list[MemberConfig] = []

    def on_epoch(progress: Progress) -> Verdict:
        value = progress.values.get(0, float("nan"))
        late = clock() > seconds
        return Verdict(frozenset({0}) if halving.stops(progress.epoch, value) else frozenset(), late)

    while True:
        trial = study.ask()
        configs.append(member(space.sample(trial), config))
        done = problem.fit(configs[-1], [mix("search", config.seeds.base, 0)], on_epoch=on_epoch)
        if done.stopped:
            return
        if done.runs[0].failure is None:
            study.tell(trial, done.runs[0].value)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        told = [t for t in study.get_trials(deepcopy=False) if t.values is not None]
        leading = sorted(told, key=lambda t: t.values[0])[:LEADERS]
        yield Found(clock(), len(configs), leading[0].values[0], [configs[t.number].to_dict() for t in leading])


def member(sampled: Mapping[str, Any], config: StudyConfig) -> MemberConfig:
    return complete(MemberConfig.from_dict({**sampled, "epochs": config.rungs.epochs[-1]}))


def run(data: str, variant: str, repeat: int, seconds: float) -> dict[str, Any]:
    """Run a variant once and return its record."""
    problem = Problem(data, repeat)
    trials = EXPECTED[data]
    config = problem.study(SETTINGS[variant], trials)
    alone = variant == ASHA
    size = 1 if alone else problem.members(config, trials)
    search = one_by_one(problem, config, seconds) if alone else searched(problem, config, size, seconds)
    courses = list(search)
    start = member(config.search_space().baseline()[0], config).to_dict()
    marks = [asdict(_mark(problem, start, courses, share, share * seconds)) for share in SHARES]
    leading = [complete(MemberConfig.from_dict(c)).to_dict() for c in courses[-1].leading] if courses else []
    winner = problem.confirmed([start, *(c for c in leading if c != start)])
    own = {"data": data, "variant": variant, "repeat": repeat, "seconds": seconds, "members": size}
    true = {"baseline": problem.truth(start), "confirmed": problem.truth(winner)}
    return {**own, **true, "is_baseline": winner == start, "marks": marks}


def _mark(problem: Problem, start: Mapping[str, Any], found: Sequence[Found], share: float, at: float) -> Mark:
    """Return the best trial at a time; before the first trial ends that is the baseline."""
    before = [f for f in found if f.at <= at]
    if before:
        return Mark(share, before[-1].value, problem.truth(before[-1].config), before[-1].trials)
    return Mark(share, float("nan"), problem.truth(start), 0)


def run_all(path: Path, repeats: range, seconds: float, variants: Sequence[str], data: Sequence[str]) -> None:
    """Run what is not in the file yet, repetition by repetition, so that it can be stopped at any time."""
    known = {(r["data"], r["variant"], r["repeat"]) for r in read(path)} if path.exists() else set()
    for repeat in repeats:
        for name in data:
            for variant in variants:
                if (name, variant, repeat) not in known:
                    record = run(name, variant, repeat, seconds)
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield by data set the mean true quality of every variant, and its difference from the reference's, paired."""
    for data in DATA:
        own = {(r["variant"], r["repeat"]): r for r in records if r["data"] == data}
        if not own:
            continue
        yield f"\n## {data}\n"
        shares = " | ".join(f"MAE at {s:g}" for s in SHARES)
        yield f"| variant | members | runs | trials | {shares} | confirmed | said |"
        yield "| --- " + "| ---: " * (5 + len(SHARES)) + "|"
        for variant in SETTINGS:
            yield from _row(own, variant)
        start = np.mean([r["baseline"] for r in own.values()])
        kept = np.mean([own[DEFAULTS, k]["is_baseline"] for v, k in own if v == DEFAULTS])
        yield f"\nThe baseline's MAE: {start:.4f}; the defaults handed it over itself in {kept:.0%} of the runs."


def _row(own: Mapping[tuple[str, int], Mapping[str, Any]], variant: str) -> Iterator[str]:
    repeats = sorted(k for v, k in own if v == variant and (REFERENCE, k) in own)
    if not repeats:
        return
    mine, theirs = ([own[v, k] for k in repeats] for v in (variant, REFERENCE))
    looks = [lambda r, i=i: r["marks"][i]["true"] for i in range(len(SHARES))]
    cells = [_cell([look(r) for r in mine], [look(r) for r in theirs]) for look in (*looks, lambda r: r["confirmed"])]
    last = [r["marks"][-1] for r in mine]
    trials, value = np.mean([m["trials"] for m in last]), np.nanmean([m["value"] for m in last])
    members = "-".join(str(m) for m in sorted({r["members"] for r in mine}))
    yield f"| {variant} | {members} | {len(repeats)} | {trials:.0f} | {' | '.join(cells)} | {value:.4f} |"


def _cell(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """Return a mean, and its difference from the reference's, in bold where that is resolved."""
    if mine == theirs:
        return f"{np.mean(mine):.4f}"
    e = paired(mine, theirs)
    mark = "**" if e.excludes_zero else ""
    return f"{np.mean(mine):.4f}, {mark}{e.mean:+.4f} [{e.low:+.4f}, {e.high:+.4f}]{mark}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("run", "table"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--variants", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    given = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if given.verb == "run":
        repeats = range(given.first, given.first + given.repeats)
        run_all(given.file, repeats, given.seconds, given.variants, given.data)
    else:
        sys.stdout.write("\n".join(table(read(given.file))) + "\n")


if __name__ == "__main__":
    main()
