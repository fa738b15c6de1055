"""What every test has: one thread, tensor shapes checked against their annotations, and small planted data."""

from __future__ import annotations

import os
import pkgutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
# these have no tensors: what they are given wrongly is a user's error and gets a sentence, not a failed type check
NO_TENSORS = {"atomic", "cache", "config", "data", "errors", "metrics", "pretrained", "registry"}
# before anything of mmsa_core is imported
install_import_hook(
    [f"mmsa_core.{m.name}" for m in pkgutil.iter_modules([str(ROOT / "mmsa_core")]) if m.name not in NO_TENSORS],
    "beartype.beartype",
)
torch.set_num_threads(1)
# speed is not tested here: a busy machine must not fail a test
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

from mmsa_core.data.synthetic import planted  # noqa: E402
from mmsa_core.loader import SplitTensors  # noqa: E402
from tests.text_models import save_tiny_bert  # noqa: E402

REAL = Path(os.environ.get("MMSA_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def splits() -> tuple[SplitTensors, SplitTensors]:
    """Train and valid: 45 and 20 samples (batches of 16 leave a partial one), all labels, some modalities missing."""
    made = planted(0, train=45, valid=20, test=5)
    rng = np.random.default_rng(0)
    both = []
    for name in ("train", "valid"):
        split = made[name]
        unimodal = {m: (split.labels + rng.normal(0, 0.3, len(split))).astype(np.float32) for m in split.features}
        lengths = {m: np.where(rng.random(len(split)) < 0.1, 0, n) for m, n in split.lengths.items()}
        both.append(SplitTensors(replace(split, unimodal=unimodal, lengths=lengths), torch.device("cpu")))
    return both[0], both[1]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pre-trained text model, as transformers writes it."""
    return save_tiny_bert(tmp_path_factory.mktemp("text-model") / "tiny")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets."""
    if not REAL.is_dir():
        pytest.skip(f"the real data sets are not in {REAL}; set MMSA_DATA to their folder")
    return REAL
