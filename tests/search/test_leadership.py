"""Who leads a shared study: one driver, whoever begins it at the same moment, to the end of its last stage."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from mmsa_core.errors import UserError
from search import drivers
from search.drivers import Drivers
from search.folder_identity import Identity
from search.leadership import Term, Terms
from search.populations import Task, Wait
from search.processes import this_process
from search.run_folder import RunFolder
from search.session import HandedOverError, Session
from search.study import StudyConfig
from search.trials import POPULATION
from search.yaml_io import write_yaml
from tests.search.test_drivers import driver, ledger, memory, named, now, on, shared
from tests.search.tiny import drain, pretend, study

__all__ = ["now", "on"]
ROUNDS = 3


# ---- at the same moment ----------------------------------------------------------------------------------------------


# ---- terms -----------------------------------------------------------------------------------------------------------


def current(known: optuna.Study) -> Term:
    found = Terms(known).current()
    assert found is not None
    return found


def test_a_term_without_an_owner_is_over_after_the_lease(tmp_path: Path, now: list[float]) -> None:
    """Its driver died between the two writes of a claim, or is about to make the second."""
    known = memory()
    optuna.create_study(study_name=f"{known.study_name}:leader:1", storage=known._storage)
    own = driver(known, tmp_path)
    assert not own.leads and own.leader is None
    now[0] += drivers.LEASE - 1
    assert not own.leads
    now[0] += 2
    assert own.leads and current(known).number == 2
    assert len(known._storage.get_all_studies()) == 2, "older terms are deleted"


def test_a_claim_that_comes_late_does_not_lead(tmp_path: Path, now: list[float], on: Callable[[str], None]) -> None:
    """A driver sleeps between its look and its claim, while two others lead one after the other."""
    known = memory()
    on("late")
    late, seen = driver(known, tmp_path / "late"), None
    for host in ("a", "b"):
        on(host)
        other = driver(known, tmp_path / host)
        assert other.leads
        seen = seen or current(known)
        if host == "a":
            other.leave()
    Terms(known).claim(None, late._record)  # term 1 is free again
    assert not late.leads and current(known).number == 2
    Terms(known).claim(seen, late._record)  # and term 2 is taken
    assert not late.leads and current(known).owner is not None and current(known).owner["host"] == "b"


def test_a_study_of_a_person_is_no_term(tmp_path: Path) -> None:
    known = memory()
    optuna.create_study(study_name="7", storage=known._storage)
    optuna.create_study(study_name=f"{known.study_name}:leader:x", storage=known._storage)
    assert Terms(known).current() is None
    with pytest.raises(UserError, match="study: must be of letters, digits"):
        study(study="tiny:leader:1")


# ---- to the end of the last stage ------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again_by_another(tmp_path: Path, now: list[float], on: Callable[[str], None]) -> None:
    known = memory()
    known.add_trial(optuna.trial.create_trial(value=1.0))
    on("a")
    first = driver(known, tmp_path / "a")
    assert first.leads
    first.advance("confirm")
    on("b")
    other = driver(known, tmp_path / "b")
    assert not other.leads and other.is_over(), "it asks for no more trials"
    more = driver(known, tmp_path / "b", budget={"trials": 7})
    assert not more.leads and not more.is_over(), "its own budget goes on"
    first.advance("done")
    first.leave()
    assert not other.leads and other.is_over()
    on("c")
    assert driver(known, tmp_path / "c", budget={"trials": 9}).leads, "a larger budget is a search of its own"
    assert current(known).number == 2


def test_a_leader_that_is_done_while_another_looks(
    tmp_path: Path, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it is done and leaves; whatever of that is seen, nobody else leads."""
    known = memory()
    known.add_trial(optuna.trial.create_trial(value=1.0))
    on("a")
    first = driver(known, tmp_path / "a")
    assert first.leads
    first.advance("confirm")
    on("b")
    other, read = driver(known, tmp_path / "b"), Terms.read

    def then_done(self: Terms) -> Any:
        found = read(self)
        monkeypatch.setattr(Terms, "read", read)
        first.advance("done")
        first.leave()
        return found

    monkeypatch.setattr(Terms, "read", then_done)
    assert not other.leads and not other.leads
    assert current(known).number == 1


