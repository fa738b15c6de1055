"""Does every planted problem reward the module that it was made for?

Each arm, a configuration's modules, is tuned on its own by valid MAE (learning rate, then dropout and weight decay; a
few seeds), then trained with fresh seeds and compared with its counterpart seed by seed on valid and test, on several
plantings of the problem. Writes Markdown: ``python -m tests.benchmarks.planted``; reports/planted/README.md is made of
it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mmsa_core.config import MemberConfig
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import Problem, noise_floor, planted
from mmsa_core.loader import SplitTensors
from mmsa_core.model import complete
from mmsa_core.population import MemberSpec
from mmsa_core.predict import predict
from mmsa_core.train import Objective, fit
from search.statistics import Estimate, estimate, paired

Array = NDArray[np.float64]
LR = (1e-3, 3e-3, 1e-2)
PLAIN, STRONGER = (0.1, 1e-3), ((0.0, 1e-3), (0.3, 1e-3), (0.1, 1.0))
"""Dropout and weight decay: what every learning rate is tried with, and what the best one is tried with."""
TUNING, FRESH = 4, 100
"""Seeds 0 to 3 tune; those from 100 on compare."""


def pair(name: str, weight: float, pair: str = "text-audio", place: str = "projection", **more: Any) -> dict[str, Any]:
    return {"alignment": {pair: {"name": name, "weight": weight, "place": place, **more}}}


UNLABELED = {"strategy": {"name": "unlabeled", "extra": 64}}
NONE: dict[str, Any] = {}
FUSIONS = {
    "concat": NONE,
    "gated": {"fusion": "gated"},
    "low_rank": {"fusion": {"name": "low_rank", "rank": 4, "dim": 16}},
    "tensor": {"fusion": {"name": "tensor", "hidden": 8, "dim": 16}},
    "attention": {"fusion": "attention"},
}
SHARED = {
    "barlow": pair("barlow", 3.0),
    "cka": pair("cka", 1.0),
    "vicreg": pair("vicreg", 3.0),
    "contrastive": pair("contrastive", 1.0, temperature=0.3),
}
PRIVATE = {
    "cross_correlation": pair("cross_correlation", 3.0, "text-vision"),
    "orthogonal": pair("orthogonal", 1.0, "text-vision"),
    "hsic": pair("hsic", 1.0, "text-vision", "encoder"),
}
ARMS: dict[str, dict[str, Mapping[str, Any]]] = {
    "modules": FUSIONS,
    "gating": FUSIONS,
    "shared": {"none": NONE, **SHARED, "orthogonal": pair("orthogonal", 1.0)},
    "private": {
        "none": NONE,
        **PRIVATE,
        "barlow": pair("barlow", 3.0, "text-vision"),
        "cka": pair("cka", 1.0, "text-vision"),
    },
    "missing": {
        "none": NONE,
        "modality_dropout": {"strategy": {"name": "modality_dropout", "p": 0.5}},
        "incomplete": {"strategy": {"name": "incomplete", "keep": 0.5}},
    },
    "unlabeled": {
        "none": NONE,
        "unlabeled": UNLABELED,
        **{n: SHARED[n] for n in ("barlow", "cka", "contrastive")},
        **{f"{n} + unlabeled": {**SHARED[n], **UNLABELED} for n in ("barlow", "cka", "contrastive")},
        "related_pairs + unlabeled": {**pair("related_pairs", 1.0), **UNLABELED},
    },
    "null": {**{n: FUSIONS[n] for n in ("concat", "gated", "low_rank")}, "barlow": SHARED["barlow"]},
}
"""By problem, the modules of each arm; the first arm is what the others are compared with."""


@dataclass(frozen=True)
class Outcome:
    """An arm's MAE [seed] on valid and test, its settings, and its mean best epoch."""

    valid: Array
    test: Array
    settings: str
    epoch: float


