"""A study small enough to be run inline, and workers: the real one, and one that only pretends to train."""

from __future__ import annotations

import copy
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmsa_core.data.scaler import Scaler
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import planted
from search.ledger import Ledger
from search.populations import Outcome, Reply, Result, Slot, Source, Task
from search.run_folder import RunFolder
from search.study import StudyConfig
from search.worker import Worker

SPACE: dict[str, Any] = {
    "encoders": {
        "text": {"name": "pool", "dim": 4, "hidden": 4, "dropout": 0.0},
        "audio": {"name": "pool", "dim": 4, "hidden": 4, "dropout": 0.0},
    },
    "alignment": {
        "text-audio": {
            "choice": {"none": {}, "coral": {"weight": {"float": [0.001, 1.0], "log": True, "default": 0.1}}}
        }
    },
    "fusion": {"choice": {"concat": {}, "sum": {}}},
    "width": 4,
    "heads": {"dim": 4, "dropout": {"float": [0.0, 0.5], "default": 0.1}},
    "labels": "none",
    "optimizer": {"lr": {"float": [0.001, 0.03], "log": True, "default": 0.003}},
    "batch_size": 32,
}
BASELINE = {"alignment.text-audio": "none", "fusion": "concat", "heads.dropout": 0.1, "optimizer.lr": 0.003}


def study(**changes: Any) -> StudyConfig:
    """Return a study of 6 trials with rungs at epochs 1, 2 and 4; ``changes`` replace its parts."""
    tree = {
        "study": "tiny",
        "objective": {"metric": "mae", "convention": "mosi"},
        "budget": {"trials": 6},
        "seeds": {"search": 1, "confirm": 3, "leaders": 2},
        "rungs": {"epochs": [1, 2, 4], "keep": 0.5},
        "space": copy.deepcopy(SPACE),
        "sampler": "random",
        **changes,
    }
    return StudyConfig.check(tree)


def space(path: str, value: object) -> dict[str, Any]:
    """Return the tree of the space with another value at a dotted path."""
    return dict(study().search_space().override(path, value).tree)


def ledger(config: StudyConfig, folder: Path, size: int = 3, deterministic: bool = False) -> Ledger:
    """Open the ledger of a study in ``folder`` as a driver does."""
    folder.mkdir(parents=True, exist_ok=True)
    return Ledger(config, config.search_space(), RunFolder(folder), size, deterministic)


def scaled(seed: int = 0) -> tuple[Split, Split, Split]:
    """Return train, valid and test: 64, 32 and 32 scaled samples."""
    made = planted(seed, train=64, valid=32, test=32)
    scaler = Scaler.fit(made["train"])
    train, valid, test = (scaler.apply(made[name]) for name in ("train", "valid", "test"))
    return train, valid, test


def worker() -> Worker:
    train, valid, _ = scaled()
    return Worker(train, valid, torch.device("cpu"))


def drain(source: Source, run: Callable[[Task, Callable[..., Reply]], Result], most: int = 1000) -> list[Task]:
    """Let one worker do up to ``most`` of a source's tasks; return them."""
    done: list[Task] = []
    while len(done) < most and isinstance(task := source.next(), Task):
        source.finish(task.name, run(task, source.report))
        done.append(task)
    return done


# ---- a worker that pretends ------------------------------------------------------------------------------------------

Value = Callable[[Slot, int], float]


def pretended(slot: Slot, epoch: int) -> float:
    """Return a value that depends on the configuration, a little on the seed, and falls with every epoch."""
    settings = abs(math.log10(slot.config["optimizer"]["lr"]) + 2.5) + slot.config["heads"]["dropout"]
    return settings + 1e-3 * (slot.seed % 7) + 1.0 / epoch


def pretended_cost(slot: Slot) -> float:
    """Return a cost that depends on the structure: 10 or 20 by the fusion, and 5 more with an alignment."""
    aligned = slot.config["alignment"]["text-audio"]["name"] != "none"
    return {"sum": 10.0, "concat": 20.0}[slot.config["fusion"]["name"]] + 5.0 * aligned


def steps(task: Task, report: Callable[..., Reply], value: Value = pretended) -> Iterator[None]:
    """Train a task epoch by epoch without training; the generator's return value is its result."""
    cost = None if task.cost is None else pretended_cost(task.slots[0])
    outcomes = [Outcome(config=dict(s.config), predictions=np.zeros(2, np.float32)) for s in task.slots]
    alive = list(range(len(task.slots)))
    for epoch in range(1, task.slots[0].config["epochs"] + 1):
        for k in alive:
            outcomes[k].value, outcomes[k].best_epoch = value(task.slots[k], epoch), epoch
            outcomes[k].curve.append((epoch, 0.5, outcomes[k].value))
        reply = report(task.name, epoch, {k: outcomes[k].value for k in alive}, cost)
        for k in reply.drop:
            outcomes[k].dropped = True
        alive = [k for k in alive if not outcomes[k].dropped]
        if reply.stop:
            return Result(outcomes, True, 1.0, 10, cost)
        yield
    return Result(outcomes, False, 1.0, 10, cost)


def pretend(task: Task, report: Callable[..., Reply], value: Value = pretended) -> Result:
    """Run :func:`steps` to its end."""
    going = steps(task, report, value)
    while True:
        try:
            next(going)
        except StopIteration as end:
            result: Result = end.value
            return result


def failing(reason: str, trials: set[int] | None = None) -> Callable[[Task, Callable[..., Reply]], Result]:
    """Return a worker whose ``trials`` (all where None) fail with a reason."""

    def run(task: Task, report: Callable[..., Reply]) -> Result:
        result = pretend(task, report)
        for slot, outcome in zip(task.slots, result.outcomes, strict=True):
            if trials is None or slot.trial in trials:
                outcome.failure = reason
        return result

    return run


def interleaved(source: Source, workers: int, seed: int) -> None:
    """Let several workers do all of a source's tasks at once; whose epoch comes next is drawn at random."""
    draws = random.Random(seed)
    going: dict[str, Iterator[None]] = {}
    while True:
        while len(going) < workers and isinstance(task := source.next(), Task):
            going[task.name] = steps(task, source.report)
        if not going:
            return
        name = draws.choice(sorted(going))
        try:
            next(going[name])
        except StopIteration as end:
            del going[name]
            source.finish(name, end.value)


def program(*arguments: str) -> subprocess.Popen[str]:
    """Start ``mmsa-search`` in a process of its own."""
    command = [str(Path(sys.executable).parent / "mmsa-search"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ran(*arguments: str) -> str:
    """Run ``mmsa-search`` to its good end and return what it printed."""
    with program(*arguments) as process:
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return out


def records(source: Ledger) -> list[Mapping[str, Any]]:
    """Return what is known of every trial, in plain data that can be compared."""
    return [
        {"state": t.state.name, "params": t.params, "value": t.value, "rungs": t.intermediate_values}
        for t in source.study.get_trials(deepcopy=False)
    ]