def test_the_leader_asks_for_the_last_trials_when_no_other_is_about_to(
    tmp_path: Path, now: list[float], on: Callable[[str], None]
) -> None:
    """The other has looked while there were enough for both, and sleeps before it asks."""
    config = shared(tmp_path, budget={"trials": 6}, pruner="none")
    on("a")
    first = ledger(config, tmp_path / "a", size=2)
    task = first.next()
    on("b")
    other = ledger(config, tmp_path / "b", size=2)
    with other.drivers.asking():
        assert other._may_ask()
        more = first.next()
        assert isinstance(more, Task) and isinstance(first.next(), Wait), "these two may be the other's"
        other._ask_more()
    for source, name in ((first, task), (first, more), (other, other.next())):
        assert isinstance(name, Task)
        source.finish(name.name, pretend(name, source.report))
    assert [t.state for t in first.study.get_trials()] == [TrialState.COMPLETE] * 6


def test_the_same_folder_goes_on_where_it_is_done(tmp_path: Path) -> None:
    known = memory()
    for number in (1, 2):
        own = driver(known, tmp_path)
        assert own.leads and current(known).number == number
        own.advance("done")
        own.leave()


def test_a_study_that_was_deleted_and_begun_again_is_not_done(tmp_path: Path, on: Callable[[str], None]) -> None:
    known = memory()
    known.add_trial(optuna.trial.create_trial(value=1.0))
    on("a")
    first = driver(known, tmp_path / "a")
    assert first.leads
    first.advance("done")
    optuna.delete_study(study_name=known.study_name, storage=known._storage)
    again = optuna.create_study(study_name=known.study_name, storage=known._storage)
    on("b")
    assert driver(again, tmp_path / "b").leads


# ---- sessions --------------------------------------------------------------------------------------------------------

DIES = """
import sys, time
from pathlib import Path
from typing import Any
from tests.search.test_drivers import shared
from tests.search.test_leadership import begun

folder, own = Path(sys.argv[1]), sys.argv[2]
with begun(shared(folder), folder / own) as session:
    session.lead_or_hand_over(lambda: False)
    print("leads", flush=True)
    time.sleep(600)
"""


@contextmanager
def begun(config: StudyConfig, path: Path) -> Iterator[Session]:
    """Begin the session of a run in a folder."""
    folder = RunFolder(path)
    write_yaml(path.with_suffix(".yaml"), config.resolved())
    folder.start(config, path.with_suffix(".yaml"), {"data_fingerprint": "a"})
    try:
        with Session(config, folder) as session:
            yield session
    finally:
        folder.release()


