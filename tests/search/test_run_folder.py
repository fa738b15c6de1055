"""The run folder: what it holds, who may work in it, and that no password is written there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest

from mmsa_core.errors import UserError
from search.environment import environment
from search.populations import Outcome, Slot
from search.processes import end, is_here, is_running, this_process
from search.run_folder import STORAGE_VARIABLE, RunFolder
from search.storage import open_storage, without_password
from search.study import StudyConfig
from search.yaml_io import read_yaml
from tests.search.tiny import space, study

FACTS = {"data_fingerprint": "abc", "data_path": "planted.npz", "device": "cpu"}
SECRET = "postgresql://ann:s3cret@db.example:5432/studies"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "given.yaml"
    path.write_text("study: tiny  # a comment that stays\n", encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny"


class Driver:
    """Starts runs of one study file in one folder, and releases them when the test is over."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path, self.source = path, source
        self.started: list[RunFolder] = []

    def start(self, config: StudyConfig | None = None, **facts: Any) -> RunFolder:
        folder = RunFolder(self.path)
        folder.start(config if config is not None else study(), self.source, {**FACTS, **facts})
        self.started.append(folder)
        return folder

    def restart(self, config: StudyConfig | None = None, **facts: Any) -> RunFolder:
        """Start a run, end it, and start again with something else."""
        self.start().release()
        return self.start(config, **facts)


@pytest.fixture
def driver(path: Path, source: Path) -> Iterator[Driver]:
    found = Driver(path, source)
    yield found
    for folder in found.started:
        folder.release()


def test_files_of_a_new_run(driver: Driver, path: Path, source: Path) -> None:
    folder = driver.start()
    assert sorted(p.name for p in path.iterdir()) == [
        ".folder", ".lock", "lock.json", "resolved.yaml", "study.yaml",
    ]  # fmt: skip
    assert (path / "study.yaml").read_text(encoding="utf-8") == source.read_text(encoding="utf-8")
    facts = folder.facts()
    assert FACTS.items() <= facts.items()
    assert facts["packages"].keys() >= {"torch", "optuna", "ray", "numpy"} and facts["python"] == sys.version.split()[0]
    assert facts["commit"] is None or len(facts["commit"].rstrip("+")) == 40
    assert folder.config() == study()
    assert read_yaml(path / "resolved.yaml")["rungs"] == {"epochs": [1, 2, 4], "keep": 0.5}


def test_files_of_a_trial(path: Path) -> None:
    folder = RunFolder(path)
    config = {"encoders": {"text": "pool"}}
    good = Outcome(0.5, 2, [(1, 0.9, 0.75), (2, 0.8, 0.5)], np.array([1.0, 2.0], np.float32), config={"full": True})
    bad = Outcome(curve=[(1, float("nan"), float("nan"))], failure="training loss is not finite at epoch 1")
    folder.write_trial(7, [(Slot(7, 11, config), good), (Slot(7, 12, config), bad)])
    trial = path / "trials" / "0007"
    assert sorted(p.name for p in trial.iterdir()) == ["config.yaml", "curve.csv", "error.txt", "valid_predictions.npz"]
    assert read_yaml(trial / "config.yaml") == {"full": True}
    assert (trial / "curve.csv").read_text(encoding="utf-8").splitlines() == [
        "seed,epoch,train_loss,valid", "11,1,0.9,0.75", "11,2,0.8,0.5", "12,1,nan,nan",
    ]  # fmt: skip
    assert (trial / "error.txt").read_text(encoding="utf-8") == "seed 12: training loss is not finite at epoch 1\n"
    with np.load(trial / "valid_predictions.npz") as filed:
        assert {k: v.tolist() for k, v in filed.items()} == {"seed_11": [1.0, 2.0]}


def test_a_trial_that_never_trained_shows_what_was_asked(path: Path) -> None:
    folder = RunFolder(path)
    folder.write_trial(0, [(Slot(0, 1, {"width": 4}), Outcome(failure="no"))])
    trial = path / "trials" / "0000"
    assert read_yaml(trial / "config.yaml") == {"width": 4}
    assert not (trial / "valid_predictions.npz").exists()


# ---- who may work here -----------------------------------------------------------------------------------------------


def test_a_second_driver_is_refused_with_the_first_ones_pid(driver: Driver, path: Path) -> None:
    first = driver.start()
    with pytest.raises(UserError, match=rf"process {os.getpid()} is at work here; wait, stop it, or give --out"):
        driver.start()
    assert RunFolder(path).driver() == os.getpid()
    first.release()
    assert RunFolder(path).driver() is None
    driver.start()
    assert RunFolder(path).driver() == os.getpid()


