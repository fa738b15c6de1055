"""What changed in a study since one looked last: a trial that has ended stays as it is, so the others are enough."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.trials import POPULATION


class Changes:
    """Reads a study's trials again and again, for one who keeps what they say and need not go through all each time."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._count = 0
        self._open: list[int] = []

    def __call__(self) -> list[FrozenTrial]:
        """Return the trials that are new or had not ended at the last look, in their order: at the first one, all."""
        known = self._study.get_trials(deepcopy=False)
        found = [*(known[n] for n in self._open), *known[self._count :]]
        self._count = len(known)
        self._open = [t.number for t in found if not t.state.is_finished()]
        return found


class Tally:
    """How many trials of a study there are, have begun, ended and failed, as of the last look, and which are running.

    To have begun is not to wait any more, to have failed is to have been trained: a trial that was enqueued with
    parameters outside the space has not."""

    def __init__(self, study: optuna.Study) -> None:
        self._changes = Changes(study)
        self.running: list[FrozenTrial] = []
        self.known = self.begun = self.ended = self.failed = 0

    def look(self) -> Tally:
        """Count again, and return this tally."""
        found = self._changes()
        pending = [t for t in found if not t.state.is_finished()]
        self.running = [t for t in pending if t.state == TrialState.RUNNING]
        self.ended += len(found) - len(pending)
        self.failed += sum(t.state == TrialState.FAIL and POPULATION in t.user_attrs for t in found)
        self.begun, self.known = self.ended + len(self.running), self.ended + len(pending)
        return self
