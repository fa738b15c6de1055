"""A Ray cluster of several nodes on the loopback interface: one is killed, one joins, and the study loses nothing."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.storages.journal import JournalFileBackend

from mmsa_core.data.npz import write
from mmsa_core.data.synthetic import planted
from search.runner import Placement
from search.study import ResourcesConfig
from tests.search.test_run import STUDY, driver, ended, finished, wait_for

START = """
import ray._private.ray_constants as known
known.ENABLE_RAY_CLUSTER = True  # only this command: its children keep the 0 that binds them to loopback
from ray.scripts.scripts import main
main()
"""
BUDGET = 24


@contextmanager
def node(*arguments: str) -> Iterator[psutil.Popen]:
    """Start a Ray node with one core; its whole process tree is gone at the end."""
    options = ("--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--disable-usage-stats")
    command = [sys.executable, "-c", START, "start", *options]
    with Path(f"node{secrets.token_hex(2)}.txt").open("w") as log:
        known = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        process = psutil.Popen([*command, *arguments], stdout=log, stderr=log, env=known, start_new_session=True)
        try:
            yield process
        finally:
            kill(process)


def kill(process: psutil.Popen) -> None:
    """End a node with all that it started, at once (``kill -9``)."""
    with suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def works(process: psutil.Popen) -> bool:
    """Tell whether a worker on this node trains a population."""
    with suppress(psutil.NoSuchProcess):
        return any("_Population" in " ".join(_command(p)) for p in process.children(recursive=True))
    return False


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


def wait_until_it_listens(process: psutil.Popen, port: int) -> None:
    until = time.monotonic() + 60
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None and time.monotonic() < until, "the head did not start"
        time.sleep(0.1)


@pytest.mark.ray
def test_nodes_leave_and_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": f"127.0.0.1:{port}"}
    write(tmp_path / "data.npz", planted(0, train=96, valid=32, test=32))
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    sizes = (f"budget.trials={BUDGET}", "seeds.confirm=2", "rungs.epochs=[10,20,40]")
    head = ("--head", f"--port={port}", "--include-dashboard=false")
    with node(*head) as first:
        wait_until_it_listens(first, port)
        join = f"--address=127.0.0.1:{port}"
        with node(join) as second, driver("run", "study.yaml", "--out", "run", *sizes) as process:
            wait_for(process, lambda: works(first) and works(second) and len(finished("run")) >= 2)
            kill(second)
            with node(join) as third:
                wait_for(process, lambda: works(third))
                done = ended(process)
    assert done.code == 0, done.err
    storage = optuna.storages.JournalStorage(JournalFileBackend("run/study.log"))
    trials = optuna.load_study(study_name="tiny", storage=storage).trials
    assert [t.number for t in trials] == list(range(BUDGET))
    assert all(t.state.is_finished() and t.state != optuna.trial.TrialState.FAIL for t in trials)
    assert len({str(t.params) for t in trials}) == BUDGET


def test_a_cluster_decides_what_runs_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head has no GPU here: what another node has counts."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    placement = Placement.of(ResourcesConfig())
    assert placement.workers is None
    assert placement.share({"CPU": 4.0}) == {"cpu": 1.0, "gpu": 0.0}
    assert placement.share({"CPU": 4.0, "GPU": 2.0}) == {"cpu": 1.0, "gpu": 1.0}
    fixed = Placement.of(ResourcesConfig(workers=3, gpus=0.5))
    assert (fixed.workers, fixed.share({"CPU": 4.0})) == (3, {"cpu": 1.0, "gpu": 0.5})
