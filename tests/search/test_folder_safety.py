"""Run folders and others: processes of other folders, files behind links, and folders that are only read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmsa_core.data.synthetic import write_planted
from mmsa_core.errors import UserError
from search.cli import main
from search.folder_files import FILES, FOLDERS, IN_PLACE, check_files
from search.run_folder import RunFolder
from search.storage import open_storage
from search.yaml_io import write_yaml
from tests.search.tiny import study

PROGRAM = [sys.executable, "-c", "from search.cli import main; main()"]
TRIALS = 10
LONG = ("rungs.epochs=[20,40]", f"budget.trials={TRIALS}", "resources.workers=1", "population=2")
ENDED = {"COMPLETE", "PRUNED", "FAIL"}


# ---- real processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with data and a study."""
    monkeypatch.chdir(tmp_path)
    write_planted(tmp_path / "data.npz", 0, train=64, valid=32, test=32)
    seeds = {"search": 1, "confirm": 2, "leaders": 1, "effects": 2}
    write_yaml(tmp_path / "study.yaml", study(data={"path": "data.npz"}, seeds=seeds).resolved())
    return tmp_path


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the program; it is gone at the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*PROGRAM, *arguments], env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code and the last line of the errors."""
    _, err = process.communicate(timeout=200)
    return process.returncode, (err.splitlines() or [""])[-1]


def called(*arguments: str) -> tuple[int, str]:
    with started(*arguments) as process:
        return ended(process)


def trials(run: str) -> list[str]:
    """Return the states of a run's trials."""
    storage = open_storage("journal", Path(run))
    found = storage.get_all_trials(storage.get_study_id_from_name("tiny"))
    assert [t.number for t in found] == [*range(len(found))]
    return [t.state.name for t in found]


def until(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    """Wait until something holds; a process may end meanwhile, but then it does not come about."""
    limit = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < limit, f"it does not come about; {process.args} has ended: {process.poll()}"
        time.sleep(0.02)


def told(run: str) -> int:
    """Return how many of a run's trials have ended."""
    log = Path(run, "study.log")
    return log.read_bytes().count(b'"op_code":6') if log.exists() else 0


@contextmanager
def frozen(process: subprocess.Popen[str], run: str) -> Iterator[None]:
    """Stop a living process for a while, at a moment when it does not write into its journal."""
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)
        if not os.path.lexists(f"{run}/study.log.lock"):
            break
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)  # which says nothing to a process that has ended


def test_a_run_goes_on_while_its_copy_is_continued(home: Path) -> None:
    """The copied record names the process of the original, which is alive and holds the study."""
    with started("run", "study.yaml", "--out", "live", *LONG) as original:
        until(original, lambda: told("live") >= 2)
        with frozen(original, "live"):
            shutil.copytree("live", "copy", symlinks=True)
            claim = Path("copy/.dispatcher")
            assert f'"pid": {original.pid}' in claim.read_text(), "the copy was made while the study was held"
            with started("run", "study.yaml", "--out", "copy", *LONG) as second:
                until(second, lambda: f'"pid": {second.pid}' in claim.read_text())
                assert original.poll() is None
                original.send_signal(signal.SIGCONT)
                assert [ended(p)[0] for p in (original, second)] == [0, 0]
    for run in ("live", "copy"):
        assert len(trials(run)) == TRIALS and set(trials(run)) <= ENDED
    names = [json.loads(Path(run, ".folder").read_text()) for run in ("live", "copy")]
    assert [n["copied_from"] for n in names] == [[], [names[0]["name"]]]


