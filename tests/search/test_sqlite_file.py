"""SQLite files: looked at without a trace, in whatever state their writers left them, and never another program's."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from mmsa_core.errors import UserError
from search import time_limits
from search.doctor import storage as examine
from search.outage import outage
from search.run_folder import RunFolder
from search.trials import open_study, read_study
from tests.search.test_journal import files
from tests.search.tiny import study

WRITER = """
import os, sys
from pathlib import Path
from search.outage import outage
from search.run_folder import RunFolder
from search.trials import open_study
from tests.search.tiny import study

found = open_study(study(storage="sqlite"), RunFolder(Path(sys.argv[1])))
found.tell(found.ask(), 1.0)
os._exit(0)
"""
"""Writes a trial and ends as a killed process does, with the write-ahead log left behind."""
CONFIG = study(storage="sqlite")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose writer was killed."""
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-c", WRITER, str(folder)], check=True)
    assert {p.name for p in folder.iterdir()} == {"study.db", "study.db-wal", "study.db-shm"}
    return folder


@pytest.fixture(params=["killed", "copied without its index", "closed"])
def run(request: pytest.FixtureRequest, killed: Path, tmp_path: Path) -> Path:
    """A run folder in each of the states that a writer leaves."""
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    if request.param != "killed":
        (folder / "study.db-shm").unlink()
    if request.param == "closed":
        with closing(sqlite3.connect(folder / "study.db")) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert {p.name for p in folder.iterdir()} == {"study.db"}
    return folder


def test_reading_leaves_no_trace(run: Path) -> None:
    before = files(run)
    found = read_study(CONFIG, RunFolder(run))
    assert [t.value for t in found.get_trials()] == [1.0]
    assert files(run) == before
    again = open_study(CONFIG, RunFolder(run))
    again.tell(again.ask(), 2.0)
    assert [t.value for t in read_study(CONFIG, RunFolder(run)).get_trials()] == [1.0, 2.0], "while another writes"
    assert [t.value for t in found.get_trials()] == [1.0], "what was read stays"


def test_reading_needs_no_right_to_write(run: Path) -> None:
    """By another user, where this one may write everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        shutil.copytree(run, folder)
        for path in (*folder.iterdir(), folder, folder.parent):
            path.chmod(0o555)
        read_study(CONFIG, RunFolder(run))  # imports what the other user may not read
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setuid(65534)
                found = read_study(CONFIG, RunFolder(folder)).get_trials()
                code = 0 if len(found) == 1 and not os.access(folder, os.W_OK) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        folder.parent.chmod(0o755)
        folder.chmod(0o755)


def test_what_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    assert read_study(CONFIG, RunFolder(tmp_path)).get_trials() == []
    assert not files(tmp_path)


@pytest.mark.parametrize("way", ["read", "write", "doctor"])
@pytest.mark.parametrize("kind", ["database", "text"])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, way: str, kind: str) -> None:
    path = tmp_path / "photos.db"
    if kind == "text":
        path.write_text("a diary", encoding="utf-8")
    else:
        with closing(sqlite3.connect(path)) as file:
            file.execute("CREATE TABLE photos (name)")
    before, config = files(tmp_path), study(storage=f"sqlite:///{path}")
    words = r"photos\.db: is (a database of something else \(it has 'photos'\)|no SQLite database) and is left as it is"
    if way == "doctor":
        assert (found := examine(config, tmp_path)).state == "error" and "left as it is" in found.found
    else:
        with pytest.raises(UserError, match=words):
            (read_study if way == "read" else open_study)(config, RunFolder(tmp_path))
    assert files(tmp_path) == before


def test_the_doctor_measures_beside_a_file(run: Path) -> None:
    before = files(run)
    found = examine(study(storage=f"sqlite:///{run}/study.db"), Path("/proc"))
    assert found.state in ("ok", "warning") and files(run) == before


def test_a_lock_of_another_process_is_waited_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_study(CONFIG, RunFolder(run))
    monkeypatch.setattr(time_limits, "LIMIT", 0.5)
    with closing(sqlite3.connect(run / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
            found.set_user_attr("a", 1)
        assert "storage: the database does not answer (" in str(outage(caught.value))
        assert "database is locked" in str(outage(caught.value))
        with pytest.raises(UserError, match=r"cannot open sqlite: database is locked"):
            open_study(CONFIG, RunFolder(run))
        assert read_study(CONFIG, RunFolder(run)).user_attrs == {}
    found.set_user_attr("a", 2)
    assert read_study(CONFIG, RunFolder(run)).user_attrs == {"a": 2}
