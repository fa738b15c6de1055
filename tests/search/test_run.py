"""Whole runs through the installed program: what a run leaves behind, running again, and all the ways to be ended."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mmsa_core.data.npz import write
from mmsa_core.data.synthetic import planted
from search.cli import main

pytestmark = pytest.mark.ray

PROGRAM = Path(sys.executable).parent / "mmsa-search"
BUDGET = 12
LONG = 20
STUDY = f"""
study: tiny
data: {{path: data.npz}}
objective: mae
budget: {{trials: {BUDGET}}}
seeds: {{search: 1, confirm: 3, leaders: 1}}
rungs: {{epochs: [1, 2, 3], keep: 0.5}}
population: 2
space: quick
"""
METRICS = {"mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7"}
ENDED = {"complete", "pruned", "failed"}
Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Done:
    """A call of the program that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data and a study, which is the current one; no process of the runs outlives the module."""
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "data.npz", planted(0, train=96, valid=32, test=32))
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@contextmanager
def driver(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the program in a process group of its own, as a shell does; all that it started is gone at the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with Path("err.txt").open("w+") as err, Path("out.txt").open("w+") as out:
        process = subprocess.Popen(
            [str(PROGRAM), *arguments], stdout=out, stderr=err, text=True, env=environment, start_new_session=True
        )
        family: dict[int, psutil.Process] = {}
        process.family = family  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            _gather(process)
            if process.poll() is None:
                process.kill()
                process.wait()
            _, left = psutil.wait_procs(family.values(), timeout=10)
            for child in left:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(left, timeout=10)


def _gather(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the driver's descendants, and remember them for its end."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    process.family |= {c.pid: c for c in children}  # type: ignore[attr-defined]
    return children


def ended(process: subprocess.Popen[str], timeout: float = 200) -> Done:
    code = process.wait(timeout)
    return Done(code, Path("out.txt").read_text(), Path("err.txt").read_text())


def run(*arguments: str) -> Done:
    with driver("run", *arguments) as process:
        return ended(process)


def wait_for(process: subprocess.Popen[str], holds: Callable[[], bool], timeout: float = 150) -> None:
    """Wait until something holds while the driver is at work."""
    until = time.monotonic() + timeout
    while not holds():
        assert process.poll() is None, f"the driver ended too early: {Path('err.txt').read_text()}"
        assert time.monotonic() < until, "nothing happened"
        _gather(process)
        time.sleep(0.05)


def journal(folder: str) -> optuna.Study:
    storage = optuna.storages.JournalStorage(JournalFileBackend(f"{folder}/study.log"))
    return optuna.load_study(study_name="tiny", storage=storage)


def finished(folder: str) -> dict[int, tuple[str, float | None, dict[str, Any]]]:
    """Return the trials that have ended: state, value and parameters by number."""
    if not Path(folder, "study.log").exists():
        return {}
    try:
        trials = journal(folder).get_trials(deepcopy=False)
    except KeyError:  # the journal is there before the study
        return {}
    return {t.number: (t.state.name, t.value, t.params) for t in trials if t.state.is_finished()}


def status(capsys: Capture, folder: str) -> dict[str, Any]:
    capsys.readouterr()
    found: dict[str, Any] = json.loads(said(capsys, "status", folder, "--json"))
    return found


def said(capsys: Capture, *arguments: str) -> str:
    """Run a verb in this process; return what it printed."""
    main(arguments)
    out, err = capsys.readouterr()
    assert err == ""
    return out


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def check_whole(capsys: Capture, folder: str, budget: int, ended_before: bool = False) -> None:
    """Check that a study has exactly its budget of trials, each of them once, with its files."""
    found = status(capsys, folder)
    assert found["state"] == "finished"
    assert [t["number"] for t in found["trials"]] == list(range(budget))
    assert {t["state"] for t in found["trials"]} <= ENDED
    assert found["used"]["trials"] == budget
    assert sum(found["counts"].values()) == budget
    filed = {int(p.name) for p in Path(folder, "trials").iterdir()}
    # What was pruned in a population that was then ended in the middle keeps its place in the study, but no files.
    lost = {t["number"] for t in found["trials"] if t["state"] == "pruned"} if ended_before else set()
    assert set(range(budget)) - lost <= filed <= set(range(budget))
    for number in filed:
        rows = _rows(Path(folder, "trials", f"{number:04d}", "curve.csv").read_text())
        epochs = [int(row["epoch"]) for row in rows]
        assert epochs == list(range(1, len(epochs) + 1)), "an epoch was trained twice, or is lost"


# ---- one run to the end ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(home: Path) -> Done:
    """The run that most tests look at: ``whole``."""
    return run("study.yaml", "--out", "whole", "--json")


@pytest.fixture
def whole(first: Done) -> Path:
    assert first.code == 0, first.err
    return Path("whole")


def test_the_result_is_json_and_nothing_else_is_said(first: Done, whole: Path) -> None:
    found = json.loads(first.out)
    assert found["metric"] == "mae"
    assert len(found["seeds"]) == 3
    assert found["winner"] in {c["trial"] for c in found["candidates"]}
    assert found["baseline"] == 0
    assert found["test_openings"] == 1
    assert Path(found["report"]).is_file()
    # Neither Ray nor Optuna nor warnings: every line is a status.
    lines = [json.loads(line) for line in first.err.splitlines()]
    assert lines
    assert all("speed" in line for line in lines)


def test_the_files_of_a_run(whole: Path) -> None:
    names = ["study.yaml", "resolved.yaml", "lock.json", "study.log", "report/index.html"]
    names += [f"trials/0000/{name}" for name in ("config.yaml", "curve.csv", "valid_predictions.npz")]
    names += [f"best/{name}" for name in ("config.yaml", "model.safetensors", "metrics.json", "provenance.json")]
    names += ["best/README.md"]
    for name in names:
        assert (whole / name).is_file(), name
        assert (whole / name).stat().st_size > 0, name
    assert (whole / "study.yaml").read_text() == STUDY
    assert list((whole / "report" / "tables").glob("*.csv"))
    lock = json.loads((whole / "lock.json").read_text())
    assert {"packages", "commit", "data_fingerprint", "device", "command"} <= set(lock)
    with np.load(whole / "trials/0000/valid_predictions.npz") as file:
        assert [file[key].shape for key in file] == [(32,)]


def test_no_process_and_no_temporary_file_is_left(whole: Path) -> None:
    assert not [p for p in whole.rglob("*") if p.name.endswith(".tmp")]
    assert not list(whole.glob("populations/*"))


def test_status(whole: Path, capsys: Capture) -> None:
    check_whole(capsys, "whole", BUDGET)
    found = status(capsys, "whole")
    assert set(found) >= {"study", "state", "budget", "used", "counts", "best", "metric", "test_openings", "trials"}
    assert found["study"] == "tiny"
    assert found["budget"] == {"trials": BUDGET, "minutes": None}
    for trial in found["trials"]:
        assert set(trial) == {"number", "state", "value", "cost", "reason", "params"}
        assert trial["reason"] is None
        assert trial["params"]
    values = [t["value"] for t in found["trials"] if t["state"] == "complete"]
    assert found["best"]["value"] == min(values)
    assert found["counts"]["complete"] == len(values)
    assert f"{BUDGET} of {BUDGET} trials" in said(capsys, "status", "whole")


def test_best_metrics(whole: Path, first: Done) -> None:
    metrics = json.loads((whole / "best" / "metrics.json").read_text())
    assert {"valid", "test", "baseline", "test_openings"} <= set(metrics)
    record = json.loads(first.out)
    winner = next(c for c in record["candidates"] if c["trial"] == record["winner"])
    assert all(winner["valid"][metric].items() >= own.items() for metric, own in metrics["valid"].items())
    for split in (metrics["valid"], metrics["test"], metrics["baseline"]["valid"], metrics["baseline"]["test"]):
        assert set(split) == METRICS
        for estimate in split.values():
            assert set(estimate) == {"mean", "std", "n", "low", "high"}
            assert estimate["n"] == 3
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]


def test_optuna_reads_the_journal(whole: Path) -> None:
    states = [t.state for t in journal("whole").get_trials()]
    assert len(states) == BUDGET
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert TrialState.COMPLETE in states
    for trial in journal("whole").get_trials():
        if trial.state == TrialState.PRUNED:
            assert trial.intermediate_values
        if trial.state == TrialState.COMPLETE:
            assert set(trial.intermediate_values) == {1, 2}  # the last rung is its value


def test_the_dashboard_opens(whole: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with driver("dashboard", "whole", "--port", str(port)) as process:

        def answers() -> bool:
            with suppress(urllib.error.URLError, ConnectionError):
                answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                with answer:
                    return bool(answer.status == 200)
            return False

        wait_for(process, answers, 60)
        assert _gather(process) == []  # it is one process: nothing lives on without it
        process.terminate()
        process.wait(20)


# ---- again, and more -------------------------------------------------------------------------------------------------


def test_running_again_does_nothing_new(whole: Path, first: Done) -> None:
    files = {p: p.stat().st_mtime_ns for p in [*whole.glob("trials/*/*"), *whole.glob("confirm/*/*.safetensors")]}
    assert len(files) > BUDGET
    again = run("study.yaml", "--out", "whole", "--json")
    assert again.code == 0, again.err
    assert again.err == ""  # no population, so no status
    assert {**json.loads(again.out), "message": ""} == {**json.loads(first.out), "message": ""}
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_a_larger_budget_adds_the_difference(whole: Path, capsys: Capture) -> None:
    shutil.copytree(whole, "more")
    before = finished("more")
    done = run("study.yaml", f"budget.trials={BUDGET + 2}", "--out", "more")
    assert done.code == 0, done.err
    assert "Best configuration" in done.out
    check_whole(capsys, "more", BUDGET + 2)
    after = finished("more")
    assert {n: t for n, t in after.items() if n in before} == before


# ---- the later verbs -------------------------------------------------------------------------------------------------


def test_train_a_trial_again(whole: Path, capsys: Capture) -> None:
    found = json.loads(
        said(capsys, "train", "whole/trials/0000/config.yaml", "--data", "data.npz", "--out", "alone", "--json")
    )
    assert found["valid"]["mae"]["n"] == 1
    assert set(found["valid"]) == METRICS
    config = yaml.safe_load(Path("alone/config.yaml").read_text())
    assert config == yaml.safe_load((whole / "trials/0000/config.yaml").read_text())


def test_evaluate_counts_openings_of_the_test_split(whole: Path, capsys: Capture) -> None:
    before = status(capsys, "whole")["test_openings"]
    valid = json.loads(said(capsys, "evaluate", "whole/best", "--json"))
    metrics = json.loads((whole / "best" / "metrics.json").read_text())
    assert valid["valid"]["mae"] == pytest.approx(metrics["valid"]["mae"], abs=1e-5)
    assert status(capsys, "whole")["test_openings"] == before
    test = json.loads(said(capsys, "evaluate", "whole/best", "--split", "test", "--json"))
    assert test["test"]["mae"] == pytest.approx(metrics["test"]["mae"], abs=1e-5)
    assert status(capsys, "whole")["test_openings"] == before + 1


def test_predict(whole: Path, capsys: Capture) -> None:
    rows = _rows(said(capsys, "predict", "whole/best", "--split", "valid"))
    with np.load("data.npz") as data:
        assert [row["id"] for row in rows] == data["valid/id"].tolist()
    assert np.isfinite([float(row["prediction"]) for row in rows]).all()
    assert {float(row["std"]) > 0 for row in rows} == {True}


def test_verify(whole: Path, capsys: Capture) -> None:
    found = json.loads(said(capsys, "verify", "whole/best", "--seeds", "1", "--json"))
    assert found["reproduced"] is True
    assert len(found["seeds"]) == 1


def test_export_and_report(whole: Path, capsys: Capture) -> None:
    shutil.copytree(whole, "bare")
    shutil.rmtree("bare/best")
    shutil.rmtree("bare/report")
    assert said(capsys, "export", "bare") == "model: bare/best\n"
    assert said(capsys, "report", "bare") == "report: bare/report/index.html\n"
    for name in ("metrics.json", "model.safetensors", "config.yaml"):
        assert Path("bare/best", name).read_bytes() == (whole / "best" / name).read_bytes()
    assert "<html" in Path("bare/report/index.html").read_text()


# ---- a baseline that the study names ---------------------------------------------------------------------------------

NAMED = ("study.yaml", "baseline=dma", "baseline.encoders.text=pool", "baseline.width=8", "baseline.heads.dim=8")


def test_a_named_baseline(home: Path, capsys: Capture) -> None:
    """To the end; again with a larger budget, from the run folder alone; and not with another baseline."""
    done = run(*NAMED, "budget.trials=5", "--out", "named", "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["baseline"] == 0 and len(record["candidates"]) == 2
    check_whole(capsys, "named", 5)
    first = journal("named").get_trials()[0]
    resolved = yaml.safe_load(Path("named/resolved.yaml").read_text())["baseline"]
    assert first.params == {} and first.user_attrs["config"] == resolved
    assert resolved["alignment"]["audio-vision"]["name"] == "coral" and resolved["epochs"] == 3
    assert yaml.safe_load(Path("named/trials/0000/config.yaml").read_text()) == resolved
    before = finished("named")
    more = run("named/resolved.yaml", "budget.trials=7", "--out", "named", "--json")
    assert more.code == 0, more.err
    check_whole(capsys, "named", 7)
    assert {n: t for n, t in finished("named").items() if n in before} == before
    assert {c["trial"] for c in json.loads(more.out)["candidates"]} >= {0}
    with pytest.raises(SystemExit) as stop:
        main(["run", *NAMED, "baseline.fusion=sum", "--out", "named"])
    assert stop.value.code == 2
    assert "named: holds a run with another baseline: fusion.name: 'concat' before" in capsys.readouterr().err


# ---- a metric and a cost ---------------------------------------------------------------------------------------------


def test_a_study_with_a_cost(home: Path, capsys: Capture) -> None:
    """To the end, and again with a larger budget; every trial that is complete has both values, and the front is
    Optuna's own."""
    weighed = ("study.yaml", "objective.cost=parameters", "budget.trials=8", "--out", "weighed", "--json")
    done = run(*weighed)
    assert done.code == 0, done.err
    assert all("front" in line or "stage" in line for line in map(json.loads, done.err.splitlines()))
    check_whole(capsys, "weighed", 8)
    more = run("weighed/resolved.yaml", "budget.trials=12", "--out", "weighed", "--json")
    assert more.code == 0, more.err
    check_whole(capsys, "weighed", 12)
    found, known = status(capsys, "weighed"), journal("weighed")
    assert found["cost"] == "parameters" and known.metric_names == ["mae", "parameters"]
    assert sorted(found["front"]) == sorted(t.number for t in known.best_trials) != []
    for told, trial in zip(found["trials"], known.get_trials(), strict=True):
        assert trial.values == ([told["value"], told["cost"]] if told["state"] == "complete" else None)
        assert told["cost"] == trial.user_attrs["cost"] > 0
        assert told["state"] == "pruned" or told["cost"] == trial.user_attrs["result"]["parameters"]
    assert {t["state"] for t in found["trials"]} == {"complete", "pruned"}
    lines = said(capsys, "status", "weighed").splitlines()
    assert sum(line.startswith("front: mae ") for line in lines) == len(found["front"])
    with pytest.raises(SystemExit) as stop:
        main(["run", "study.yaml", "--out", "weighed"])
    assert stop.value.code == 2
    assert "weighed: holds a run with another objective: cost: 'parameters' before, null now" in capsys.readouterr().err


