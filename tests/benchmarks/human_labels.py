"""Do Self-MM's generated text labels resemble the text labels that people gave, more than the multimodal label does?

Trains a text-only model on CH-SIMS, compares what its label generator holds for the training rows with the human text
labels, and compares four sources of unimodal labels on the valid split. The test split is not read. Writes Markdown:
``python -m tests.benchmarks.human_labels --encoder linear``; reports/human_labels.md is made of it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict

from mmsa_core.config import MemberConfig
from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.split import Split
from mmsa_core.labels.ulgm import EPSILON, UnimodalLabelGeneration
from mmsa_core.loader import SplitTensors
from mmsa_core.metrics import objective_rows
from mmsa_core.model import complete
from mmsa_core.population import MemberSpec, Population
from search.statistics import Estimate, estimate

Array = NDArray[np.float64]
ROOT = Path(__file__).parents[2]
FILE = "chsims2281_labels_text.npz"
ULGM = {f"ulgm, floor {floor}": {"name": "ulgm", "floor": floor} for floor in (0.0, 0.1)}
SOURCES: dict[str, Any] = {"none": "none", "copied": "copied", **ULGM, "human": "human"}
FUSED, TEXT = 0, 1  # columns of the label generator
MEASURES = ("Pearson", "Spearman", "MAE", "partial")


@dataclass(frozen=True)
class Course:
    """What a population did: metrics on the valid split [epoch, seed], and what its label generator held of the
    training rows [epoch, seed, row], by name: nothing, or the text ``labels`` and the relative distances of the
    ``text`` and the ``fused`` representation."""

    mae: Array
    corr: Array
    held: Mapping[str, Array]

    @property
    def best(self) -> list[int]:
        """Return each seed's epoch of lowest valid MAE, counted from 0."""
        return [int(epoch) for epoch in self.mae.argmin(0)]

    def at_best(self, values: Array) -> Array:
        """Return ``values`` [epoch, seed, ...] of each seed's best epoch."""
        return np.stack([values[epoch, seed] for seed, epoch in enumerate(self.best)])


def train(labels: Any, encoder: Mapping[str, Any], splits: Mapping[str, Split], seeds: int, epochs: int) -> Course:
    """Train ``seeds`` members on the text with one source of unimodal labels."""
    tensors = {n: SplitTensors(split, torch.device("cpu")) for n, split in splits.items()}
    settings = {
        "encoders": {"text": encoder},
        "labels": labels,
        "weighting": {"name": "static", "text": 1.0},  # as in Self-MM
        "heads": {"dim": 32, "dropout": 0.1},
        "optimizer": {"lr": 1e-3, "weight_decay": 1e-3},
    }
    config = complete(MemberConfig.from_dict(settings))
    population = Population([MemberSpec(config, seed) for seed in range(seeds)], tensors["train"])
    valid, target = tensors["valid"].batch(config), splits["valid"].labels
    mae, corr, held = [], [], []
    for epoch in range(1, epochs + 1):
        population.train_epoch(epoch)
        predictions = population.predict(valid).numpy()
        mae.append(objective_rows("mae", predictions, target, "sims"))
        corr.append(objective_rows("corr", predictions, target, "sims"))
        held.append(holds(population))
    return Course(np.stack(mae), np.stack(corr), {n: np.stack([h[n] for h in held]) for n in held[0]})


def holds(population: Population) -> dict[str, Array]:
    """Return the text labels that the members' generators hold, and both relative distances, each [seed, row]."""
    if not isinstance(population.template.labels, UnimodalLabelGeneration):
        return {}
    found = {"labels": population.buffers["labels.labels"][:, :, TEXT]}
    for name, kind in (("text", TEXT), ("fused", FUSED)):
        parts = (population.buffers[f"labels.{n}"] for n in ("features", "sums"))
        features, sums = (t.split(population.template.labels.widths, 2)[kind] for t in parts)
        centres = sums / population.buffers["labels.counts"][:, :, kind, None]
        positive, negative = ((features - c[:, None]).norm(dim=2) for c in centres.unbind(1))
        found[name] = (negative - positive) / (positive + EPSILON)
    return {name: t.numpy().astype(np.float64) for name, t in found.items()}


def resemblance(labels: Array, human: Array, multimodal: Array) -> dict[str, float]:
    """Return how near ``labels`` are to the human ones; ``partial`` is Pearson's r given the multimodal label, that is,
    what they say of the human label beyond it (0 for the multimodal label itself)."""
    a, b = (x - np.polyval(np.polyfit(multimodal, x, 1), multimodal) for x in (labels, human))
    moved = a.std() > 1e-6  # else nothing is left of the labels but rounding
    return {
        "Pearson": float(np.corrcoef(labels, human)[0, 1]),
        "Spearman": float(stats.spearmanr(labels, human).statistic),
        "MAE": float(np.abs(labels - human).mean()),
        "partial": float(np.corrcoef(a, b)[0, 1]) if moved else 0.0,
    }


def references(split: Split) -> dict[str, Array]:
    """Return labels to compare with: the multimodal one as it is and halved, and what these features can say of the
    human ones: ridge regression on mean-pooled text, each row by a fit that has not seen it."""
    sums, lengths = split.features["text"].sum(1), np.maximum(split.lengths["text"], 1)
    ridge = RidgeCV(alphas=np.logspace(0, 5, 11))
    learned = cross_val_predict(ridge, sums / lengths[:, None], split.unimodal["text"], cv=10)
    multimodal = split.labels.astype(np.float64)
    return {"multimodal, copied": multimodal, "multimodal, halved": multimodal / 2, "ridge, out of fold": learned}


