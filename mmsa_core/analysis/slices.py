"""Partitions of a split's rows into slices, and how well predictions do on each.

Which kind of row is easy or hard must not depend on the model that is judged: what decides it are the labels, the ids,
the lengths, and reference models that are fitted to the training split alone (ridge regressions on time averages).

Source: HEMM, Liang et al., 2024, arXiv:2407.03418, sections 2 and 4. Deviations: its data sets are tagged by people as
redundant, unique or synergistic, here every row is, by what the reference models predict; and its scores are relative
to the worst model of a pool, here to the training labels' median, so that another model in the pool moves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.cross_fit import time_average, transferred
from mmsa_core.data.split import Split, videos
from mmsa_core.metrics import METRICS, Convention

TOLERANCE: dict[Convention, float] = {"mosi": 0.5, "sims": 0.2}
"""A reference prediction this close to the label is right."""
STRENGTHS: dict[Convention, dict[str, float]] = {
    "mosi": {"neutral (0)": 0.0, "weak (up to 1)": 1.0, "medium (up to 2)": 2.0, "strong (over 2)": np.inf},
    "sims": {"neutral (up to 0.1)": 0.1, "weak (up to 0.7)": 0.7, "strong (over 0.7)": np.inf},
}
"""Upper ends of the bins of a label's size; SIMS's are those of its classes."""
ENOUGH = 10
"""Rows that a video needs to be a slice of its own, and the number of videos that are."""
ALL = "all"


@dataclass(frozen=True, eq=False)
class Slice:
    """Some rows [N] of a split, as a mask; the slices of a ``group`` have no row in common and every row is in one."""

    group: str
    name: str
    rows: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Reference:
    """What models fitted to the training split predict of another split's rows [N]: from each modality alone, from all
    together, and the training labels' median."""

    alone: dict[str, NDArray[np.float32]]
    fused: NDArray[np.float32]
    median: float


def refer(train: Split, split: Split) -> Reference:
    """Fit the reference models to ``train`` and apply them to ``split``; a missing modality says the mean label."""
    domains = videos(train.ids)
    seen = {m: train.lengths[m] > 0 for m in train.features}
    there = {m: split.lengths[m] > 0 for m in train.features}
    own = {m: time_average(train, m) for m in seen}
    other = {m: time_average(split, m) for m in seen}
    alone = {m: transferred(own[m], train.labels, seen[m], domains, other[m], there[m]) for m in seen}
    fused = transferred(
        np.concatenate(list(own.values()), 1),
        train.labels,
        np.any(list(seen.values()), 0),
        domains,
        np.concatenate(list(other.values()), 1),
        np.any(list(there.values()), 0),
    )
    return Reference(alone, fused, float(np.median(train.labels)))


def partitions(split: Split, reference: Reference, convention: Convention) -> list[Slice]:
    """Return all slices of a split that have a row; a group that does not divide the rows is left out.

    Groups are "all", "label strength", "interaction", "signs", "length" and "video".
    """
    groups = {
        "label strength": label_strength(split, convention),
        "interaction": interaction(split, reference, TOLERANCE[convention]),
        "signs": sign_agreement(split, reference),
        "length": lengths(split),
        "video": largest_videos(split),
    }
    found = [Slice(ALL, "all rows", np.ones(len(split), bool))]
    for group, parts in groups.items():
        kept = [Slice(group, name, rows) for name, rows in parts.items() if rows.any()]
        found += kept if len(kept) > 1 else []
    return found


def label_strength(split: Split, convention: Convention) -> dict[str, NDArray[np.bool_]]:
    """Divide the rows by the size of the label."""
    size, below, found = np.abs(split.labels), -1.0, {}
    for name, end in STRENGTHS[convention].items():
        found[name] = (size > below) & (size <= end)
        below = end
    return found