# ---- ended in the middle ---------------------------------------------------------------------------------------------
# One run with Ray, three times ended in the middle: each call goes on where the one before it was ended.

HARD = (
    "study.yaml",
    "--out",
    "hard",
    "rungs.epochs=[20,40]",
    "seeds.confirm=2",
    "resources.workers=2",
    f"budget.trials={LONG}",
)


@pytest.fixture(scope="module")
def interrupted(home: Path) -> tuple[Done, dict[int, Any]]:
    """Ctrl-C, which a terminal sends to the whole process group."""
    with driver("run", *HARD) as process:
        wait_for(process, lambda: len(finished("hard")) >= 2)
        os.killpg(process.pid, signal.SIGINT)
        done = ended(process, 100)
    return done, finished("hard")


@pytest.fixture(scope="module")
def killed(interrupted: tuple[Done, dict[int, Any]]) -> Iterator[dict[int, Any]]:
    """SIGKILL to the driver, without a word to anyone else; what it leaves running is not waited for."""
    known = len(interrupted[1])
    with driver("run", *HARD) as process:
        wait_for(process, lambda: len(finished("hard")) >= known + 2)
        process.kill()
        process.wait()
        yield finished("hard")


@pytest.fixture(scope="module")
def survived(killed: dict[int, Any]) -> tuple[Done, int]:
    """SIGKILL to a worker at work; the driver goes on to the end."""

    def workers() -> list[psutil.Process]:
        found = []
        for child in _gather(process):
            with suppress(psutil.Error):
                title = " ".join(child.cmdline())
                found += [child] if "ray::" in title and "train" in title else []
        return found

    with driver("run", *HARD) as process:
        wait_for(process, lambda: len(finished("hard")) > len(killed) and bool(workers()))
        victims = workers()[:1]
        for victim in victims:
            victim.kill()
        return ended(process), len(victims)


