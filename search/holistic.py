"""The holistic report's numbers: winner and baseline on slices of the test split, with modalities missing or noisy, and
whether the winner's intervals hold.

They come from what the one counted opening of the test split saw; see :mod:`mmsa_core.analysis` for the definitions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsa_core.analysis.calibration import calibration
from mmsa_core.analysis.robustness import KINDS, LEVELS, area, keep_only, spoilt, subsets
from mmsa_core.analysis.slices import Slice, absolute_errors, metrics, partitions, refer, skill
from mmsa_core.atomic import write_text
from mmsa_core.config import MemberConfig
from mmsa_core.data.split import Split, videos
from mmsa_core.loader import SplitTensors
from mmsa_core.metrics import Convention
from mmsa_core.population import stackable
from mmsa_core.predict import predict_rows
from search.members import Candidate, load
from search.statistics import Estimate, PredictionInterval, paired_errors

FILE = "holistic.json"
SEEDS = 5
"""How many of the seeds predict with modalities missing."""
NOISY_VALUES = 60_000_000
"""Input values, over seeds, that a point of a noise curve may read: with long sequences fewer seeds predict."""
NOISE_SEED = 0

T = TypeVar("T")
Errors = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judged:
    """A confirmed configuration: its members, and their predictions [seed, row] of the valid and the test split."""

    config: MemberConfig
    seeds: list[int]
    states: dict[str, Tensor]
    valid: NDArray[np.float32]
    test: NDArray[np.float32]

    @staticmethod
    def read(folder: Path, role: str, candidate: Candidate, seeds: Sequence[int]) -> Judged:
        """Read what confirmation filed of the ``winner`` or the ``baseline``."""
        members = load(folder, candidate, seeds)
        with np.load(folder / f"test_{role}.npz") as file:
            test = file["predictions"]
        states = {n: torch.from_numpy(s) for n, s in members.states.items()}
        return Judged(MemberConfig.from_dict(members.config), members.seeds, states, members.predictions, test)

    def of(self, seeds: Sequence[int]) -> Judged:
        """Return the members of ``seeds``, in their order."""
        rows = [self.seeds.index(s) for s in seeds]
        states = {n: t[rows] for n, t in self.states.items()}
        return Judged(self.config, list(seeds), states, self.valid[rows], self.test[rows])

    def predict(self, data: SplitTensors, members: int) -> NDArray[np.float32]:
        """Return what the first members predict for a scaled split."""
        return predict_rows(self.config, {n: t[:members] for n, t in self.states.items()}, data)


@dataclass(frozen=True, eq=False)
class Ground:
    """What all numbers are about: the test split, how errors count there, and a constant to compare with."""

    split: Split
    convention: Convention
    median: float
    videos: NDArray[np.int64]

    def errors(self, predictions: NDArray[np.float32]) -> Errors:
        return absolute_errors(predictions, self.split.labels, self.convention)

    def difference(self, a: Errors, b: Errors, rows: NDArray[np.bool_]) -> Estimate:
        """Return the mean of a - b [seed, row] on some rows, over seeds and videos."""
        return paired_errors(a[:, rows], b[:, rows], self.videos[rows])

    def mae(self, errors: Errors, rows: NDArray[np.bool_]) -> Estimate:
        return self.difference(errors, np.zeros_like(errors), rows)

    def skill(self, mae: float, rows: NDArray[np.bool_]) -> float | None:
        return skill(mae, self.split.labels[rows], self.median, self.convention)


@dataclass(frozen=True, eq=False)
class Match:
    """Winner and baseline with the seeds that both finished; one object where the baseline wins."""

    winner: Judged
    baseline: Judged

    def each(self, made: Callable[[Judged], T]) -> tuple[T, T]:
        """Return what is made of the winner and of the baseline, once where they are one."""
        winner = made(self.winner)
        return winner, (winner if self.baseline is self.winner else made(self.baseline))

    def predictions(self, split: Split, members: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what the first members of each predict for a scaled split."""
        data = SplitTensors(split, torch.device("cpu"))
        return self.each(lambda judged: judged.predict(data, members))

    @property
    def stacked(self) -> bool:
        """Tell whether both read features in batches, not raw text one member after the other."""
        return stackable(self.winner.config) and stackable(self.baseline.config)

    def modalities(self, split: Split) -> list[str]:
        """Return the modalities of a split that at least one of them reads."""
        read = {*self.winner.config.modalities, *self.baseline.config.modalities}
        return [m for m in split.features if m in read]


