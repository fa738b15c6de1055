"""The one owner of the Optuna study: opens it, asks, reports, prunes, tells, and takes up what a dead driver left.

The study is the only durable truth. A trial stays RUNNING until its outcome is told; a driver that dies leaves RUNNING
trials that name their owner, and the next driver goes on with the same trials, from their population's last checkpoint
where there is one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, Trial, TrialState

from mmsa_core.cost import Cost
from search.asking import Asker
from search.changes import Tally
from search.drivers import Drivers
from search.outsiders import refuse_unusable
from search.overhead import overhead, timed
from search.populations import Outcome, Reply, Result, Slot, Task, Wait, split_task
from search.processes import same_process
from search.pruning import Scope, make_pruner, weak
from search.run_folder import RunFolder
from search.space import Space
from search.study import StudyConfig
from search.trials import (
    COST,
    OVERHEAD,
    POPULATION,
    REASON,
    RESULT,
    SECONDS,
    FirstTrial,
    by_number,
    cost,
    open_study,
    reasons,
    summary,
)

GENERATION = 4
"""Populations asked for together in deterministic mode; more workers than this would idle there."""
BREAKER_TRIALS = 8
"""Trials that must have ended before the failure rate can stop a study."""


@dataclass
class _Running:
    """A task in a worker's hands: its Optuna trials in the order of its slots (one trial may own several slots)."""

    task: Task
    generation: int
    losses: int = 0