def over_rows(labels: Array, human: Array, multimodal: Array) -> str:
    """Return the 95 % interval over rows (bootstrap) of the gain in Pearson's r, averaged over seeds."""
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(1000):
        rows = rng.integers(0, len(human), len(human))
        against = np.corrcoef(np.stack([human[rows], multimodal[rows], *labels[:, rows]]))[0, 1:]
        gains.append(against[1:].mean() - against[0])
    low, high = np.percentile(gains, [2.5, 97.5])
    return f"[{low:+.3f}, {high:+.3f}]"


def shown(e: Estimate, sign: str = "") -> str:
    return f"{e.mean:{sign}.3f} [{e.low:{sign}.3f}, {e.high:{sign}.3f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def generated(courses: Mapping[str, Course], what: str) -> dict[str, Array]:
    """Return what the generators held, [seed, row], at the last epoch and at each seed's best."""
    found = {}
    for name, course in courses.items():
        if course.held:
            found[f"{name}, last epoch"] = course.held[what][-1]
            found[f"{name}, best epoch"] = course.at_best(course.held[what])
    return found


def likeness_tables(courses: Mapping[str, Course], split: Split, rows: NDArray[np.bool_]) -> Iterator[str]:
    """Compare every label with the human one on some training rows; the differences are paired by seed."""
    human, multimodal = (x[rows].astype(np.float64) for x in (split.unimodal["text"], split.labels))
    plain = {name: resemblance(labels[rows], human, multimodal) for name, labels in references(split).items()}
    means = [[name, *(f"{found[m]:.3f}" for m in MEASURES)] for name, found in plain.items()]
    differences, single = [], []
    for name, labels in generated(courses, "labels").items():
        found = [resemblance(own[rows], human, multimodal) for own in labels]
        values = {m: [f[m] for f in found] for m in MEASURES}
        means.append([name, *(shown(estimate(v)) for v in values.values())])
        against = [estimate(np.subtract(v, plain["multimodal, copied"][m])) for m, v in values.items()]
        differences.append([name, *(shown(e, "+") for e in against), over_rows(labels[:, rows], human, multimodal)])
        single += [[name, str(k), *(f"{f[m]:.3f}" for m in MEASURES)] for k, f in enumerate(found)]
    yield from table(["label", *MEASURES], means)
    yield "Generated minus copied, paired by seed:\n"
    yield from table(["label", *MEASURES, "Pearson, over rows"], differences)
    yield "<details><summary>Every seed</summary>\n"
    yield from table(["label", "seed", *MEASURES], single)
    yield "</details>\n"


def reason_table(courses: Mapping[str, Course], split: Split) -> Iterator[str]:
    """Show what the two relative distances, and their difference, say of the human label beyond the multimodal one."""
    human, multimodal = (x.astype(np.float64) for x in (split.unimodal["text"], split.labels))
    rows = []
    fused = generated(courses, "fused")
    for name, text in generated(courses, "text").items():
        kinds = (text, fused[name], text - fused[name])
        spread = [shown(estimate(x.std(1))) for x in kinds[:2]]
        partial = [[resemblance(own, human, multimodal)["partial"] for own in x] for x in kinds]
        rows.append([name, *spread, *(shown(estimate(p), "+") for p in partial)])
    head = ["std of text", "std of fused", "partial of text", "partial of fused", "partial of text - fused"]
    yield from table(["relative distance", *head], rows)


def downstream_table(courses: Mapping[str, Course]) -> Iterator[str]:
    """Compare the sources of labels on the valid split, at each seed's best epoch; paired by seed with ``none``."""
    none = courses["none"]
    rows = []
    for name, course in courses.items():
        mae, corr = course.at_best(course.mae), course.at_best(course.corr)
        against = [estimate(mae - none.at_best(none.mae)), estimate(corr - none.at_best(none.corr))]
        difference = ["", ""] if name == "none" else [shown(e, "+") for e in against]
        epoch = f"{np.mean(course.best) + 1:.1f}"
        rows.append([name, shown(estimate(mae)), difference[0], shown(estimate(corr)), difference[1], epoch])
    yield from table(["labels", "MAE", "minus none", "Corr", "minus none", "best epoch"], rows)


def report(data: Path, encoder: Mapping[str, Any], seeds: int, epochs: int) -> Iterator[str]:
    dataset = open_dataset(data / FILE, ["text"])
    raw = {name: dataset.split(name) for name in ("train", "valid")}
    scaler = Scaler.fit(raw["train"])
    splits = {name: scaler.apply(split) for name, split in raw.items()}
    courses = {name: train(labels, encoder, splits, seeds, epochs) for name, labels in SOURCES.items()}
    split = splits["train"]
    differ = split.unimodal["text"] != split.labels
    yield f"Encoder {dict(encoder)}, {seeds} seeds, {epochs} epochs; mean [95 % interval over seeds].\n"
    yield f"### All {len(split)} training rows\n"
    yield from likeness_tables(courses, split, np.ones(len(split), bool))
    yield f"### The {int(differ.sum())} training rows whose human text and multimodal labels differ\n"
    yield from likeness_tables(courses, split, differ)
    yield "### Relative distances of the training rows\n"
    yield from reason_table(courses, split)
    yield "### Valid split, best epoch by MAE\n"
    yield from downstream_table(courses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MMSA_DATA", ROOT.parent / "shared" / "data")))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--encoder", default="linear")
    parser.add_argument("--dropout", type=float, default=0.5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    encoder = {"name": given.encoder, "dropout": given.dropout}
    for line in report(given.data, encoder, given.seeds, given.epochs):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