def test_a_driver_that_was_killed_leaves_no_lock(driver: Driver, path: Path) -> None:
    driver.start().release()
    code = (
        "import fcntl, os, sys, time; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); "
        "f.truncate(0); f.write(str(os.getpid())); f.flush(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path / ".lock")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert RunFolder(path).driver() == other.pid
        with pytest.raises(UserError, match=f"process {other.pid} is at work"):
            driver.start()
        other.kill()
        other.wait()
    assert RunFolder(path).driver() is None
    driver.start()


@pytest.mark.parametrize(("change", "message"), [
    ({"rungs": {"epochs": [1, 2, 8]}}, r"another rungs: epochs: \[1, 2, 4\] before, \[1, 2, 8\] now"),
    ({"objective": {"metric": "corr", "convention": "mosi"}}, "another objective: metric: 'mae' before, 'corr' now"),
    ({"pruner": "median"}, "another pruner: 'rungs' before, 'median' now"),
    ({"study": "other"}, "another study: 'tiny' before, 'other' now"),
    ({"seeds": {"search": 2}}, "seeds.search=1, now 2"),
    ({"seeds": {"base": 5}}, "seeds.base=0, now 5"),
    ({"space": space("width", 8)}, "another space: width: 4 before, 8 now"),
    ({"space": space("alignment", {"text-audio": "none"})}, "another space: alignment.text-audio: "),
])  # fmt: skip
def test_another_study_is_refused_with_the_first_difference(
    driver: Driver, path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"holds a run with {message}.*; give another --out"):
        driver.restart(study(**change))
    assert read_yaml(path / "resolved.yaml") == read_yaml_of(study()), "the refused study left no trace"


def read_yaml_of(config: StudyConfig) -> dict[str, Any]:
    return json.loads(json.dumps(config.resolved()))  # type: ignore[no-any-return]  # tuples become lists


def test_other_data_is_refused(driver: Driver, path: Path) -> None:
    with pytest.raises(UserError, match=r"holds a run on other data \(fingerprint abc, now xyz\); give another --out"):
        driver.restart(data_fingerprint="xyz")


@pytest.mark.parametrize("change", [
    {"budget": {"trials": 99, "minutes": 5}}, {"population": 4}, {"resources": {"workers": 2}},
    {"max_failure_rate": 0.9}, {"keep_weights": "all"},
    {"seeds": {"confirm": 9, "leaders": 1}}, {"data": {"path": "moved.npz"}},
])  # fmt: skip
def test_what_may_change(driver: Driver, path: Path, change: dict[str, Any]) -> None:
    folder = driver.restart(study(**change))
    assert folder.config() == study(**change)


def test_a_folder_refused_is_not_locked(driver: Driver, path: Path, source: Path) -> None:
    driver.start().release()
    refused = RunFolder(path)
    with pytest.raises(UserError, match="other data"):
        refused.start(study(), source, {**FACTS, "data_fingerprint": "xyz"})
    refused.release()
    driver.start()


# ---- places that cannot be written ----------------------------------------------------------------------------------


def test_a_file_in_place_of_the_folder(driver: Driver, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"tiny: cannot write the run folder: File exists; free space, .* or give --out"
    ):
        driver.start()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_disk_or_a_read_only_one(driver: Driver, path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("search.run_folder.write_text", refuse)
    with pytest.raises(UserError, match=f"^{path}: cannot write the run folder: {os.strerror(code)}; free space, "):
        driver.start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(driver: Driver, path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write the run folder: Permission denied"):
        driver.start()


@pytest.mark.parametrize("ask", ["config", "driver"])
def test_no_run_folder(path: Path, ask: str) -> None:
    with pytest.raises(UserError, match=r"no run folder is here.*give the folder that run made"):
        getattr(RunFolder(path), ask)()


# ---- passwords -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "shown"), [
    (SECRET, "postgresql://ann:***@db.example:5432/studies"),
    ("mysql+pymysql://ann:p%40ss@h/s", "mysql+pymysql://ann:***@h/s"),
    ("postgresql://ann:p@ss@h/s", "postgresql://ann:***@h/s"),
    ("postgresql://ann:p/s:s@h/s", "postgresql://ann:***@h/s"),
    ("postgresql://:only@h/s", "postgresql://:***@h/s"),
    ("postgresql://h/s?user=ann&password=s3cret&x=1", "postgresql://h/s?user=ann&password=***&x=1"),
    ("no postgresql://a:b@h/s, no mysql://c:d@h/s", "no postgresql://a:***@h/s, no mysql://c:***@h/s"),
    ("postgresql://ann@h/s", "postgresql://ann@h/s"),
    ("postgresql://h:5432/s", "postgresql://h:5432/s"),
    ("grpc://h:13000", "grpc://h:13000"),
    ("journal", "journal"),
])  # fmt: skip
def test_without_password(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize("url", [SECRET, "postgresql://ann:s3c@ret@h/s", "postgresql://h/s?password=s3cret"])
def test_no_password_in_the_folder(driver: Driver, path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    folder = driver.start(study(storage=url))
    written = [p for p in path.rglob("*") if p.is_file()]
    assert len(written) >= 4
    for file in written:
        text = file.read_text(encoding="utf-8")
        assert "s3c" not in text and "ret@" not in text, file
    with pytest.raises(UserError, match=f"password is not kept in the run folder; set {STORAGE_VARIABLE}"):
        folder.config()
    monkeypatch.setenv(STORAGE_VARIABLE, url)
    assert folder.config().storage == url
    monkeypatch.delenv(STORAGE_VARIABLE)
    folder.release()
    driver.start(study(storage=url, budget={"trials": 9}))  # the study file has the password: no need to ask


def test_a_storage_that_cannot_be_opened_is_one_sentence_without_password(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^storage: cannot open .*\*\*\*@") as caught:
        open_storage("postgresql+nodriver://ann:s3cret@h/s", tmp_path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("spec", ["journal", "sqlite", "sqlite:////nowhere/at/all.db", "grpc://h:port"])
def test_a_place_or_address_that_is_none(tmp_path: Path, spec: str) -> None:
    with pytest.raises(UserError, match="storage: cannot open"):
        open_storage(spec, tmp_path / "missing")


def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    optuna.create_study(storage=open_storage("journal", tmp_path), study_name="s")
    with (tmp_path / "study.log").open("a", encoding="utf-8") as file:
        file.write("this is no journal\n" * 3)
    for storage in ("journal", f"journal://{tmp_path}/study.log"):
        with pytest.raises(UserError, match=r"study\.log: the journal is damaged .JSONDecodeError.*another --out"):
            open_storage(storage, tmp_path)


def test_a_journal_survives_a_line_that_was_half_written(tmp_path: Path) -> None:
    """Optuna alone reads past it, but appends to it: then the journal cannot be read any more."""
    log = tmp_path / "study.log"
    first = optuna.create_study(storage=open_storage("journal", tmp_path), study_name="s")
    first.tell(first.ask(), 1.0)
    whole = log.read_bytes()
    for half in (b"{", b'{"op_code": 4, "worker', whole.splitlines()[-1]):
        log.write_bytes(log.read_bytes() + half)
        again = optuna.load_study(storage=open_storage("journal", tmp_path, "s"), study_name="s")
        assert log.read_bytes().startswith(whole) and log.read_bytes().endswith(b"\n")
        again.tell(again.ask(), 2.0)
    read = optuna.load_study(storage=open_storage("journal", tmp_path), study_name="s")
    assert [t.value for t in read.get_trials()] == [1.0, 2.0, 2.0, 2.0]


# ---- the one process that tells the study ----------------------------------------------------------------------------


CLAIM = """
import sys, time
from pathlib import Path
from search.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.claim_study()
print("claimed", flush=True)
time.sleep(60)
"""


@contextmanager
def claimant(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder's study, as one that a killed driver started does."""
    with subprocess.Popen([sys.executable, "-c", CLAIM, str(path)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "claimed\n"
            yield other
        finally:
            other.kill()


def test_a_process_that_outlived_its_driver_is_ended(driver: Driver, path: Path) -> None:
    driver.start().release()
    with claimant(path) as other:
        folder = driver.start()
        assert not psutil.pid_exists(other.pid)
        folder.claim_study()
        record = json.loads((path / ".dispatcher").read_text(encoding="utf-8"))
        assert record == {"folder": folder.name, **this_process()}
        folder.release_study()
    assert (path / ".dispatcher").read_bytes() == b""


@pytest.mark.parametrize("change", [{"folder": "another"}, {"pid": 1}, {"host": "another"}, {"namespace": "pid:[1]"},
                                    {"boot": "the one before"}, {"start": 1.0}])  # fmt: skip
def test_a_process_whose_record_is_anothers_is_left_alone(
    driver: Driver, path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    driver.start().release()
    monkeypatch.setattr("search.study_claim.PATIENCE", 0.2)
    with claimant(path) as other:
        record = json.loads((path / ".dispatcher").read_text(encoding="utf-8"))
        (path / ".dispatcher").write_text(json.dumps({**record, **change}), encoding="utf-8")
        with pytest.raises(UserError, match=f"process {other.pid} holds the study of this folder; end it"):
            driver.start()
        assert other.poll() is None
    driver.start()


def test_the_process_of_a_copied_record_is_left_alone(driver: Driver, path: Path) -> None:
    """Its record names it, it is alive, but it holds the lock of another file."""
    driver.start().release()
    copy = Driver(path.with_name("copy"), driver.source)
    with claimant(path) as other:
        shutil.copytree(path, copy.path)
        for _ in range(2):
            folder = copy.start()
            folder.claim_study()
            folder.release()
        assert other.poll() is None


def test_one_process_at_a_time_claims_the_study(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.mkdir(parents=True)
    monkeypatch.setattr("search.study_claim.PATIENCE", 0.2)
    with claimant(path) as other:
        with pytest.raises(UserError, match=f"process {other.pid} holds the study of this folder"):
            RunFolder(path).claim_study()
        assert other.poll() is None


def test_what_a_driver_started_claims_for_it_while_it_lives(driver: Driver, path: Path) -> None:
    """The folder travels to the process that tells the study; its locks do not."""
    folder = driver.start()
    sent = pickle.loads(pickle.dumps(folder))
    assert (sent.name, sent.copied_from) == (folder.name, ())
    sent.claim_study()
    sent.release_study()
    assert folder.driver() == os.getpid()
    folder.release()
    with pytest.raises(UserError, match=f"process {os.getpid()}, which began this, has ended"):
        sent.claim_study()


# ---- which folder it is ----------------------------------------------------------------------------------------------


def test_a_folder_keeps_its_name_and_a_copy_gets_its_own(driver: Driver, path: Path) -> None:
    first = driver.start()
    name = first.name
    assert len(name) == 16 and first.copied_from == ()
    first.release()
    again = driver.start()
    assert (again.name, again.copied_from) == (name, ())
    again.release()
    moved = Driver(path.with_name("moved"), driver.source)
    path.rename(moved.path)
    assert moved.start().name == name, "a folder that is renamed is the same"
    moved.started[0].release()
    copies = [name]
    for k in range(2):
        copy = Driver(path.with_name(f"copy{k}"), driver.source)
        shutil.copytree(moved.path if k == 0 else path.with_name("copy0"), copy.path)
        folder = copy.start()
        assert folder.copied_from == tuple(copies) and folder.name not in copies
        folder.release()
        assert (copy.start().copied_from, copy.started[1].name) == (tuple(copies), folder.name), "and keeps it"
        copies.append(folder.name)
        copy.started[1].release()


def test_a_folder_of_an_earlier_version_gets_a_name(driver: Driver, path: Path) -> None:
    driver.start().release()
    (path / ".folder").unlink()
    (path / ".desk").write_text(json.dumps(this_process()), encoding="utf-8")
    assert driver.start().copied_from == ()


@pytest.mark.parametrize("text", [
    "", "my notes", "[]", '{"name": "a"}', '{"name": "a", "device": 1, "inode": 2, "copied_from": [3]}',
    '{"name": "a", "device": 1, "inode": 2, "copied_from": [], "mine": 1}',
])  # fmt: skip
def test_a_foreign_file_in_place_of_the_identity(driver: Driver, path: Path, text: str) -> None:
    path.mkdir(parents=True)
    (path / ".folder").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"\.folder: .*move that file away"):
        driver.start()
    assert (path / ".folder").read_text(encoding="utf-8") == text


# ---- processes -------------------------------------------------------------------------------------------------------


def test_this_process_runs_and_a_past_one_does_not() -> None:
    now = this_process()
    assert is_running(now) and is_here(now) and now["pid"] == os.getpid()
    end({**now, "start": now["start"] - 100})  # ends nobody
    assert not is_running({**now, "pid": 2**22 + 1})
    assert not is_running({**now, "boot": "the one before"})


@pytest.mark.parametrize("step", [-7200.0, 3600.0])
def test_a_process_is_the_same_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """The kernel's boot time moves with the clock, and the start of every process with it."""
    before = this_process()
    real = psutil._pslinux.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: real + step)
    assert is_running(before) and psutil.Process().create_time() - psutil.boot_time() == before["start"]


def test_no_password_of_the_command_line_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bin/mmsa-search", "run", "x.yaml", "storage=postgresql://ann:s3cret@h/s"])
    assert environment()["command"] == "mmsa-search run x.yaml storage=postgresql://ann:***@h/s"
