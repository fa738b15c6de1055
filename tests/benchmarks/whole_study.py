"""A whole search of 200 trials against what a user would write with Ray Tune or with Optuna alone.

The same space, planted data and training call; each arm is a program of its own, whose processes are sampled once a
second: wall time, CPU time of all of them, and the sum of their proportional memory. The best configuration that an arm
names is trained again with fresh seeds. Writes Markdown: ``python -m tests.benchmarks.whole_study``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mmsa_core.config import MemberConfig
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.synthetic import planted, write_planted
from mmsa_core.loader import SplitTensors
from mmsa_core.model import complete
from mmsa_core.noise import mix
from mmsa_core.population import MemberSpec
from mmsa_core.train import Objective, Progress, Verdict, fit
from search.space import Space
from search.yaml_io import write_yaml

SPACE, EPOCHS, FRESH = "quick", 32, 10
CPU = torch.device("cpu")
Config = dict[str, Any]
OnValue = Callable[[int, float], bool]


def tensors(seed: int) -> tuple[SplitTensors, SplitTensors]:
    raw = planted(seed)
    scaler = Scaler.fit(raw["train"])
    return SplitTensors(scaler.apply(raw["train"]), CPU), SplitTensors(scaler.apply(raw["valid"]), CPU)


def trained(config: Mapping[str, Any], splits: tuple[SplitTensors, SplitTensors], on_value: OnValue) -> float:
    """Train one member; ``on_value`` takes an epoch and the best value so far, and tells whether to stop."""

    def on_epoch(progress: Progress) -> Verdict:
        ended = 0 in progress.values and on_value(progress.epoch, progress.values[0])
        return Verdict(frozenset({0}) if ended else frozenset())

    member = MemberSpec(complete(MemberConfig.from_dict({**config, "epochs": EPOCHS})), mix("search", 0, 0))
    return float(fit([member], *splits, objective=Objective(), on_epoch=on_epoch).runs[0].value)


def suggested(trial: Any) -> Config:
    """Return a configuration of the space; a function of the module, as Tune's search saves it by its name."""
    return {"config": Space.load(SPACE).sample(trial)}


def with_ray(seed: int, trials: int, reuse: bool) -> Config:
    """Search as Ray Tune's documentation has it: OptunaSearch and ASHA, a function that reports every epoch."""
    from search.engine import Placement
    from search.runner import start

    cores = len(os.sched_getaffinity(0))
    start(Placement(cores, 1.0, 0.0))  # as our own runs: on the loopback interface alone
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    def trainable(given: Config, splits: tuple[Any, Any] = ()) -> None:  # type: ignore[assignment]
        torch.set_num_threads(1)
        own = SplitTensors(splits[0], CPU), SplitTensors(splits[1], CPU)

        def report(epoch: int, value: float) -> bool:
            tune.report({"mae": value})
            return False

        trained(given["config"], own, report)

    splits = tuple(t.split for t in tensors(seed))
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, splits=splits), {"cpu": 1}),
            tune_config=tune.TuneConfig(
                metric="mae",
                mode="min",
                search_alg=OptunaSearch(suggested, metric="mae", mode="min", seed=seed),
                scheduler=ASHAScheduler(max_t=EPOCHS),
                num_samples=trials,
                reuse_actors=reuse,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        best: Config = tuner.fit().get_best_result().config["config"]
    return best


def with_optuna(seed: int, trials: int, journal: Path, sampler_seed: int) -> Config:
    """Search with ``study.optimize`` and the median pruner, until the journal has so many trials."""
    splits, space = tensors(seed), Space.load(SPACE)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        storage=storage,
        study_name="plain",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=sampler_seed),
        pruner=optuna.pruners.MedianPruner(),
    )

    def objective(trial: optuna.Trial) -> float:
        config = space.sample(trial)
        trial.set_user_attr("config", config)

        pruned = False

        def report(epoch: int, value: float) -> bool:
            nonlocal pruned
            trial.report(value, epoch)
            pruned = trial.should_prune()
            return pruned

        value = trained(config, splits, report)
        if pruned:
            raise optuna.TrialPruned
        return value

    study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(trials, states=None)])
    best: Config = study.best_trial.user_attrs["config"]
    return best


