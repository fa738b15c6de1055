"""Files and folders that are whole or absent, also where links, strangers' files and other processes are in the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mmsa_core import atomic
from mmsa_core.atomic import exchange, replacing_folder

NAMES = ("a", "b")


@pytest.fixture(params=["exchange", "fallback"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of replacing a folder; the second is for file systems that have no exchange."""
    if request.param == "fallback":
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    return str(request.param)


def put(folder: Path, content: str) -> None:
    with replacing_folder(folder, NAMES) as new:
        for name in NAMES:
            (new / name).write_text(content)


def held(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir()}


def test_a_folder_is_made_and_replaced(tmp_path: Path) -> None:
    put(tmp_path / "deep" / "x", "1")
    assert held(tmp_path / "deep" / "x") == {"a": "1", "b": "1"}
    (tmp_path / "deep" / "x").chmod(0o750)
    put(tmp_path / "deep" / "x", "2")
    assert held(tmp_path / "deep" / "x") == {"a": "2", "b": "2"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x"]
    assert (tmp_path / "deep" / "x").stat().st_mode & 0o777 == 0o750


def test_this_file_system_exchanges_folders(tmp_path: Path, way: str) -> None:
    """Otherwise the tests of the exchange would test the other way."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "nowhere")


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    put(tmp_path / "x", "1")
    with pytest.raises(OSError, match="no space"), replacing_folder(tmp_path / "x", NAMES) as new:
        (new / "a").write_text("2")
        raise OSError("no space")
    assert held(tmp_path / "x") == {"a": "1", "b": "1"} and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    put(tmp_path / "there" / "x", "1")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "x")
    put(tmp_path / "link", "2")
    assert (tmp_path / "link").is_symlink() and held(tmp_path / "there" / "x") == {"a": "2", "b": "2"}
    (tmp_path / "dangling").symlink_to(tmp_path / "there" / "y")
    put(tmp_path / "dangling", "3")
    assert held(tmp_path / "there" / "y") == {"a": "3", "b": "3"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "link", "there"]


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    put(tmp_path / "x", "1")
    (tmp_path / "x" / "notes").write_text("mine")
    (tmp_path / "x" / "sub").mkdir()
    (tmp_path / "x" / "sub" / "a").write_text("mine")
    (tmp_path / "x" / ".a.0123abcd").write_text("what a killed process left of a")
    put(tmp_path / "x", "2")
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["a", "b", "notes", "sub"]
    assert (tmp_path / "x" / "sub" / "a").read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_only_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    put(tmp_path / "x", "1")
    ours, held_by_another, outside = tmp_path / ".x-abcd0123", tmp_path / ".x-abcd4567", tmp_path / "outside"
    for folder in (ours, held_by_another, outside, tmp_path / ".x-other", tmp_path / ".y-abcd0123"):
        folder.mkdir()
        (folder / "a").write_text("0")
    (ours / "notes").write_text("mine")
    (tmp_path / ".x-link0123").symlink_to(outside)
    (tmp_path / ".x-file0123").write_text("0")
    with atomic._locked(held_by_another) as idle:
        assert idle
        put(tmp_path / "x", "2")
    left = {".x-abcd4567", ".x-file0123", ".x-link0123", ".x-other", ".y-abcd0123", "outside", "x"}
    assert {p.name for p in tmp_path.iterdir()} == left
    assert held(tmp_path / "x") == {"a": "2", "b": "2", "notes": "mine"} and held(outside) == {"a": "0"}
    put(tmp_path / "x", "3")
    assert not held_by_another.exists(), "its process is gone"


def test_a_lock_is_over_with_its_process(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    child = os.fork()
    if child == 0:
        lock = atomic._locked(tmp_path / "x")
        lock.__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    with atomic._locked(tmp_path / "x") as idle:
        assert idle
        with atomic._locked(tmp_path / "x") as again:
            assert not again
    shutil.rmtree(tmp_path / "x")
    with atomic._locked(tmp_path / "x") as gone:
        assert not gone