def test_who_confirms_and_who_has_is_said(tmp_path: Path) -> None:
    """A driver of this host confirms, is killed in the middle of that, and the next one takes over."""
    config = shared(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", DIES, str(tmp_path), "a"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "leads\n"
        with begun(config, tmp_path / "b") as session, pytest.raises(HandedOverError) as said:
            session.lead_or_hand_over(lambda: False)
        assert str(said.value) == (
            f"the search is over; process {process.pid} on {os.uname().nodename}, which leads, confirms, explains and "
            f"exports in its run folder {tmp_path / 'a'}"
        )
        process.kill()
    with begun(config, tmp_path / "b") as session:
        session.lead_or_hand_over(lambda: False)
        session.check_lead()
        session.finish()
    with begun(config, tmp_path / "c") as session, pytest.raises(HandedOverError) as said:
        session.lead_or_hand_over(lambda: False)
    assert "which led, has confirmed, explained and exported" in str(said.value)
    assert f"run folder {tmp_path / 'b'}; `mmsa-search confirm {tmp_path / 'c'}`" in str(said.value)


def test_a_leader_that_was_silent_does_not_open_the_test_split(
    tmp_path: Path, now: list[float], on: Callable[[str], None]
) -> None:
    config = shared(tmp_path)
    on("a")
    with begun(config, tmp_path / "a") as silent:
        silent.lead_or_hand_over(lambda: False)
        on("b")
        other = Drivers(silent._study, config, named(tmp_path / "b"))
        assert not other.leads
        now[0] += drivers.LEASE + 1
        assert other.leads
        with pytest.raises(HandedOverError, match=f"on b, which leads, .* in its run folder {tmp_path / 'b'}"):
            silent.check_lead()


def test_a_session_beats_whatever_its_stages_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.session.BEAT", 0.01)
    monkeypatch.setattr(drivers, "BEAT", 0.01)
    config = shared(tmp_path)
    with begun(config, tmp_path / "a") as session:
        key = drivers.PREFIX + session.drivers.token
        until = time.monotonic() + 60
        while session._study.user_attrs[key]["beat"] < 3:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert session._study.user_attrs[key] is None


# ---- copies of run folders -------------------------------------------------------------------------------------------


def test_a_copy_takes_up_what_its_folder_storage_holds(tmp_path: Path) -> None:
    """The original's driver lives: in the copy's own storage it counts as dead: only the lock's holder works there."""
    config = study(pruner="none")
    source = ledger(config, tmp_path / "a")
    assert source.next() is not None
    other = {**source.drivers.own, "pid": os.getppid(), "start": psutil.Process(os.getppid()).create_time()}
    source.study.set_user_attr(drivers.PREFIX + "1", {**other, "folder": "there", "asks": 3, "beat": 1})
    for t in source.study.get_trials(deepcopy=False):
        place = {**t.user_attrs[POPULATION], "owner": other}
        optuna.trial.Trial(source.study, t._trial_id).set_user_attr(POPULATION, place)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    again = ledger(config, tmp_path / "b")
    drain(again, pretend)
    assert [t.state for t in again.study.get_trials()] == [TrialState.COMPLETE] * 6
    assert optuna.get_all_study_names(again.study._storage) == ["tiny"], "there is nobody to lead"


def copied(folder: Path, name: str, *of: str) -> RunFolder:
    made = RunFolder(folder)
    made._identity = Identity(name, 0, 0, of)
    return made


def test_a_copy_beside_its_original_is_refused(tmp_path: Path, now: list[float], on: Callable[[str], None]) -> None:
    """Of another host the original is known to be alive by a beat; until then the copy waits for nothing."""
    known, config = memory(), shared(tmp_path)
    on("a")
    original = Drivers(known, config, copied(tmp_path / "a", "one"))
    on("b")
    copy = Drivers(known, config, copied(tmp_path / "b", "two", "one"))
    Drivers(known, config, copied(tmp_path / "c", "three", "zero")).refuse_copy()
    copy.refuse_copy()
    now[0] += drivers.BEAT + 1
    original.beat()
    with pytest.raises(UserError) as said:
        copy.refuse_copy()
    assert str(said.value) == (
        f"{tmp_path / 'b'}: is a copy of {tmp_path / 'a'}, where process 7 on a is at work on the same study; wait for "
        "its end, or give the copy another study: name or storage"
    )
    now[0] += drivers.LEASE + 1
    copy.refuse_copy()


def test_a_copy_beside_its_original_on_this_host_is_refused_at_once(tmp_path: Path) -> None:
    known, config = memory(), shared(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        there = psutil.Process(process.pid)
        own = {**this_process(), "pid": there.pid, "start": there.create_time() - psutil.boot_time()}
        Drivers(known, config, copied(tmp_path / "a", "one"), process=own)
        before = dict(known.user_attrs)
        with pytest.raises(UserError, match=f"is a copy of {tmp_path / 'a'}, where process {process.pid} on"):
            Drivers(known, config, copied(tmp_path / "b", "two", "one"))
        assert known.user_attrs == before, "a driver that is refused leaves nothing behind"
        process.kill()
    Drivers(known, config, copied(tmp_path / "b", "two", "one"))