def with_ours(trials: int, folder: Path, whole: bool) -> Config:
    """Search as ``mmsa-search run`` does, the search alone or all of it."""
    from search import pipeline
    from search.engine import Engine, Placement
    from search.study import StudyConfig
    from search.trials import best_trial, open_study

    source = folder / "study.yaml"
    tree = {"study": "whole", "data": {"path": str(folder / "data.npz")}, "objective": "mae", "space": SPACE}
    write_yaml(source, {**tree, "budget": {"trials": trials}})
    opened = pipeline.open_new(StudyConfig.load(source), source, folder / f"run-{whole}")
    if whole:
        pipeline.run(opened, False, lambda _: None)
    else:
        with Engine(Placement.of(opened.config.resources), lambda _: None) as engine:
            pipeline.search(opened, engine, False)
    best = best_trial(open_study(opened.config, opened.folder))
    assert best is not None
    return opened.sampled(best)


def arm(name: str, seed: int, trials: int, folder: Path) -> Config:
    if name in ("search", "whole"):
        return with_ours(trials, folder, name == "whole")
    if name.startswith("ray"):
        return with_ray(seed, trials, name == "ray-reuse")
    if name == "optuna-2":
        arguments = ["--arm", "optuna-second", "--seed", str(seed), "--trials", str(trials), "--folder", str(folder)]
        with subprocess.Popen([sys.executable, "-m", "tests.benchmarks.whole_study", *arguments]):
            return with_optuna(seed, trials, folder / "two.log", seed)
    return with_optuna(seed, trials, folder / ("two.log" if name == "optuna-second" else "one.log"), seed + len(name))


ARMS = {
    "search": "`mmsa-search run`, the search",
    "whole": "`mmsa-search run`, whole: confirmation, effects, report, export too",
    "ray": "Ray Tune: OptunaSearch, ASHA",
    "ray-reuse": "the same, reuse_actors=True",
    "optuna": "Optuna, median pruner, one process",
    "optuna-2": "the same, two processes, one journal",
}


def sampled(process: subprocess.Popen[str]) -> tuple[float, int]:
    """Wait for a program; return the CPU seconds of all its processes and the highest sum of their memory in bytes."""
    seen, cpu, peak = {process.pid: psutil.Process(process.pid)}, {}, 0
    while process.poll() is None:
        memory = 0
        for known in list(seen.values()):
            try:
                seen |= {p.pid: p for p in known.children(recursive=True) if p.pid not in seen}
                times = known.cpu_times()
                cpu[known.pid] = times.user + times.system
                memory += known.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, memory)
        time.sleep(1.0)
    return sum(cpu.values()), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.arm is not None:
        best = arm(given.arm, given.seed, given.trials, given.folder)
        (given.folder / f"{given.arm}.json").write_text(json.dumps(best), encoding="utf-8")
        return
    out, splits = sys.stdout, tensors(given.seed)
    out.write("| arm | wall, s | CPU, s | memory, MB | valid MAE of its best, fresh seeds | load |\n| --- |")
    out.write(" ---: |" * 5 + "\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_planted(folder / "data.npz", given.seed)
        for each in given.arms:
            arguments = ["--arm", each, "--seed", str(given.seed), "--trials", str(given.trials), "--folder", name]
            began = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.whole_study", *arguments], text=True)
            cpu, memory = sampled(process)
            wall = time.perf_counter() - began
            assert process.returncode == 0, each
            config = complete(
                MemberConfig.from_dict({**json.loads((folder / f"{each}.json").read_text()), "epochs": EPOCHS})
            )
            members = [MemberSpec(config, mix("fresh", k)) for k in range(FRESH)]
            mae = float(np.mean([r.value for r in fit(members, *splits, objective=Objective()).runs]))
            load = os.getloadavg()[0]
            out.write(f"| {ARMS[each]} | {wall:.0f} | {cpu:.0f} | {memory / 1e6:.0f} | {mae:.4f} | {load:.1f} |\n")
            out.flush()


if __name__ == "__main__":
    main()
