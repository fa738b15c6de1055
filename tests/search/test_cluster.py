"""What runs side by side on a Ray cluster: what its nodes take, not what the driver's machine has."""

from __future__ import annotations

import pytest

from search.engine import Placement
from search.study import ResourcesConfig


def test_a_cluster_decides_what_runs_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head has no GPU here: what another node has counts."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    placement = Placement.of(ResourcesConfig())
    assert placement.workers is None
    assert placement.share({"CPU": 4.0}) == {"cpu": 1.0, "gpu": 0.0}
    assert placement.share({"CPU": 4.0, "GPU": 2.0}) == {"cpu": 1.0, "gpu": 1.0}
    fixed = Placement.of(ResourcesConfig(workers=3, gpus=0.5))
    assert (fixed.workers, fixed.share({"CPU": 4.0})) == (3, {"cpu": 1.0, "gpu": 0.5})
