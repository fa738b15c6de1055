"""The doctor: a sound machine passes, and each trouble is found and comes with what to change."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mmsa_core.data.synthetic import write_planted
from search import cli, machine
from search.doctor import examine, verdict
from search.machine import Finding
from search.yaml_io import write_yaml

Usage = namedtuple("Usage", "total used free")


def study(folder: Path, **changes: Any) -> Path:
    """Write a study on planted data."""
    write_planted(folder / "data.npz", 0, train=20, valid=10, test=5)
    tree = {"study": "check", "data": {"path": str(folder / "data.npz")}, "budget": {"trials": 4}, "space": "quick"}
    write_yaml(folder / "study.yaml", {**tree, **changes})
    return folder / "study.yaml"


def by_name(folder: Path, path: Path | None = None) -> dict[str, Finding]:
    return {f.name: f for f in examine(folder, path, None)}


def test_a_sound_machine(tmp_path: Path) -> None:
    found = by_name(tmp_path / "runs" / "mine", study(tmp_path))
    assert [name for name, f in found.items() if f.state == "error"] == []
    assert list(found) == [
        "Python", "packages", "cores", "GPU", "memory", "shared memory", "disk", "file locks", "study", "storage",
        "data and space",
    ]  # fmt: skip
    assert found["storage"].found.startswith("journal: ") and found["storage"].found.endswith("ms a write")
    assert found["data and space"].found.startswith("20 rows to train on, 10 to validate; 36 structures")
    assert not list(tmp_path.glob(".doctor*")), "nothing is left behind"
    assert all(f.advice for f in found.values() if f.state != "ok")


def test_a_place_that_cannot_be_written() -> None:
    found = by_name(Path("/proc/self/runs"))
    for name in ("disk", "file locks", "storage"):
        assert found[name].state == "error", name
    assert "/proc/" in found["disk"].found and "another --out" in found["disk"].advice


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    url = "postgresql+psycopg2://me:secret@127.0.0.1:1/optuna"
    found = by_name(tmp_path, study(tmp_path, storage=url))
    assert found["storage"].state == "error" and "secret" not in json.dumps([f.to_dict() for f in found.values()])
    assert "user or password" in found["storage"].advice


@pytest.mark.parametrize(("changes", "name", "words"), [
    ({"space": "quik"}, "study", "quick"),
    ({"budget": {"trials": 0}}, "study", "budget.trials"),
    ({"data": {"path": "absent.npz"}}, "data and space", "absent.npz"),
])  # fmt: skip
def test_a_study_that_is_wrong(tmp_path: Path, changes: dict[str, Any], name: str, words: str) -> None:
    found = by_name(tmp_path, study(tmp_path, **changes))
    assert found[name].state == "error" and words in found[name].found


def full(free: int) -> Callable[[Any], Usage]:
    return lambda _: Usage(2**40, 2**40 - free, free)


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", full(2**27))
    memory = namedtuple("Memory", "available total")(2**30, 2**34)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    found = by_name(tmp_path)
    for name, words in (("disk", "free space"), ("shared memory", "--shm-size"), ("memory", "population")):
        assert found[name].state == "warning" and words in found[name].advice, name
    assert "1.0 of" in found["memory"].found and "0.1 GiB free" in found["disk"].found


def test_packages_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "requires", lambda _: ["optuna>=99", "nowhere>=1", "pytest>=99; extra == 'dev'"])
    found = machine.packages()
    assert found.state == "error"
    assert "optuna" in found.found and "needed: >=99" in found.found and "nowhere is missing" in found.found
    assert "pytest" not in found.found, "an extra is not needed"


def test_busy_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (999.0, 0.0, 0.0))
    assert machine.cores().state == "warning" and "other work" in machine.cores().advice


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    found = machine.gpu()
    assert found.state == "error" and "CUDA build of torch" in found.advice


def test_locks_that_lock_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    found = machine.locking(tmp_path)
    assert found.state == "error" and "second lock was granted" in found.found and "local disk" in found.advice


def test_the_worst_decides() -> None:
    findings = [Finding("a", "ok", ""), Finding("b", "error", "x", "y"), Finding("c", "warning", "", "z")]
    assert verdict(findings)["state"] == "error"
    assert verdict(findings)["findings"][1] == {"name": "b", "state": "error", "found": "x", "advice": "y"}


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"space": "quik"}, 2)])
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], code: int) -> None:
    path = study(tmp_path, **changes)
    arguments = ["doctor", str(path), "--out", str(tmp_path)]
    if code:
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == code
    else:
        cli.main(arguments)
    shown = capsys.readouterr().out
    assert ("-> mend what the sentence names" in shown) == bool(code) and "file locks" in shown


def test_the_command_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor", "--out", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["state"] in ("ok", "warning") and {f["name"] for f in found["findings"]} >= {"disk", "storage"}
