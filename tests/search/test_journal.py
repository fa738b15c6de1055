"""Journals: read without a trace, mended where they are the study's, and locked by no process that is dead."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from mmsa_core.errors import UserError
from search import journal_lock, time_limits
from search.doctor import storage as examine
from search.journal_lock import JournalLock
from search.run_folder import RunFolder
from search.storage import open_storage, read_storage
from search.trials import open_study, read_study
from tests.search.tiny import study

HOLDER = """
import sys, time
from pathlib import Path
from search.journal_lock import JournalLock

JournalLock(Path(sys.argv[1]).absolute()).acquire()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""
OTHERS = b"name,age\nann,42\nbob,4"
"""A file of somebody's, without an end of its last line."""


def made(log: Path, name: str = "tiny") -> optuna.Study:
    """Write a journal with one trial."""
    found = optuna.create_study(storage=open_storage(f"journal://{log}", log.parent), study_name=name)
    found.tell(found.ask(), 1.0)
    return found


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return what is in a folder, with the time of its last change."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def killed_holder(log: str) -> None:
    """Let a process take a journal's lock, and kill it there."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, log, "60"], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    process.kill()
    process.wait()
    process.stdout.close()


# ---- what only looks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [b"", b'{"op_code":4,"worker'])
def test_reading_leaves_no_trace(tmp_path: Path, half: bytes) -> None:
    made(tmp_path / "study.log")
    for extra in tmp_path.glob("study.log.*"):
        extra.unlink()
    with (tmp_path / "study.log").open("ab") as file:
        file.write(half)
    before = files(tmp_path)
    found = read_study(study(), RunFolder(tmp_path))
    assert [t.value for t in found.get_trials()] == [1.0]
    with pytest.raises(AssertionError, match="opened to be read"):
        found.set_user_attr("a", 1)
    assert files(tmp_path) == before


def test_reading_needs_no_right_to_write() -> None:
    """By another user, where this one may write everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made(folder / "study.log")
        (folder / "study.log").chmod(0o444)
        folder.chmod(0o555)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setuid(65534)
                found = read_storage(f"journal://{folder}/study.log", folder)
                code = 0 if len(found.get_all_trials(0)) == 1 and not os.access(folder, os.W_OK) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        folder.chmod(0o755)


def test_what_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    assert read_study(study(), RunFolder(tmp_path)).get_trials() == []
    with pytest.raises(UserError, match=r"other\.log: no journal is here"):
        read_study(study(storage=f"journal://{tmp_path}/other.log"), RunFolder(tmp_path))
    assert not files(tmp_path)
    made(tmp_path / "study.log", "other")
    with pytest.raises(UserError, match="holds no study 'tiny' yet; run it first"):
        read_study(study(), RunFolder(tmp_path))


@pytest.mark.parametrize("way", ["read", "write", "doctor"])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, way: str) -> None:
    (tmp_path / "data.csv").write_bytes(OTHERS)
    before, config = files(tmp_path), study(storage=f"journal://{tmp_path}/data.csv")
    if way == "doctor":
        found = examine(config, tmp_path)
        assert found.state == "error" and "data.csv: is no journal of Optuna's" in found.found
    else:
        with pytest.raises(UserError, match=r"data\.csv: is no journal of Optuna's.*left as it is"):
            (read_study if way == "read" else open_study)(config, RunFolder(tmp_path))
    assert files(tmp_path) == before


def test_the_doctor_measures_beside_a_journal(tmp_path: Path) -> None:
    made(tmp_path / "shared.log")
    before = files(tmp_path)
    for name in ("shared.log", "absent.log"):
        assert examine(study(storage=f"journal://{tmp_path}/{name}"), Path("/proc")).state == "ok"
    assert files(tmp_path) == before


def test_a_journal_of_another_study_is_not_mended(tmp_path: Path) -> None:
    log = tmp_path / "study.log"
    made(log, "other")
    with log.open("ab") as file:
        file.write(b'{"op_code":4')
    before = log.read_bytes()
    with pytest.raises(UserError, match=r"ends in half a line and holds no study 'tiny'.*that it holds \(other\)"):
        open_study(study(), RunFolder(tmp_path))
    assert log.read_bytes() == before


@pytest.mark.parametrize(("first", "fits"), [(b"{", True), (b'{"op_code":0,"worker', True), (b"[1, 2", False)])
def test_a_crash_at_the_first_line(tmp_path: Path, first: bytes, fits: bool) -> None:
    (tmp_path / "study.log").write_bytes(first)
    if fits:
        assert open_study(study(), RunFolder(tmp_path)).study_name == "tiny"
        return
    with pytest.raises(UserError, match="left as it is"):
        open_study(study(), RunFolder(tmp_path))
    assert (tmp_path / "study.log").read_bytes() == first


