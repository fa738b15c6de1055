"""What changed in a study since the last look, and its trials counted without going through all of them."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState, create_trial

from search.changes import Changes, Tally
from search.trials import POPULATION


def numbers(changes: Changes) -> list[int]:
    return [t.number for t in changes()]


def test_what_has_ended_is_seen_once() -> None:
    found = optuna.create_study()
    changes = Changes(found)
    assert numbers(changes) == []
    for _ in range(3):
        found.ask()
    found.tell(1, 0.1)
    assert numbers(changes) == [0, 1, 2]
    found.ask()
    found.tell(0, state=TrialState.FAIL)
    assert numbers(changes) == [0, 2, 3], "0 has ended since: its end is seen too"
    assert numbers(changes) == [2, 3]
    assert numbers(Changes(found)) == [0, 1, 2, 3], "each looks for itself"


def test_trials_are_counted_as_they_are() -> None:
    found = optuna.create_study()
    tally = Tally(found)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    for state in states:
        value = 1.0 if state == TrialState.COMPLETE else None
        found.add_trial(create_trial(state=state, value=value, user_attrs={POPULATION: {}}))
    found.add_trial(create_trial(state=TrialState.FAIL))
    for _ in range(2):
        tally.look()
        counted = (tally.known, tally.begun, tally.ended, tally.failed, [t.number for t in tally.running])
        assert counted == (6, 5, 4, 1, [3]), "one that was never trained has not failed"
    found.tell(3, state=TrialState.FAIL)
    found.ask()
    tally.look()
    counted = (tally.known, tally.begun, tally.ended, tally.failed, [t.number for t in tally.running])
    assert counted == (6, 6, 5, 2, [4])
