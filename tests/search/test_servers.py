"""Studies whose storage is a server: two drivers share one, and a server that is gone in the middle loses nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mmsa_core.errors import UserError
from search.desk import Desk
from search.outage import GO_ON
from search.populations import Reply
from search.storage import open_storage
from search.study import StudyConfig
from search.trials import POPULATION
from tests.search.servers import Postgres, Proxy
from tests.search.test_desk import work
from tests.search.tiny import ledger, study

TRIALS = 24
DRIVER = """
import sys, time
from pathlib import Path
from search.populations import Task
from tests.search.test_servers import config
from tests.search.tiny import ledger, pretend

source = ledger(config(sys.argv[1], "shared"), Path(sys.argv[2]))
while source.pending():
    task = source.next()
    if not isinstance(task, Task):
        time.sleep(0.01)
        continue
    time.sleep(0.05)
    source.finish(task.name, pretend(task, source.report))
source.close()
"""


def config(url: str, name: str) -> StudyConfig:
    return study(study=name, storage=url, budget={"trials": TRIALS}, pruner="none")


@pytest.fixture(params=["server", "proxy"])
def storage(request: pytest.FixtureRequest) -> Iterator[Postgres | Proxy]:
    """Each kind of server in turn."""
    made: Postgres | Proxy = request.getfixturevalue(request.param)
    yield made


def found(url: str, name: str, folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=open_storage(url, folder)).get_trials()


def test_two_drivers_share_a_server(storage: Postgres | Proxy, tmp_path: Path) -> None:
    with ExitStack() as running:
        both = [
            subprocess.Popen([sys.executable, "-c", DRIVER, storage.url(), str(tmp_path / own)]) for own in ("a", "b")
        ]
        for process in both:
            running.callback(process.kill)
        assert [p.wait(120) for p in both] == [0, 0]
    trials = found(storage.url(), "shared", tmp_path)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * TRIALS
    assert len({t.params["optimizer.lr"] for t in trials}) == TRIALS, "no configuration is there twice"
    assert len({t.user_attrs[POPULATION]["owner"]["pid"] for t in trials}) == 2, "both worked"


def test_a_server_that_is_gone_in_the_middle(storage: Postgres | Proxy, tmp_path: Path) -> None:
    """While a worker trains, the server dies: one sentence, everything stops, and the same study goes on later."""
    own = config(storage.url(), "gone")
    desk = Desk(lambda: ledger(own, tmp_path / "run"))
    work(desk, 2)
    name = desk.next()
    assert isinstance(name, str)
    desk.take(name, worker=None)
    before = {t.number: t.values for t in found(storage.url(), "gone", tmp_path) if t.state.is_finished()}
    assert len(before) == 6
    storage.stop()
    assert desk.report(name, 1, {0: 0.5, 1: 0.5, 2: 0.5}, None) == Reply(stop=True)
    assert desk.next() is None and not desk.open()
    failure = desk.failure()
    assert isinstance(failure, UserError)
    assert "storage: the " in str(failure) and "does not answer" in str(failure) and str(failure).endswith(GO_ON)
    storage.start()
    again = Desk(lambda: ledger(own, tmp_path / "run"))
    work(again, TRIALS)
    assert again.failure() is None
    trials = found(storage.url(), "gone", tmp_path)
    assert [t.number for t in trials] == list(range(TRIALS))
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert {t.number: t.values for t in trials if t.number in before} == before, "what was told stays"
    assert len({t.params["optimizer.lr"] for t in trials}) == TRIALS