def interaction(split: Split, reference: Reference, tolerance: float) -> dict[str, NDArray[np.bool_]]:
    """Divide the rows by which reference models are right, that is within ``tolerance`` of the label.

    The fused model decides first: where it is wrong, a row is a loss (a modality alone is right) or wrong for all.
    Where it is right, it is synergy (no modality alone is), unique to the one that is, redundant (every one is), or
    shared by two of three. A modality that is missing is not right. One modality cannot interact: no slice.
    """
    order = list(reference.alone)
    if len(order) < 2:
        return {}
    right = np.stack(
        [(np.abs(p - split.labels) <= tolerance) & (split.lengths[m] > 0) for m, p in reference.alone.items()]
    )
    fused, count = np.abs(reference.fused - split.labels) <= tolerance, right.sum(0)
    found = {"redundant": fused & (count == len(order))}
    found |= {f"unique to {m}": fused & (count == 1) & right[k] for k, m in enumerate(order)}
    return found | {
        "shared by two": fused & (count > 1) & (count < len(order)),
        "synergy": fused & (count == 0),
        "loss by fusion": ~fused & (count > 0),
        "wrong for all": ~fused & (count == 0),
    }


def sign_agreement(split: Split, reference: Reference) -> dict[str, NDArray[np.bool_]]:
    """Divide the rows by whether the modalities that are there, each alone, predict labels of one sign; 0 is none."""
    there = np.stack([split.lengths[m] > 0 for m in reference.alone])
    signs = np.where(there, np.sign(np.stack(list(reference.alone.values()))), 0)
    conflict = (signs.max(0) > 0) & (signs.min(0) < 0)
    return {"modalities agree": ~conflict, "modalities in conflict": conflict}


def lengths(split: Split) -> dict[str, NDArray[np.bool_]]:
    """Divide the rows at the terciles of the text's number of real rows (without text, of the first modality's)."""
    modality = next(iter(split.features))
    own = split.lengths[modality]
    if not (own > 0).any():
        return {}
    low, high = (int(np.quantile(own[own > 0], q, method="lower")) for q in (1 / 3, 2 / 3))
    found = {f"no {modality}": own == 0, f"short (up to {low} rows)": (own > 0) & (own <= low)}
    if high > low:
        found[f"middle ({low + 1} to {high} rows)"] = (own > low) & (own <= high)
    return found | {f"long (over {high} rows)": own > high}


def largest_videos(split: Split) -> dict[str, NDArray[np.bool_]]:
    """Divide the rows by video: the largest ones by themselves, those too small for that (or too many) together."""
    names = np.array([i.split("$_$")[0] for i in split.ids])
    found, sizes = np.unique(names, return_counts=True)
    largest = [str(found[k]) for k in np.argsort(-sizes, kind="stable")[:ENOUGH] if sizes[k] >= ENOUGH]
    return {name: names == name for name in largest} | {"the other videos": ~np.isin(names, largest)}


def absolute_errors(
    predictions: NDArray[np.float32], labels: NDArray[np.float32], convention: Convention
) -> NDArray[np.float64]:
    """Return absolute errors [member, row] of which the convention's ``mae`` is the mean: SIMS clips first."""
    bound = 1.0 if convention == "sims" else np.inf
    errors: NDArray[np.float64] = np.abs(
        np.clip(predictions, -bound, bound).astype(np.float64) - np.clip(labels, -bound, bound)
    )
    return errors


def metrics(
    predictions: NDArray[np.float32], labels: NDArray[np.float32], convention: Convention
) -> dict[str, float | None]:
    """Return every metric, the mean over members [member, row]; None where the rows cannot tell it.

    A correlation needs three rows and labels that differ, and what leaves neutral labels out needs one that is not.
    """
    told = {"corr": len(labels) > 2 and bool(labels.min() < labels.max())}
    told |= {name: bool((labels != 0).any()) for name in ("acc2_non0", "f1_non0")}
    return {
        name: float(metric(predictions, labels).mean()) if told.get(name, True) else None
        for name, metric in METRICS[convention].items()
    }


def skill(mae: float, labels: NDArray[np.float32], median: float, convention: Convention) -> float | None:
    """Return 1 - ``mae`` / (MAE of always predicting ``median``): 1 for the truth, 0 for that constant; None where the
    constant is the truth."""
    constant = np.full((1, len(labels)), median, np.float32)
    worst = float(absolute_errors(constant, labels, convention).mean())
    return 1 - mae / worst if worst > 0 else None