def test_ctrl_c_saves_and_stops(interrupted: tuple[Done, dict[int, Any]]) -> None:
    done, trials = interrupted
    assert done.code == 130, done.err
    assert done.err.splitlines()[-1] == "mmsa-search: stopped and saved; run the same command again to go on"
    assert "Traceback" not in done.err
    assert done.out == ""
    assert 2 <= len(trials) < LONG


def test_a_driver_that_trains_itself_is_killed(home: Path, capsys: Capture) -> None:
    study = ("run", "study.yaml", "--out", "alone", "rungs.epochs=[20,40]", "seeds.confirm=2", "resources.workers=1")
    with driver(*study) as process:
        wait_for(process, lambda: len(finished("alone")) >= 2)
        process.kill()
        process.wait()
        before = finished("alone")
    assert len(before) < BUDGET
    done = run(*study[1:])
    assert done.code == 0, done.err
    check_whole(capsys, "alone", BUDGET, ended_before=True)
    after = finished("alone")
    assert {n: t for n, t in after.items() if n in before} == before


def test_sigterm_saves_and_stops(home: Path) -> None:
    """What a cluster's scheduler sends to the driver alone before it kills."""
    with driver("run", "study.yaml", "--out", "termed", "rungs.epochs=[20,40]", f"budget.trials={LONG}") as process:
        wait_for(process, lambda: len(finished("termed")) >= 1)
        process.terminate()
        done = ended(process, 100)
    assert done.code == 130, done.err
    assert done.err.splitlines()[-1] == "mmsa-search: stopped and saved; run the same command again to go on"
    assert "SIGTERM" not in done.err and 1 <= len(finished("termed")) < LONG


def test_a_killed_driver_loses_no_trial(interrupted: tuple[Done, dict[int, Any]], killed: dict[int, Any]) -> None:
    before = interrupted[1]
    assert {n: t for n, t in killed.items() if n in before} == before
    assert len(before) < len(killed) < LONG


def test_a_killed_worker_is_made_up_for(killed: dict[int, Any], survived: tuple[Done, int], capsys: Capture) -> None:
    done, victims = survived
    assert victims == 1
    assert done.code == 0, done.err
    # Ray's own words about it are not the user's business.
    assert all(line.startswith("tiny: ") for line in done.err.splitlines()), done.err
    assert done.out.startswith("\nBest configuration")
    check_whole(capsys, "hard", LONG, ended_before=True)
    after = finished("hard")
    assert {n: t for n, t in after.items() if n in killed} == killed
    assert status(capsys, "hard")["counts"]["failed"] == 0