class Ledger:
    """Source of search tasks: every question and answer of the search goes through here."""

    def __init__(
        self,
        config: StudyConfig,
        space: Space,
        folder: RunFolder,
        size: int,
        deterministic: bool = False,
        first: Sequence[FirstTrial] = (),
        driver: Mapping[str, Any] | None = None,
    ) -> None:
        """``size`` is the number of members in a population; ``first`` are tried after the baseline of a new study;
        ``driver`` is the process that trials are owned by: this one where None."""
        self.config = config
        self.space = space
        self.folder = folder
        self.size = size
        self.deterministic = deterministic
        folder.claim_study()
        self.study = open_study(config, folder)
        refuse_unusable(self.study, space)
        self.drivers = Drivers(self.study, config, folder, asked_at_once(size, deterministic), driver)
        self.asker = Asker(self.study, config, space, self.drivers, size)
        self.pruner = make_pruner(config)
        self.tally = Tally(self.study)
        self.message = ""
        self._draining = False
        self._running: dict[str, _Running] = {}
        self._queue: list[_Running] = []
        self._started = time.monotonic()
        self.spent = float(self.study.user_attrs.get(OVERHEAD, 0.0))
        self._seconds_before = float(self.study.user_attrs.get(SECONDS, 0.0))
        self._first = first
        if self.drivers.leads:
            self._lead()

    @property
    def path(self) -> Path:
        return self.folder.path

    # ---- the source of tasks -------------------------------------------------------------------------------------

    @timed
    def next(self) -> Task | Wait | None:
        """Return a population to train: one that was left behind, else newly asked trials of one structure."""
        if self._draining:
            return None
        self.drivers.refuse_copy()
        if not self._queue and self.drivers.leads:
            self._lead()
        if not self._queue and self._may_ask():
            with self.drivers.asking():
                if self._may_ask():
                    self._ask_more()
        if not self._queue:
            return Wait() if self._running else None
        entry = self._queue.pop(0)
        self._running[entry.task.name] = entry
        return entry.task

    @timed
    def report(self, task: str, epoch: int, values: Mapping[int, float], cost: float | None = None) -> Reply:
        """Store a rung's values (best so far, by slot) and what each costs; return which slots the pruner ends."""
        entry = self._running.get(task)
        if entry is None:
            return Reply(frozenset(values))
        if epoch not in self.config.rungs.epochs[:-1]:
            return Reply(stop=self._draining)
        means = _by_trial(entry.task, values)
        open_trials = {n: t for n in means if self._is_open(t := self._trial(n))}
        for number, frozen in open_trials.items():
            self._set_cost(number, cost)
            if epoch not in frozen.intermediate_values:  # Trial.report refuses studies of two objectives
                self.study._storage.set_trial_intermediate_value(frozen._trial_id, epoch, means[number])
        own = frozenset(s.trial for s in entry.task.slots)
        scope = Scope(entry.generation, own) if self.deterministic else None
        ended = weak(self.pruner, self.study, list(open_trials), epoch, scope)
        for number in sorted(ended):
            self.study.tell(number, state=TrialState.PRUNED)
        gone = ended | (set(means) - set(open_trials))
        drop = frozenset(k for k in values if entry.task.slots[k].trial in gone)
        return Reply(drop, self._draining)

    @timed
    def finish(self, task: str, result: Result) -> None:
        """Tell every trial of a task its outcome and write its folder; of one that was stopped, only what has ended."""
        entry = self._running.pop(task, None)
        if entry is None:
            return
        if result.too_large:
            self._halve(entry)
            return
        slots: dict[int, list[tuple[Slot, Outcome]]] = defaultdict(list)
        for slot, outcome in zip(entry.task.slots, result.outcomes, strict=True):
            slots[slot.trial].append((slot, outcome))
        epochs = sum(len(o.curve) for o in result.outcomes)
        for number, members in slots.items():
            outcomes = [outcome for _, outcome in members]
            ended = not self._is_open(self._trial(number))
            if ended or not result.stopped:
                self.folder.write_trial(number, members)
            if not ended and not result.stopped:
                share = sum(len(o.curve) for o in outcomes) / max(1, epochs)
                self._set_cost(number, result.cost)
                self._tell(number, outcomes, {"seconds": share * result.seconds, "parameters": result.parameters})
        if result.stopped:
            return
        if entry.task.checkpoint is not None:
            Path(entry.task.checkpoint).unlink(missing_ok=True)
        self._save_seconds()
        self._break_circuit()

    def lost(self, task: str, reason: str) -> None:
        """Queue a task whose worker died again: as it was, then in halves, until the slot that kills is alone."""
        entry = self._running.pop(task, None)
        if entry is None:
            return
        entry.losses += 1
        if entry.losses == 1:
            self._queue.append(entry)
            return
        if entry.task.checkpoint is not None:
            Path(entry.task.checkpoint).unlink(missing_ok=True)
        if len({s.trial for s in entry.task.slots}) > 1:
            halves = zip("ab", split_task(entry.task), strict=True)
            self._queue += [_Running(replace(h, name=f"{task}{tag}"), entry.generation, 1) for tag, h in halves]
            return
        for number in {s.trial for s in entry.task.slots}:
            if self._is_open(self._trial(number)):
                self._fail(number, f"its worker died twice: {reason}")
        self._break_circuit()

    def abandon(self) -> None:
        """Queue every running task again: all workers are gone."""
        self._queue += self._running.values()
        self._running.clear()

    def drain(self) -> None:
        """Hand out nothing more; running tasks stop at their next report and are taken up by the next run."""
        self._draining = True

    def status(self) -> dict[str, Any]:
        """Return the study's progress, without its trials."""
        found = summary(self.study, self.config, running=True, trials=False)
        found["used"]["seconds"] = self._seconds()
        found["overhead"] = overhead(self.spent, found["used"]["trials"], self._seconds())
        own = {"queued": len(self._queue), "message": self.message, "leader": self.drivers.leader}
        return {**found, **own}

    def pending(self) -> bool:
        """Tell whether there is, or may yet be, something to hand out: what another driver has may come to this one."""
        return not self._draining and (bool(self._queue) or not self._spent() or bool(self.tally.look().running))

    def ready(self) -> bool:
        """Tell whether there is something to hand out now, or only when another driver is done or dead."""
        if not self._queue and self.drivers.leads:
            self._lead()
        return bool(self._queue) or self._may_ask()

    def close(self) -> None:
        """Record the time used, and let another process of this driver take over."""
        self._save_seconds()
        self.folder.release_study()

    # ---- populations as tasks ------------------------------------------------------------------------------------

    def _ask_more(self) -> None:
        """Ask for one population; in deterministic mode for a generation of them, once the last one has ended."""
        if not self.deterministic:
            self._ask(self.asker.generation())
        elif not self._running:
            generation = self.asker.generation()
            for _ in range(GENERATION):
                self._ask(generation)

    def _ask(self, generation: int) -> None:
        """Ask for the trials of one population and queue it."""
        left = self._trials_left()
        if left > 0:
            for trials in self.asker.population(generation, left):
                self._enqueue(trials)

    def _enqueue(self, trials: Sequence[FrozenTrial]) -> None:
        """Queue the population of these trials."""
        slots: list[Slot] = []
        for trial in trials:
            config = self.asker.configuration(trial)
            slots += [Slot(trial.number, seed, config) for seed in trial.user_attrs[POPULATION]["seeds"]]
        place = trials[0].user_attrs[POPULATION]
        self._queue.append(_Running(self._task(place["name"], slots), place["generation"]))

    def _task(self, name: str, slots: Sequence[Slot]) -> Task:
        rungs = self.config.rungs.epochs
        objective = self.config.objective
        path = str(self.folder.checkpoint(name))
        early = objective.cost if objective.cost != "seconds" else None  # known at the end alone
        cost = None if early is None else Cost(early, objective.latency_batch)
        return Task(name, tuple(slots), rungs[:-1], objective.metric, objective.decided, path, cost=cost)

    def _halve(self, entry: _Running) -> None:
        """Queue the halves of a population that the device has no memory for, each a population of its own, and ask for
        no such population again."""
        if entry.task.checkpoint is not None:
            Path(entry.task.checkpoint).unlink(missing_ok=True)
        halves = split_task(entry.task)
        self.asker.lower_limit(self._trial(entry.task.slots[0].trial), max(len(h.slots) for h in halves))
        for tag, half in zip("ab", halves, strict=True):
            for number in {s.trial for s in half.slots}:
                place = self._trial(number).user_attrs[POPULATION]
                if self._is_open(self._trial(number)):
                    self._set(number, POPULATION, {**place, "name": f"{entry.task.name}{tag}"})
            path = str(self.folder.checkpoint(f"{entry.task.name}{tag}"))
            task = replace(half, name=f"{entry.task.name}{tag}", checkpoint=path)
            self._queue.append(_Running(task, entry.generation))

    # ---- taking up what a dead driver left -----------------------------------------------------------------------

    def _lead(self) -> None:
        """Begin the study if nobody has, and take up what dead drivers left."""
        if self.tally.look().known == 0:
            self.asker.begin(self._first)
        self._adopt()

    def _adopt(self) -> None:
        """Queue the RUNNING trials of drivers that are gone: by population, with its finished trials where a checkpoint
        still holds their place; trials without a population were asked for but not labelled yet."""
        held = {s.trial for entry in (*self._running.values(), *self._queue) for s in entry.task.slots}
        alive = [d for d in self.drivers.alive() if not self.drivers.is_own(d)]
        lost = {t.number for t in self.tally.look().running if t.number not in held and not _has_owner(t, alive)}
        if not lost:
            return
        populations: dict[str, list[FrozenTrial]] = defaultdict(list)
        unlabelled = []
        for t in self._all():
            record = t.user_attrs.get(POPULATION)
            if record is not None:
                populations[record["name"]].append(t)
            elif t.number in lost:
                unlabelled.append(t)
        for name, trials in populations.items():
            orphans = [t for t in trials if t.number in lost]
            if orphans:
                kept = trials if self.folder.checkpoint(name).exists() else orphans
                self._readopt(kept)
        generation = self.asker.generation()
        labelled = [self.asker.label(t.number, generation) for t in unlabelled]
        for t in labelled:
            if t.state == TrialState.RUNNING:
                self._enqueue([t])

    def _readopt(self, trials: Sequence[FrozenTrial]) -> None:
        for t in trials:
            if t.state == TrialState.RUNNING:
                self._set(t.number, POPULATION, {**t.user_attrs[POPULATION], "owner": self.drivers.own})
        self._enqueue(trials)

    # ---- telling -------------------------------------------------------------------------------------------------

    def _tell(self, number: int, outcomes: Sequence[Outcome], expense: Mapping[str, float]) -> None:
        failure = next((o.failure for o in outcomes if o.failure is not None), None)
        if failure is not None:
            self._fail(number, failure)
            return
        self._set(number, RESULT, {**expense, "best_epochs": [o.best_epoch for o in outcomes]})
        if any(o.dropped for o in outcomes):
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            value = float(np.mean([o.value for o in outcomes]))
            known = expense["seconds"] if self.config.objective.cost == "seconds" else cost(self._trial(number))
            self.study.tell(number, [value] if known is None else [value, known])

    def _fail(self, number: int, reason: str) -> None:
        self._set(number, REASON, reason)
        self.study.tell(number, state=TrialState.FAIL)

    def _break_circuit(self) -> None:
        """Stop a study in which too large a share of the trials fails, with the reasons."""
        known = self.tally.look()
        if known.ended >= BREAKER_TRIALS and known.failed > self.config.max_failure_rate * known.ended:
            self.message = (
                f"stopped: {known.failed} of {known.ended} trials failed, more than max_failure_rate="
                f"{self.config.max_failure_rate:g}: {reasons(self._all())}"
            )
            self._draining = True

    # ---- helpers -------------------------------------------------------------------------------------------------

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> FrozenTrial:
        return by_number(self.study, number)

    def _set_cost(self, number: int, cost: float | None) -> None:
        """Keep a trial's cost, once: what it was pruned by is what it is told with."""
        if cost is not None and COST not in self._trial(number).user_attrs:
            self._set(number, COST, cost)

    def _set(self, number: int, key: str, value: object) -> None:
        Trial(self.study, self._trial(number)._trial_id).set_user_attr(key, value)

    def _is_open(self, trial: FrozenTrial) -> bool:
        """Tell whether a trial's outcome is still to be told, and by this driver."""
        record = trial.user_attrs.get(POPULATION)
        return not trial.state.is_finished() and record is not None and self.drivers.is_own(record["owner"])

    def _may_ask(self) -> bool:
        """Tell whether a population may be asked for: with several drivers that may do so at once, only the leading
        one asks for the last trials, and for the first.

        While there are enough for every driver to ask once, whoever has looked may ask, however long that takes. The
        leader asks for the last ones when no other has looked and not asked yet.
        """
        if self._spent():
            return False
        enough = self._trials_left() >= sum(int(d["asks"]) for d in self.drivers.alive())
        if self.drivers.leads:
            return enough or not self.drivers.is_another_asking()
        return enough and self.tally.look().known > 0

    def _trials_left(self) -> int:
        return self.config.budget.trials - self.tally.look().begun

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _save_seconds(self) -> None:
        self.study.set_user_attr(SECONDS, self._seconds())
        self.study.set_user_attr(OVERHEAD, self.spent)

    def _spent(self) -> bool:
        minutes = self.config.budget.minutes
        late = minutes is not None and self._seconds() >= 60 * minutes
        return self._trials_left() <= 0 or late or self.drivers.is_over()


def asked_at_once(size: int, deterministic: bool) -> int:
    """Return how many trials a driver may ask for at a time, in populations of ``size`` members."""
    return size * (GENERATION if deterministic else 1)


def _has_owner(trial: FrozenTrial, drivers: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether one of these drivers has a running trial; one without a place is between two of its writes."""
    record = trial.user_attrs.get(POPULATION)
    return bool(drivers) if record is None else any(same_process(record["owner"], d) for d in drivers)


def _by_trial(task: Task, values: Mapping[int, float]) -> dict[int, float]:
    """Return the mean over each trial's slots, for trials all of whose slots are still in training."""
    slots: dict[int, list[int]] = defaultdict(list)
    for k, slot in enumerate(task.slots):
        slots[slot.trial].append(k)
    return {n: float(np.mean([values[k] for k in ks])) for n, ks in slots.items() if all(k in values for k in ks)}