@pytest.mark.parametrize(
    ("spec", "name"), [("journal", "study.log"), ("sqlite", "study.db"), ("sqlite", "study.db-wal")]
)
@pytest.mark.parametrize("hard", [False, True])
def test_links_that_leave_the_run_folder(tmp_path: Path, spec: str, name: str, hard: bool) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").write_bytes(b"")
    link = tmp_path / "run" / name
    (link.hardlink_to if hard else link.symlink_to)(tmp_path / "outside")
    with pytest.raises(UserError, match="has a second name" if hard else "leads out of the run folder"):
        open_study(study(storage=spec), RunFolder(tmp_path / "run"))
    assert (tmp_path / "outside").read_bytes() == b""


# ---- the lock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relative", "absolute", "moved"])
def test_a_killed_holder_keeps_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    made(folder / "study.log")
    killed_holder("run/study.log" if kind == "relative" else str(folder / "study.log"))
    if kind == "moved":
        folder = folder.rename(tmp_path / "there")
    link = folder / "study.log.lock"
    assert link.is_symlink() and link.exists(), "what the dead process left can be followed by Optuna's own lock"
    run = RunFolder(Path("run") if kind == "relative" else folder)
    began = time.process_time()
    found = open_study(study(), run)
    found.tell(found.ask(), 2.0)
    assert [t.value for t in found.get_trials()] == [1.0, 2.0]
    assert time.process_time() - began < 5, "it did not spin"
    assert not link.is_symlink() and caplog.text == "", "taken away at once"


def test_a_link_that_leads_nowhere_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain Optuna's, named by a relative folder: Optuna itself would try for ever at full speed."""
    monkeypatch.setattr(journal_lock, "STALE", 0.3)
    found = made(tmp_path / "study.log")
    (tmp_path / "study.log.lock").symlink_to("run/study.log")
    began = time.process_time()
    found.tell(found.ask(), 2.0)
    assert time.process_time() - began < 0.2, "it slept"
    assert caplog.text.count("so whoever made it is gone; it is taken away") == 1


def test_optuna_alone_keeps_out_and_is_kept_out(tmp_path: Path) -> None:
    made(tmp_path / "study.log")
    plain = optuna.storages.journal.JournalFileSymlinkLock(str(tmp_path / "study.log"))
    own, order = JournalLock(tmp_path / "study.log"), []

    def later(lock: JournalLock | optuna.storages.journal.JournalFileSymlinkLock, name: str) -> None:
        lock.acquire()
        order.append(name)
        lock.release()

    for first, second, names in ((own, plain, "own plain"), (plain, own, "plain own")):
        first.acquire()
        thread = threading.Thread(target=later, args=(second, names.split()[1]))
        thread.start()
        time.sleep(0.1)
        order.append(names.split()[0])
        first.release()
        thread.join()
    assert order == ["own", "plain", "plain", "own"]
    assert not (tmp_path / "study.log.lock").is_symlink()


def test_a_living_holder_is_named_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_lock, "NEWS", 0.1)
    found = made(tmp_path / "study.log")
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / "study.log"), "1"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(time_limits, "LIMIT", 0.5)
        with pytest.raises(TimeoutError, match=f"process {process.pid} on .* has held this lock"):
            found.set_user_attr("a", 1)
        assert caplog.text.count(f"waiting for process {process.pid} on ") == 1
        monkeypatch.setattr(time_limits, "LIMIT", 60.0)
        process.send_signal(signal.SIGCONT)
        found.set_user_attr("a", 2)
    assert read_study(study(), RunFolder(tmp_path)).user_attrs == {"a": 2}


@pytest.mark.parametrize("kind", ["link", "hard link", "file"])
def test_a_lock_s_file_that_is_another_s(tmp_path: Path, kind: str) -> None:
    found = made(tmp_path / "study.log")
    companion, other = tmp_path / "study.log.flock", tmp_path / "other"
    companion.unlink()
    other.write_bytes(OTHERS)
    {"link": os.symlink, "hard link": os.link, "file": shutil.copy}[kind](other, companion)
    with pytest.raises(UserError, match=r"study\.log\.flock: (must be a file|is no journal's lock)"):
        found.set_user_attr("a", 1)
    assert other.read_bytes() == OTHERS and companion.read_bytes() == OTHERS


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    made(tmp_path / "study.log")
    script = """
import sys, optuna
from pathlib import Path
from optuna.storages.journal import JournalFileBackend
from search.storage import open_storage
log, name = sys.argv[1:]
plain = name == "plain"
storage = optuna.storages.JournalStorage(JournalFileBackend(log)) if plain else open_storage(f"journal://{log}", Path())
study = optuna.load_study(study_name="tiny", storage=storage)
for k in range(40):
    study.set_user_attr(f"{name} {k}", k)
"""
    names = ("plain", "one", "two")
    all_of_them = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "study.log"), n]) for n in names]
    assert [p.wait(100) for p in all_of_them] == [0, 0, 0]
    lines = [json.loads(line) for line in (tmp_path / "study.log").read_text().splitlines()]
    told = {key for line in lines for key in line.get("user_attr", {})}
    assert {f"{name} {k}" for name in names for k in range(40)} <= told
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    assert len(optuna.load_study(study_name="tiny", storage=storage).user_attrs) == 120