def refused_by(worker: subprocess.Popen[str], process: subprocess.Popen[str]) -> bool:
    code, line = ended(process)
    return code == 2 and f"run: process {worker.pid} is at work here; wait, " in line


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a verb here; return the sentence with which it refuses."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_only_one_verb_works_in_a_folder(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two confirmations and a run at once: one works, the others say so, and ``stop`` finds it."""
    assert called("run", "study.yaml", "--out", "run", "budget.trials=4", "population=2", "resources.workers=1")[0] == 0
    shutil.rmtree("run/confirm")
    run = ("run", "study.yaml", "--out", "run", *LONG[1:])
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(*verb)) for verb in (*[("confirm", "run", "seeds.confirm=60")] * 2, run)
        ]
        until(processes[0], lambda: sum(p.poll() is None for p in processes) == 1)
        (worker,) = (p for p in processes if p.poll() is None)
        until(worker, lambda: any(Path("run/confirm").glob("*/*")) or told("run") > 4)
        assert all(refused_by(worker, process) for process in processes if process is not worker)
        with frozen(worker, "run"):
            for verb in ("confirm", "explain", "export", "report"):
                assert f"process {worker.pid} is at work here; wait, " in refused(capsys, verb, "run")
            assert f"process {worker.pid} is at work" in refused(capsys, "evaluate", "run/best", "--split", "test")
            main(["report", "run", "--out", "elsewhere"])
            assert Path("elsewhere/index.html").is_file()
            main(["stop", "run"])
        assert ended(worker) == (130, "mmsa-search: stopped and saved; run the same command again to go on")
    assert "nobody is at work here" in refused(capsys, "stop", "run")


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else, in whose every file stands the same."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("a", *FILES):
        (folder / name).write_text("mine", encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that was started and left."""
    start(tmp_path / "run").release()
    return tmp_path / "run"


def start(path: Path) -> RunFolder:
    source = path.with_name("given.yaml")
    source.write_text("study: tiny\n", encoding="utf-8")
    folder = RunFolder(path)
    folder.start(study(), source, {"data_fingerprint": "abc"})
    return folder


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(target)


BELOW = ("trials/0003", "trials/0003/curve.csv", "confirm/x/y.safetensors", "best/config.yaml", "report/tables", ".old")


@pytest.mark.parametrize("name", [*FILES, *FOLDERS, *BELOW])
@pytest.mark.parametrize("where", ["outside", "outside/a", "nowhere"])
def test_a_link_that_leaves_the_folder_is_refused(run: Path, outside: Path, name: str, where: str) -> None:
    target = run.parent / where
    link(run / name, target)
    said = f"{run / name}: is a link to {target}, which is outside of the run folder; put "
    for work in (lambda: start(run), lambda: RunFolder(run).held().__enter__(), lambda: RunFolder(run).config()):
        with pytest.raises(UserError) as caught:
            work()
        own = (name, where) == ("resolved.yaml", "nowhere") and "no run folder is here" in str(caught.value)
        assert str(caught.value).startswith(said) or own
    assert {p.read_text(encoding="utf-8") for p in outside.iterdir()} == {"mine"}
    assert not (run.parent / "nowhere").exists()


def test_a_relative_link_that_leaves_the_folder_is_refused(run: Path, outside: Path) -> None:
    link(run / "trials" / "0001", "../../outside")
    with pytest.raises(UserError, match=f"is a link to {outside}, which is outside"):
        start(run)
    link(run / "trials" / "0001", "../../run-2")  # no part of the folder, though its name begins alike
    with pytest.raises(UserError, match=r"run-2, which is outside"):
        start(run)


def test_links_that_stay_inside_are_none_of_our_business(run: Path, tmp_path: Path) -> None:
    link(run / "trials" / "best", "0003")
    link(run / "study.log.lock", "/somewhere/else/study.log")  # the journal's own, of a folder that was copied
    link(tmp_path / "linked", run)
    start(tmp_path / "linked").release()
    RunFolder(run).config()


@pytest.mark.parametrize("name", [n for n in IN_PLACE if n != ".folder"])
def test_a_file_with_two_names_is_not_written(run: Path, outside: Path, name: str) -> None:
    for kind in ("hard", "inside"):
        (run / name).unlink(missing_ok=True)
        if kind == "hard":
            (run / name).hardlink_to(outside / "a")
        else:
            link(run / name, "resolved.yaml")
        before = (run / "resolved.yaml").read_bytes()
        with pytest.raises(UserError, match=f"{run / name}: is a link or a hard link, and what is written here would"):
            start(run)
        assert (outside / "a").read_text(encoding="utf-8") == "mine"
        assert (run / "resolved.yaml").read_bytes() == before


@pytest.mark.parametrize("name", [".lock", ".dispatcher"])
@pytest.mark.parametrize("content", [b"my notes", b"[]", b"12 34", b"\xff\xfe", b"{}"])
def test_a_foreign_file_is_not_overwritten(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{run}/{name}: .*; move that file away"):
        start(run)
    assert (run / name).read_bytes() == content


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(path.parent)  # the path of a socket is short
        made.bind(path.name)
        os.chdir(before)


KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir, "pipe": os.mkfifo, "socket": _socket, "file": lambda p: p.write_text("mine"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*FILES, *FOLDERS, "trials/0003/curve.csv", "confirm/confirm.json"])
def test_what_is_no_file_or_no_folder_is_refused_at_once(run: Path, name: str, kind: str) -> None:
    place = run / name
    if kind == ("folder" if name in FOLDERS else "file") or ("/" in name and kind == "folder"):
        pytest.skip("as it should be, or found where it is used")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    KINDS[kind](place)
    for work in (lambda: start(run), lambda: RunFolder(run).config()):
        with pytest.raises(UserError, match=f"{place}: is n.*; put what belongs here in its place"):
            work()


def test_many_trials_are_checked_without_a_call_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / "trials" / str(number)).mkdir(parents=True)
        (tmp_path / "trials" / str(number) / "curve.csv").write_text("", encoding="utf-8")
    calls: list[object] = []
    for name in ("stat", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, **k: (calls.append(a), real(*a, **k))[1])
    check_files(tmp_path)
    assert len(calls) < 30


# ---- reading only ----------------------------------------------------------------------------------------------------

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all,+dac_read_search",
          "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]  # fmt: skip
"""Runs a command as another user, who may read everything, the interpreter among it, and write nothing here."""
READ = """
import os, sys
from pathlib import Path
from search.run_folder import RunFolder
from search.cli import main
folder = RunFolder(Path(sys.argv[1]))
print(folder.config().study, folder.driver(), sorted(folder.facts())[:1])
main(["report", sys.argv[1]])
"""


def listing(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return inode, time and contents of everything in a folder."""
    found = (p for p in (folder, *folder.rglob("*")))
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in found}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root's setpriv can do this")
def test_reading_needs_no_right_to_write(run: Path) -> None:
    """Another user, who may read the folder: nothing changes, and what must write says so and what to do."""
    before = listing(run)
    run.parent.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    reader = [*NOBODY, sys.executable, "-c", READ, "run"]
    done = subprocess.run(reader, capture_output=True, text=True, check=False, env=environment, cwd=run.parent)
    assert done.stdout == "tiny None ['command']\n", done.stderr
    assert done.returncode == 2 and done.stderr == (
        "mmsa-search: run: cannot write the run folder: Permission denied; free space, change permissions, or give "
        "--out FOLDER\n"
    )
    assert listing(run) == before


def test_a_folder_without_lock_has_nobody_at_work(run: Path) -> None:
    (run / ".lock").unlink()
    assert RunFolder(run).driver() is None
    assert not (run / ".lock").exists()


def test_asking_does_not_keep_a_driver_out(run: Path) -> None:
    """Whoever asks has the lock for an instant."""
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'rb'); fcntl.flock(f, fcntl.LOCK_SH); print('asks', flush=True)"
        "; time.sleep(0.1)"
    )
    asking = [sys.executable, "-c", code, str(run / ".lock")]
    with subprocess.Popen(asking, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "asks\n"
        start(run).release()


def test_a_verb_that_fails_lets_the_folder_go(run: Path) -> None:
    folder = RunFolder(run)
    with pytest.raises(KeyboardInterrupt), folder.held():
        assert RunFolder(run).driver() == os.getpid()
        raise KeyboardInterrupt
    assert folder.driver() is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
