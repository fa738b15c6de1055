"""Drivers that begin one study at the same moment, again and again, in processes of their own: how many of them lead.

``python -m tests.benchmarks.leaders`` does it 50 times on every storage; ``test_leadership.py`` a few times.
"""

from __future__ import annotations

import multiprocessing as mp
import random
import time
from dataclasses import dataclass
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import optuna
from optuna.trial import TrialState

from mmsa_core.errors import UserError
from search.ledger import Ledger, asked_at_once
from search.opening import OPENINGS, record_opening
from search.populations import Task
from search.run_folder import RunFolder
from search.session import HandedOverError, Session
from search.storage import open_storage
from search.study import StudyConfig
from search.trials import BASELINE, ORIGIN, open_study
from search.yaml_io import write_yaml
from tests.search.tiny import pretend, study

TRIALS, SIZE = 6, 2


@dataclass(frozen=True)
class Race:
    """One round: what became of each driver, and what the study says of it."""

    outcomes: tuple[str, ...]
    openings: int
    terms: int
    trials: int
    complete: int
    baselines: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Confirmations, openings of the test split, terms of leaders, trials, complete ones, and baselines."""
        confirmed = self.outcomes.count("confirmed")
        return confirmed, self.openings, self.terms, self.trials, self.complete, self.baselines


ONE_LEADER = (1, 1, 1, TRIALS, TRIALS, 1)
"""The counts of a round in which one driver led."""


def race(url: str, folder: Path, rounds: int, datas: tuple[str, str] = ("a", "a")) -> list[Race]:
    """Let two drivers begin ``rounds`` studies in ``url``, each at once; ``datas`` are their data's fingerprints."""
    context = mp.get_context("spawn")
    barrier, results = context.Barrier(2, timeout=120), context.Queue()
    arguments = [(barrier, results, url, folder, own, data, rounds) for own, data in zip("ab", datas, strict=True)]
    drivers = [context.Process(target=_drive, args=a, daemon=True) for a in arguments]
    for driver in drivers:
        driver.start()
    outcomes = dict(results.get(timeout=500) for _ in range(2 * rounds))
    for driver in drivers:
        driver.join()
    return [_found(url, folder, k, (outcomes["a", k], outcomes["b", k])) for k in range(rounds)]


def config(url: str, number: int) -> StudyConfig:
    return study(study=f"race{number}", storage=url, budget={"trials": TRIALS}, pruner="none")


def _drive(barrier: Any, results: Any, url: str, folder: Path, own: str, data: str, rounds: int) -> None:
    draws = random.Random(own)
    for number in range(rounds):
        settings, run = config(url, number), RunFolder(folder / f"{own}{number}")
        write_yaml(folder / f"{own}.yaml", settings.resolved())
        run.start(settings, folder / f"{own}.yaml", {"data_fingerprint": data})
        try:
            barrier.wait()
            outcome = _run(settings, run, draws)
        except HandedOverError:
            outcome = "handed over"
        except UserError as error:
            outcome = f"refused: {error}"
        except BrokenBarrierError:
            outcome = "the other driver is gone"
        run.release()
        results.put(((own, number), outcome))


def _run(settings: StudyConfig, folder: RunFolder, draws: random.Random) -> str:
    """Do what a whole run does, with workers that pretend to train and a confirmation that opens the test split."""
    with Session(settings, folder) as session:
        driver = session.driver(asked_at_once(SIZE, False))
        source = Ledger(settings, settings.search_space(), folder, SIZE, driver=driver)
        while source.pending():
            if isinstance(task := source.next(), Task):
                source.finish(task.name, pretend(task, source.report))
            time.sleep(draws.uniform(0, 0.01))
        source.close()
        session.lead_or_hand_over(lambda: False)
        time.sleep(draws.uniform(0, 0.05))
        session.check_lead()
        record_opening(open_study(settings, folder), "confirm")
        session.finish()
    return "confirmed"


def _found(url: str, folder: Path, number: int, outcomes: tuple[str, str]) -> Race:
    storage = open_storage(url, folder)
    made = optuna.load_study(study_name=f"race{number}", storage=storage)
    trials = made.get_trials(deepcopy=False)
    return Race(
        outcomes=outcomes,
        openings=len(made.user_attrs.get(OPENINGS, [])),
        terms=sum(name.startswith(f"race{number}:") for name in optuna.get_all_study_names(storage)),
        trials=len(trials),
        complete=sum(t.state == TrialState.COMPLETE for t in trials),
        baselines=sum(t.user_attrs.get(ORIGIN) == BASELINE for t in trials),
    )
