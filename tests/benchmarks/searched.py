"""A run folder whose search is made up: trials of the space ``modules`` without a training behind them.

Configurations are drawn at random, values are those of a made-up function of them with the noise of a seed, every third
trial or so was pruned at the first rung, and a few failed. All that a search leaves is there: the journal with what
each trial carries, and a learning curve a trial.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from mmsa_core.config import fingerprint
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import write_planted
from search import pipeline
from search.nodes import draw
from search.populations import Source
from search.space import Params
from search.study import StudyConfig
from search.trials import ORIGIN, POPULATION, REASON, RESULT, SEARCH, open_study
from search.worker import Worker
from search.yaml_io import write_yaml
from tests.benchmarks.history import NOISE, Response
from tests.search.tiny import drain

PRUNED, FAILED = 0.3, 0.02
"""Shares of the trials."""
EPOCHS = (1, 2)


class Inline:
    """The engine without Ray."""

    interrupted = False

    def run(self, make_source: Callable[[], Source], splits: tuple[Split, Split]) -> dict[str, Any]:
        source = make_source()
        drain(source, Worker(*splits, torch.device("cpu")).run)
        source.close()
        return source.status()


def searched(folder: Path, trials: int, seed: int = 0) -> pipeline.Opened:
    """Return a run whose search of so many trials is over, and nothing after it is done."""
    folder.mkdir(parents=True)
    write_planted(folder / "planted.npz", 0, train=32, valid=16, test=16)
    config = StudyConfig.check(
        {
            "study": "searched",
            "objective": {"metric": "mae", "convention": "mosi"},
            "data": {"path": str(folder / "planted.npz")},
            "budget": {"trials": trials},
            "seeds": {"search": 1, "confirm": 2, "effects": 2, "leaders": 1, "base": 0},
            "rungs": {"epochs": list(EPOCHS), "keep": 0.5},
            "population": 2,
            "space": "modules",
        }
    )
    write_yaml(folder / "study.yaml", config.resolved())
    opened = pipeline.open_new(config, folder / "study.yaml", folder / "run")
    opened.folder.release()
    draws, noise, response = random.Random(seed), random.Random(seed + 1), Response(opened.space, seed)
    study = open_study(opened.config, opened.folder)
    for number in range(trials):
        tree, params = opened.space.point(lambda path, leaf: draw(leaf, draws)) if number else opened.space.baseline()
        value = 1.0 + 0.02 * (response(params) + noise.gauss(0.0, NOISE))
        ended = noise.random() if number else 1.0
        study.add_trial(_trial(opened, params, tree, value, ended))
        _curve(opened.folder.trial(number), value, 1 if ended < PRUNED + FAILED else 2)
    return opened


def _trial(opened: pipeline.Opened, params: Params, tree: dict[str, Any], value: float, ended: float) -> FrozenTrial:
    attributes: dict[str, Any] = {ORIGIN: SEARCH, POPULATION: {"name": "p", "fingerprint": fingerprint(params)}}
    attributes[RESULT] = {"seconds": 1.0 + abs(value), "parameters": 20_000 + 100 * len(params)}
    rungs, state = {1: value + 0.1, 2: value}, TrialState.COMPLETE
    if ended < PRUNED:
        rungs, state = {1: value + 0.1}, TrialState.PRUNED
    elif ended < PRUNED + FAILED:
        rungs, state, attributes = {}, TrialState.FAIL, {**attributes, REASON: "the loss is not finite at epoch 1"}
    distributions = {name: d for name, d in opened.space.distributions().items() if name in params}
    return optuna.trial.create_trial(
        state=state, value=value if state == TrialState.COMPLETE else None, params=params,
        distributions=distributions, user_attrs=attributes, intermediate_values=rungs,
    )  # fmt: skip


def _curve(folder: Path, value: float, epochs: int) -> None:
    folder.mkdir(parents=True)
    lines = [f"0,{e},0.5,{value + 0.1 * (EPOCHS[-1] - e):.6g}" for e in range(1, epochs + 1)]
    (folder / "curve.csv").write_text("\n".join(["seed,epoch,train_loss,valid", *lines]) + "\n", encoding="utf-8")