def build(
    record: Mapping[str, Any],
    candidates: Mapping[int, Candidate],
    folder: Path,
    splits: tuple[Split, Split, Split],
) -> dict[str, Any]:
    """Return all numbers; ``splits`` are train, valid and test, scaled, and ``record`` is of a confirmation that opened
    the test split.

    Where the baseline wins it is not computed a second time. Noise is left out where an encoder reads raw text: there
    are no features of text to add it to, and a point of a curve would cost minutes.
    """
    train, valid, test = splits
    winner = Judged.read(folder, "winner", candidates[record["winner"]], record["seeds"])
    match = Match(winner, winner)
    if record["baseline"] != record["winner"]:
        baseline = Judged.read(folder, "baseline", candidates[record["baseline"]], record["seeds"])
        common = [s for s in winner.seeds if s in baseline.seeds]
        match = Match(winner.of(common), baseline.of(common))
    reference = refer(train, test)
    ground = Ground(test, record["convention"], reference.median, videos(test.ids))
    kept = min(SEEDS if match.stacked else 1, len(match.winner.seeds))
    parts = partitions(test, reference, ground.convention)
    return {
        "split": "test",
        "metric": record["metric"],
        "winner": record["winner"],
        "baseline": record["baseline"],
        "clusters": len(np.unique(ground.videos)),
        "rows": len(test),
        "slices": [slice_record(ground, part, winner, match) for part in parts],
        "subsets": subset_records(ground, match, kept),
        "robustness": noise_records(ground, match, kept) if match.stacked else [],
        "calibration": calibration_record(winner, valid.labels, test.labels),
        "kept_seeds": kept,
        "inputs": record.get("inputs"),
    }


def write(folder: Path, numbers: Mapping[str, Any]) -> None:
    """Write ``holistic.json``."""
    write_text(folder / FILE, json.dumps(numbers, indent=2) + "\n")


def slice_record(ground: Ground, part: Slice, winner: Judged, match: Match) -> dict[str, Any]:
    """Return the winner's scores on a slice, and how its absolute errors differ from the baseline's there."""
    rows = part.rows
    mae = ground.mae(ground.errors(winner.test), rows)
    difference = ground.difference(*match.each(lambda judged: ground.errors(judged.test)), rows)
    return {
        "group": part.group,
        "name": part.name,
        "n": int(rows.sum()),
        "videos": len(np.unique(ground.videos[rows])),
        "metrics": metrics(winner.test[:, rows], ground.split.labels[rows], ground.convention),
        "skill": ground.skill(mae.mean, rows),
        "mae": mae.to_dict(),
        "difference": difference.to_dict(),
    }


def subset_records(ground: Ground, match: Match, members: int) -> list[dict[str, Any]]:
    """Return what winner and baseline do with every subset of the modalities, the others missing in all rows."""
    every = np.ones(len(ground.split), bool)
    found = []
    for names in subsets(match.modalities(ground.split)):
        predictions = match.predictions(keep_only(ground.split, names), members)
        winner, baseline = (ground.mae(ground.errors(p), every) for p in predictions)
        found.append(
            {
                "modalities": list(names),
                "winner": winner.to_dict(),
                "baseline": baseline.to_dict(),
                "skill": ground.skill(winner.mean, every),
            }
        )
    return found


def noise_records(ground: Ground, match: Match, members: int) -> list[dict[str, Any]]:
    """Return the MAE of winner and baseline along every curve of noise, and the areas under them."""
    modalities = match.modalities(ground.split)
    values = sum(ground.split.features[m].size for m in modalities)
    few = max(1, min(members, NOISY_VALUES // values))
    clean = match.predictions(ground.split, few)
    found = []
    for modality in modalities:
        for kind in KINDS:
            courses = spoilt(ground.split, modality, kind, NOISE_SEED)
            points = [clean if s is ground.split else match.predictions(s, few) for s in courses]
            winner, baseline = ([float(ground.errors(p).mean()) for p in own] for own in zip(*points, strict=True))
            found.append(
                {
                    "modality": modality,
                    "kind": kind,
                    "levels": list(LEVELS),
                    "winner": winner,
                    "baseline": baseline,
                    "area": {"winner": area(LEVELS, winner), "baseline": area(LEVELS, baseline)},
                    "seeds": few,
                }
            )
    return found


def calibration_record(
    winner: Judged, valid: NDArray[np.float32], test: NDArray[np.float32]
) -> dict[str, list[float] | float | int]:
    """Return how many test labels lie in the exported model's intervals, which are found on the valid split."""

    def half_width(level: float) -> NDArray[np.float64]:
        return PredictionInterval.fit(winner.valid, valid, level).half(winner.test)

    return calibration(winner.test.mean(0), half_width, test).to_dict()
