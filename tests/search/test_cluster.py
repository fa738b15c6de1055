"""What runs side by side on a Ray cluster: what its nodes take, not what the driver's machine has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmsa_core.data.npz import write
from mmsa_core.data.synthetic import planted
from search.runner import Placement
from search.study import ResourcesConfig

NEEDED = shutil.which("ip") and shutil.which("unshare")
TRIALS = 24
STUDY = f"""
study: tiny
data: {{path: data.npz}}
objective: mae
budget: {{trials: {TRIALS}}}
seeds: {{search: 1, confirm: 2, leaders: 1, effects: 2}}
rungs: {{epochs: [10, 20], keep: 0.5}}
population: 2
space: quick
"""


def test_a_cluster_decides_what_runs_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head has no GPU here: what another node has counts."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    placement = Placement.of(ResourcesConfig())
    assert placement.workers is None
    assert placement.share({"CPU": 4.0}) == {"cpu": 1.0, "gpu": 0.0}
    assert placement.share({"CPU": 4.0, "GPU": 2.0}) == {"cpu": 1.0, "gpu": 1.0}
    fixed = Placement.of(ResourcesConfig(workers=3, gpus=0.5))
    assert (fixed.workers, fixed.share({"CPU": 4.0})) == (3, {"cpu": 1.0, "gpu": 0.5})


@pytest.mark.ray
@pytest.mark.skipif(os.geteuid() != 0 or not NEEDED, reason="needs root, ip and unshare for a network of its own")
def test_nodes_that_die_and_join(tmp_path: Path) -> None:
    """Two nodes; one is killed with all its processes in the middle, another joins: every trial is there once."""
    write(tmp_path / "data.npz", planted(0, train=3000, valid=300, test=100))
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*alone, sys.executable, "-m", "tests.search.cluster_nodes", "study.yaml", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    assert found["trained"] == {"1": True, "2": True, "3": True}
    assert found["settings"] == len(found["states"]) == TRIALS
    assert set(found["states"]) <= {"COMPLETE", "PRUNED"}
