"""What every test has: one thread, tensor shapes checked against their annotations, and small planted data."""

from __future__ import annotations

import os
import pkgutil
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
# before anything of mmsa_core is imported; mmsa_core.data is left out: it has no tensors, and a protocol, which
# beartype cannot check
CHECKED = [f"mmsa_core.{m.name}" for m in pkgutil.iter_modules([str(ROOT / "mmsa_core")]) if m.name != "data"]
install_import_hook(CHECKED, "beartype.beartype")
torch.set_num_threads(1)

from mmsa_core.data.synthetic import planted  # noqa: E402
from mmsa_core.loader import SplitTensors  # noqa: E402

REAL = Path(os.environ.get("MMSA_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def splits() -> tuple[SplitTensors, SplitTensors]:
    """Planted train and valid splits on the CPU: 45 and 20 samples, so that batches of 16 leave a partial one of 13."""
    made = planted(0, train=45, valid=20, test=5)
    cpu = torch.device("cpu")
    return SplitTensors(made["train"], cpu), SplitTensors(made["valid"], cpu)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets."""
    if not REAL.is_dir():
        pytest.skip(f"the real data sets are not in {REAL}; set MMSA_DATA to their folder")
    return REAL