class Planting:
    """One planting of a problem, scaled and ready to train on."""

    def __init__(self, problem: Problem, seed: int) -> None:
        raw = planted(seed, problem=problem)
        scaler = Scaler.fit(raw["train"])
        self.splits: dict[str, Split] = {name: scaler.apply(split) for name, split in raw.items()}
        self.train, self.valid = (SplitTensors(self.splits[n], torch.device("cpu")) for n in ("train", "valid"))
        self.floor = noise_floor(seed, problem=problem)

    def outcome(self, config: MemberConfig, seeds: Sequence[int], settings: str = "") -> Outcome:
        """Train ``config`` with each of ``seeds``, each judged at its best epoch on valid."""
        runs = fit([MemberSpec(config, s) for s in seeds], self.train, self.valid, objective=Objective()).runs
        states = [run.state for run in runs if run.state is not None]
        assert len(states) == len(seeds)
        stacked = {n: torch.stack([state[n] for state in states]) for n in states[0]}
        errors = np.abs(predict(config, stacked, self.splits["test"]) - self.splits["test"].labels)
        valid = np.array([run.value for run in runs])
        return Outcome(valid, errors.mean(1), settings, float(np.mean([run.best_epoch for run in runs])))

    def tuned(self, modules: Mapping[str, Any], seeds: int) -> Outcome:
        """Return an arm's outcome over fresh seeds at the settings that are best on valid with others."""
        found: list[tuple[float, str, float, MemberConfig]] = []

        def attempt(lr: float, dropout: float, decay: float) -> None:
            config = configuration(modules, lr, dropout, decay)
            value = float(self.outcome(config, range(TUNING)).valid.mean())
            found.append((value, f"lr {lr:g}, dropout {dropout:g}, decay {decay:g}", lr, config))

        for lr in LR:
            attempt(lr, *PLAIN)
        _, _, lr, _ = min(found, key=lambda f: f[0])
        for dropout, decay in STRONGER:
            attempt(lr, dropout, decay)
        _, settings, _, config = min(found, key=lambda f: f[0])
        return self.outcome(config, range(FRESH, FRESH + seeds), settings)


def configuration(modules: Mapping[str, Any], lr: float, dropout: float, decay: float) -> MemberConfig:
    """Return a small model with linear encoders; ``modules`` is everything else."""
    encoder = {"name": "linear", "dim": 16, "dropout": dropout}
    settings = {
        "encoders": dict.fromkeys(("text", "audio", "vision"), encoder),
        "heads": {"dim": 16, "dropout": dropout},
        "optimizer": {"lr": lr, "weight_decay": decay},
        "width": 16,
        "epochs": 64,
        "patience": 16,
    }
    return complete(MemberConfig.from_dict({**settings, **modules}))


def rows(problem: Problem, planting: int, seeds: int) -> Iterator[str]:
    """Measure every arm of one planting."""
    data = Planting(problem, planting)
    tuned = cache(lambda arm: data.tuned(ARMS[problem][arm], seeds))
    first = next(iter(ARMS[problem]))
    for arm in ARMS[problem]:
        found, alone = tuned(arm), arm.removesuffix(" + unlabeled")
        yield (
            f"| {planting} | {arm} | {shown(estimate(found.valid))} | {shown(estimate(found.test))} | "
            + " | ".join([*differences(found, tuned(first), arm != first), found.settings, f"{found.epoch:.0f}"])
            + " |"
        )
        if alone not in (arm, "related_pairs"):
            yield (
                f"| {planting} | ... against {alone} alone | | | "
                + " | ".join([*differences(found, tuned(alone), True), "", ""])
                + " |"
            )
    floor = data.floor
    yield f"| {planting} | best prediction | {floor['valid']:.3f} | {floor['test']:.3f} | | | | |"


def differences(found: Outcome, against: Outcome, there: bool) -> list[str]:
    pairs = ((found.valid, against.valid), (found.test, against.test))
    return [shown(paired(list(a), list(b)), "+") if there else "" for a, b in pairs]


def shown(e: Estimate, sign: str = "") -> str:
    return f"{e.mean:{sign}.3f} [{e.low:{sign}.3f}, {e.high:{sign}.3f}]"


def report(problems: Sequence[Problem], plantings: int, seeds: int) -> Iterator[str]:
    yield f"MAE, mean [95 % interval over {seeds} seeds]; differences are paired by seed, below 0 is better.\n"
    for problem in problems:
        yield f"### {problem}\n"
        first = next(iter(ARMS[problem]))
        yield f"| planting | arm | valid | test | valid minus {first} | test minus {first} | settings | epoch |"
        yield "| ---: | --- | ---: | ---: | ---: | ---: | --- | ---: |"
        for planting in range(plantings):
            yield from rows(problem, planting, seeds)
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", choices=[[], *ARMS], default=[])
    parser.add_argument("--plantings", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for line in report(given.problems or get_args(Problem), given.plantings, given.seeds):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
