"""Small files to read: a planted one, MMSA's layout made from splits, and the real ones where they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmsa_core.data.npz import write_arrays
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import planted

REAL = Path(os.environ.get("MMSA_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL.is_dir():
        pytest.skip(f"the real data sets are not in {REAL}; set MMSA_DATA to their folder")
    return REAL


@pytest.fixture(scope="session")
def small() -> dict[str, Split]:
    return planted(3, train=20, valid=8, test=9)


@pytest.fixture
def arrays(small: dict[str, Split]) -> dict[str, np.ndarray]:
    """The arrays of a sound file, for a test to spoil."""
    made: dict[str, np.ndarray] = {}
    for name, split in small.items():
        made |= {f"{name}/{m}": values.copy() for m, values in split.features.items()}
        made |= {f"{name}/id": np.array(split.ids), f"{name}/regression_labels": split.labels.copy()}
    return made


@pytest.fixture
def npz(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A sound file."""
    path = tmp_path / "toy.npz"
    write_arrays(path, arrays)
    return path


def mmsa_layout(splits: Mapping[str, Split]) -> dict[str, dict[str, Any]]:
    """Return splits as MMSA's published pickles have them: lists of lengths, object arrays of strings, text_bert."""
    content = {}
    for name, split in splits.items():
        n, time, _ = split.features["text"].shape
        mask = (np.arange(time) < split.lengths["text"][:, None]).astype(np.float32)
        lengths = {f"{m}_lengths": split.lengths[m].tolist() for m in ("audio", "vision") if m in split.lengths}
        sign = np.sign(split.labels).astype(int)
        content[name] = {
            "raw_text": np.array(split.raw_text or [""] * n, dtype=object),
            "id": list(split.ids),
            **split.features,
            **lengths,
            "text_bert": np.stack([mask * 101, mask, mask * 0], axis=1),
            "annotations": np.array(["Negative", "Neutral", "Positive"])[sign + 1].astype(object),
            "classification_labels": sign + 1.0,
            "regression_labels": split.labels,
            **{f"regression_labels_{m[0].upper()}": y for m, y in split.unimodal.items()},
        }
    return content
