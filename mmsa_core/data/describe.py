"""What a person wants to know of a data set before training on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmsa_core.data.dataset import Dataset
from mmsa_core.data.source import SplitName
from mmsa_core.data.split import Split

OPEN: tuple[SplitName, ...] = ("train", "valid")


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return plain data (JSON): sizes of all splits, and features and labels of train and valid.

    Of the test split only sizes are told: its labels are seen by nobody before the final evaluation.
    The label convention is a guess: "sims" where no label leaves -1..1, else "mosi".
    """
    loaded = {name: dataset.split(name) for name in OPEN}
    largest = max(float(np.abs(split.labels).max()) for split in loaded.values())
    splits = {
        name: {"samples": len(s), "features": _features(dataset, name, s), **_labels(s)} for name, s in loaded.items()
    }
    test = {m: {"shape": list(dataset.shape("test", m))} for m in dataset.modalities}
    return {
        "path": str(dataset.path),
        "fingerprint": dataset.fingerprint(),
        "modalities": list(dataset.modalities),
        "text_model": None if dataset.text_model is None else dataset.text_model.to_dict(),
        "convention": "sims" if largest <= 1 else "mosi",
        "splits": {**splits, "test": {"samples": len(dataset.ids("test")), "features": test}},
    }


def _features(dataset: Dataset, name: SplitName, split: Split) -> dict[str, Any]:
    return {
        m: {
            "shape": list(dataset.shape(name, m)),
            "longest": int(split.lengths[m].max()),
            "missing": float((split.lengths[m] == 0).mean()),
            "constant_columns": _constant_columns(split, m),
        }
        for m in dataset.modalities
    }


def _constant_columns(split: Split, modality: str) -> int:
    rows = split.features[modality][split.real_rows(modality)]
    return int((rows.min(axis=0) == rows.max(axis=0)).sum()) if len(rows) > 0 else rows.shape[1]


def _labels(split: Split) -> dict[str, Any]:
    y = split.labels.astype(np.float64)
    numbers = {"mean": y.mean(), "std": y.std(), "min": y.min(), "max": y.max()}
    return {
        "labels": {k: float(v) for k, v in numbers.items()},
        "unimodal_labels": list(split.unimodal),
        "raw_text": len(split.raw_text) > 0,
    }
