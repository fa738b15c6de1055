"""A study from start to end: search, confirm, explain, report, export. Each stage goes on where it stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from mmsa_core.config import MemberConfig
from mmsa_core.data.dataset import Dataset, open_dataset
from mmsa_core.data.describe import describe
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.source import SPLITS
from mmsa_core.data.split import Split, videos
from mmsa_core.data.text import TextModel
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors
from mmsa_core.model import complete
from mmsa_core.population import stackable
from mmsa_core.tensors import own_device
from search import confirm, explain, export, fingerprints, holistic, interactions, opening, priors, warm_start
from search.bench import population_size
from search.configs import modules
from search.drivers import FOLDER_STORAGES
from search.engine import Engine, Placement
from search.explain.marginals import Trials
from search.explain.measure import Measure
from search.explain.stage import explained
from search.explain.switches import Switch, removals, switches
from search.judgement import judge
from search.ledger import Ledger, asked_at_once
from search.members import Candidate, drop_weights, load
from search.model_files import check_replaceable
from search.opening import Opening
from search.parts import TRAINING, Begin, Parts, unseen
from search.progress import TextProgress, over_budget
from search.race import Race, Rounds, at_once, lean
from search.report.build import write_report
from search.run_folder import RunFolder
from search.session import Session
from search.space import Space
from search.study import StudyConfig
from search.trials import (
    STAGE,
    FirstTrial,
    baseline_trial,
    best_trial,
    configuration,
    is_added,
    is_outside,
    leaders,
    open_study,
    read_study,
    reasons,
    summary,
)

OnStatus = Callable[[Mapping[str, Any]], None]


class NothingFinishedError(Exception):
    """No trial of the study is complete."""


class InterruptedStudyError(Exception):
    """The study was stopped before its end; running it again goes on."""


@dataclass(frozen=True)
class Opened:
    """A study ready to work on: its settings with everything ``auto`` decided, its data without the test split."""

    config: StudyConfig
    space: Space
    folder: RunFolder
    data: Dataset
    scaler: Scaler
    train: Split
    valid: Split

    @cached_property
    def study(self) -> optuna.Study:
        """The study, opened once: a long one's journal takes seconds to read."""
        return open_study(self.config, self.folder)

    @property
    def extra(self) -> dict[str, Any]:
        """What every configuration of the space gets besides: the epochs of the last rung."""
        return {"epochs": self.config.rungs.epochs[-1]}

    def sampled(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """Return the configuration that a trial stands for."""
        return configuration(trial, self.space, self.config.rungs.epochs[-1])

    def size(self, trials: int | None = None) -> int:
        """Return the members of a population, measured on this machine where the study says ``auto``.

        With ``trials`` it is small enough for that many trials to see many structures.
        """
        device = own_device()
        torch.set_num_threads(1)
        arms = ({**tree, **self.extra} for tree in (self.space.baseline()[0], *self.space.arms()))
        completed = (complete(MemberConfig.from_dict(arm)) for arm in arms)
        baseline = next((config for config in completed if stackable(config)), None)
        if baseline is None:
            return 1
        tensors = SplitTensors(self.train, device), SplitTensors(self.valid, device)
        return population_size(self.config.population, baseline, *tensors, trials or sys.maxsize)

    def test(self) -> Split:
        """Return the scaled test split: only confirmation's last step and ``evaluate`` may call this."""
        return self.scaler.apply(self.data.split("test"))


def open_new(config: StudyConfig, source: Path, out: Path, dry: bool = False) -> Opened:
    """Check a study against its data, and (unless ``dry``) start or take up its run folder.

    Raises:
        UserError: anything that would stop the study later: data, space, plug-ins, folder.
    """
    if config.data.path is None:
        raise UserError(f"{source}: data.path is missing; write it there or give --data PATH")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file where the run folder should be; move it, or give --out")
    folder = RunFolder(out)
    # absolute, so that later stages find the data from any folder
    places = {key: _absolute(getattr(config.data, key)) for key in ("path", "text_model")}
    config = config.model_copy(update={"data": config.data.model_copy(update=places)})
    config = warm_start.with_leaders(config, folder)
    opened = _open(config, folder)
    check_space(opened)
    warm_start.first_trials(opened.config, opened.space)  # refused here, if at all
    if opened.config.priors == "interactions":
        priors.check(opened.train)
    if dry:
        return opened
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = {
        "data_fingerprint": opened.data.fingerprint(),
        "data_path": config.data.path,
        "splits": {name: _size(opened.data.ids(name)) for name in SPLITS},
        "text_model": export.made_by(opened.data),
        "device": device,
    }
    if opened.config.storage not in FOLDER_STORAGES and not (out / "resolved.yaml").exists():
        own = fingerprints.of_run(opened.config, facts, out)
        fingerprints.check(open_study(opened.config, folder), own)  # while there is no run folder yet
    folder.start(opened.config, source, facts)
    return opened


def _size(ids: Sequence[str]) -> dict[str, int]:
    return {"rows": len(ids), "videos": len(np.unique(videos(ids)))}


def _absolute(path: str | None) -> str | None:
    """Return a path that exists so that it holds in any folder; a text model may be a name instead."""
    return str(Path(path).resolve()) if path is not None and Path(path).exists() else path


def open_run(path: Path, overrides: Sequence[str] = ()) -> Opened:
    """Open a run folder to do its later stages again, with other settings.

    Raises:
        UserError: this is no run folder, its data has changed, or its study is of other data or settings.
    """
    return _open_again(RunFolder(path), overrides)


@contextmanager
def hold_run(path: Path, overrides: Sequence[str] = ()) -> Iterator[Opened]:
    """Open a run folder as :func:`open_run` does, and keep other processes out of it until the end.

    Raises:
        UserError: also where another process is at work there, or it cannot be written.
    """
    folder = RunFolder(path)
    with folder.held():
        yield _open_again(folder, overrides)


def _open_again(folder: RunFolder, overrides: Sequence[str]) -> Opened:
    opened = _open(folder.config(overrides), folder)
    fingerprint = opened.data.fingerprint()
    if folder.facts()["data_fingerprint"] != fingerprint:
        raise UserError(f"{opened.data.path}: the data has changed since the run (fingerprint now {fingerprint})")
    fingerprints.check_folder(read_study(opened.config, folder), opened.config, folder)
    return opened


def check_deterministic(config: StudyConfig) -> None:
    """Refuse what makes trials depend on the machine's speed.

    Raises:
        UserError: the population's size or the cost is measured, or the pruner reads what other populations report
            meanwhile.
    """
    if config.pruner not in ("rungs", "median", "none"):
        raise UserError(
            f"pruner: {config.pruner} depends on the workers' speed and cannot be --deterministic; "
            "take rungs, median or none"
        )
    if config.objective.cost in ("latency", "seconds"):
        raise UserError(
            f"objective.cost: {config.objective.cost} is a measurement of this machine and cannot be "
            "--deterministic; take parameters"
        )
    if config.population == "auto":
        raise UserError("--deterministic: population: auto is a measurement of this machine; write a number, e.g. 8")


def check_space(opened: Opened) -> None:
    """Build every arm of the space and the baseline once, so that a plug-in or parameter that does not exist is found
    before training.

    Raises:
        UserError: the first configuration that cannot be built.
    """
    tensors = SplitTensors(opened.train, torch.device("cpu"))
    for config in opened.space.arms():
        export.build_check(complete(MemberConfig.from_dict({**config, **opened.extra}, opened.space.source)), tensors)
    named = opened.config.named_baseline()
    if named is not None:
        with _said_of("baseline"):
            export.build_check(named, tensors)


def run(opened: Opened, deterministic: bool, on_status: OnStatus) -> dict[str, Any]:
    """Run all stages and return the confirmation's record; the run folder is let go at the end.

    Raises:
        HandedOverError: another driver that shares the study does what follows the search, or has done it.
        InterruptedStudyError: stopped by a signal; nothing is lost.
        NothingFinishedError: no trial is complete.
        UserError: the study cannot be deterministic, or holds trials of other data, space or settings.
    """
    placement = Placement.of(opened.config.resources)
    held, session = opened.folder.held(), Session(opened.config, opened.folder)
    with held, session, Engine(placement, on_status) as engine:
        if deterministic:
            check_deterministic(opened.config)
        message = search(opened, engine, deterministic, session)
        record = _confirm_and_explain(opened, engine, session.check_lead)
        session.finish()
    return {**record, "message": "; ".join(filter(None, (message, record.get("message"))))}


def after_search(opened: Opened, on_status: OnStatus) -> dict[str, Any]:
    """Do all that comes after the search again; what is trained already is not trained again.

    Raises:
        UserError: another process is at work in the run folder.
    """
    with opened.folder.held(), Engine(Placement.of(opened.config.resources), on_status) as engine:
        return _confirm_and_explain(opened, engine)


def _confirm_and_explain(
    opened: Opened, engine: Engine, check_lead: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Do what follows the search, part by part; ``check_lead`` refuses to go on where another driver has taken over."""
    check_replaceable(opened.folder.path / "best")
    size, parts = opened.size(), Parts(engine.on_status, lambda: engine.interrupted)

    def begin(stage: str, part: str) -> None:
        _stop_if_interrupted(engine)
        check_lead()
        opened.study.set_user_attr(STAGE, f"{stage}: {part}")
        parts.begin(stage, part)

    with parts.watched():
        record = confirm_stage(opened, engine, size, begin)
        explain_stage(opened, engine, size, record, begin)
        begin("export", "model")
        export.write_model(opened, record)
        if opened.config.keep_weights == "winner":
            known = opened.study.get_trials(deepcopy=False)
            finalists = [_candidate(opened, known[record[role]]) for role in ("winner", "baseline")]
            drop_weights(opened.folder.path / "confirm", finalists)
        begin("report", "page and tables")
        write_report(opened.folder.path, opened.config.storage)
    return record


def search(opened: Opened, engine: Engine, deterministic: bool, session: Session | None = None) -> str:
    """Spend what is left of the study's budget, as one of the study's drivers where there is a ``session``."""
    config, study = opened.config, opened.study
    before = summary(study, config, running=False, trials=False)
    message = over_budget(before)
    if before["state"] != "finished":
        size = opened.size(config.budget.trials)
        first = [] if study.get_trials(deepcopy=False) else first_trials(opened)
        driver = None if session is None else session.driver(asked_at_once(size, deterministic))
        make = partial(Ledger, config, opened.space, opened.folder, size, deterministic, first, driver)
        message = str(engine.run(make, (opened.train, opened.valid))["message"])
    if session is not None:
        session.lead_or_hand_over(lambda: engine.interrupted)
    if best_trial(study) is None and not engine.interrupted:
        why = reasons(study.get_trials(deepcopy=False))
        raise NothingFinishedError(f"no trial finished{': ' + why if why else ''}")
    _stop_if_interrupted(engine)
    return message


def first_trials(opened: Opened) -> list[FirstTrial]:
    """Return what a new study tries right after the baseline: the leaders of other runs, then what the interactions of
    the training split advise."""
    config = opened.config
    data = opened.data.fingerprint() if config.warm_start else None
    found = warm_start.first_trials(config, opened.space, data)
    if config.priors == "interactions":
        found += priors.first_trials(opened.space, priors.advice(opened.train), config.budget.trials)
    return found


def confirm_stage(opened: Opened, engine: Engine, size: int, begin: Begin = unseen) -> dict[str, Any]:
    """Train leaders and baseline on fresh seeds, choose the winner, and open the test split for it if it is new.

    An opening that was interrupted is finished as it was frozen, unless the settings now ask for another one. The
    record has a ``message`` where that is to be told.
    """
    config, folder, study = opened.config, opened.folder.path / "confirm", opened.study
    begin("confirm", "leaders")
    first, data = baseline_trial(study), opened.data.fingerprint()
    numbers = {t.number: _candidate(opened, t) for t in [first, *leaders(study, config.seeds.leaders)]}
    seeds, objective = tuple(confirm.confirm_seeds(config)), config.objective
    race = Race(numbers, first.number, seeds, folder, objective.metric, objective.decided, opened.valid.labels)
    asked = opening.asked_for(race, config.winner, data)
    begin("confirm", TRAINING)
    known, frozen = confirm.read_record(folder), opening.read_opening(folder)
    if frozen is not None and frozen.asked == asked and not frozen.is_finished(known):
        _train_finalists(opened, engine, size, race, frozen.record)
        message = "the opening of the test split that was interrupted is finished; it counts once"
    else:
        record = _judged(opened, engine, size, race)
        inputs, whole = opening.inputs_of(record, data), frozen is None or frozen.is_finished(known)
        if known is not None and whole and inputs == opening.inputs_of(known, data):
            return known
        lost = frozen is not None and not whole and frozen.inputs != inputs and frozen.is_counted(study)
        message = "an opening of the test split with other settings was interrupted and stays counted" if lost else ""
        frozen = opening.freeze(folder, asked, record)
    begin("confirm", "test split")
    record = _open_test(opened, race, study, frozen)
    return {**record, "message": message} if message else record


def _judged(opened: Opened, engine: Engine, size: int, race: Race) -> dict[str, Any]:
    """Run a race and return its judgement, whose winner and baseline have their weights."""
    rounds = race.rounds if opened.config.keep_weights == "all" else partial(lean, race.rounds, race.folder)
    _train(opened, engine, size, rounds, "confirm", "kept")
    record = judge(opened.config, race, opened.valid)
    asked: set[int] = set()
    while not (finalists := {record["winner"], record["baseline"]}) <= asked:
        asked |= finalists
        if _train_finalists(opened, engine, size, race, record):
            record = judge(opened.config, race, opened.valid)  # what is trained again may differ in its last digits
    return record


def _train_finalists(opened: Opened, engine: Engine, size: int, race: Race, record: Mapping[str, Any]) -> bool:
    """Train the members of winner and baseline that have lost their weights; tell whether there were any."""
    both = [race.candidates[n] for n in sorted({record["winner"], record["baseline"]})]
    return _train(opened, engine, size, partial(at_once, both, race.seeds), "confirm", "needed")


def _open_test(opened: Opened, race: Race, study: optuna.Study, frozen: Opening) -> dict[str, Any]:
    """Open the test split as it was frozen and write what it shows, ``confirm.json`` last."""
    test, folder, candidates = opened.test(), race.folder, race.candidates
    record = opening.open_test(frozen, candidates, study, folder, opened.valid, test)
    holistic.write(folder, holistic.build(record, candidates, folder, (opened.train, opened.valid, test)))
    confirm.write_record(folder, record)
    return record


def explain_stage(
    opened: Opened, engine: Engine, size: int, record: Mapping[str, Any], begin: Begin = unseen
) -> dict[str, Any]:
    """Measure what each module of the winner does, with the confirmation's seeds, and say what the trials suggest."""
    folder, config, study = opened.folder.path / "confirm", opened.config, opened.study
    known = study.get_trials(deepcopy=False)
    baseline, winner = known[record["baseline"]], known[record["winner"]]
    trials = Trials([t for t in known if not is_added(t)], opened.space, config.rungs.epochs[-1])
    found = explained(
        study,
        trials,
        Measure(config, folder, opened.valid),
        _candidate(opened, baseline),
        _candidate(opened, winner),
        _switches(opened, winner),
        trials.names(winner),
        lambda some: train_candidates(opened, engine, size, some, confirm.effect_seeds(config), "explain"),
        begin,
    )
    explanation = {**found, "inputs": record.get("inputs")}
    explain.write_explanation(folder, explanation)
    begin("explain", "information")
    _write_information(opened, _candidate(opened, winner), record)
    return explanation


def _write_information(opened: Opened, winner: Candidate, record: Mapping[str, Any]) -> None:
    """Write what the data say of the label and what the winner makes of it."""
    folder = opened.folder.path / "confirm"
    prediction = load(folder, winner, record["seeds"], states=False).predictions.mean(0)
    interactions.write(folder, opened.train, opened.valid, prediction, record.get("inputs"))


def _switches(opened: Opened, winner: optuna.trial.FrozenTrial) -> list[Switch]:
    if is_outside(winner):
        return removals(opened.sampled(winner))
    named = opened.config.named_baseline()
    baseline = None if named is None else modules(named.to_dict())
    return switches(opened.space, winner.params, opened.extra, baseline)


def train_candidates(
    opened: Opened,
    engine: Engine,
    size: int,
    candidates: Sequence[Candidate],
    seeds: Sequence[int],
    label: str,
) -> None:
    """Train every candidate on ``seeds``, for their predictions; what is filed already is not trained again."""
    weights: confirm.Weights = "kept" if opened.config.keep_weights == "all" else "dropped"
    _train(opened, engine, size, partial(at_once, candidates, seeds), label, weights)


def _train(opened: Opened, engine: Engine, size: int, rounds: Rounds, label: str, weights: confirm.Weights) -> bool:
    """Train what a plan's rounds ask for; tell whether that was anything."""
    folder = opened.folder.path / "confirm"
    make = partial(confirm.ConfirmPlan, rounds, folder, size, opened.config, label, weights)
    pending = make().pending()
    if pending:
        engine.run(make, (opened.train, opened.valid))
    _stop_if_interrupted(engine)
    return pending


def _open(config: StudyConfig, folder: RunFolder) -> Opened:
    assert config.data.path is not None
    own = config.data
    model = None if own.text_model is None else TextModel(own.text_model, own.text_pooling, own.text_layer)
    with TextProgress() as progress:
        data = open_dataset(config.data.path, own.modalities, own.nonfinite, model, progress)
    data.check()
    train, valid = data.split("train"), data.split("valid")
    scaler = Scaler.fit(train)
    update: dict[str, Any] = {"data": config.data.model_copy(update={"modalities": data.modalities})}
    if config.objective.convention == "auto":
        guess = describe(data)["convention"]
        update["objective"] = config.objective.model_copy(update={"convention": guess})
    config = config.model_copy(update=update)
    named = config.named_baseline()
    if named is not None:
        with _said_of("baseline"):
            config = config.model_copy(update={"baseline": complete(named).to_dict()})
    return Opened(config, config.search_space(), folder, data, scaler, scaler.apply(train), scaler.apply(valid))


def _candidate(opened: Opened, trial: optuna.trial.FrozenTrial) -> Candidate:
    return Candidate(f"trial {trial.number}", opened.sampled(trial))


@contextmanager
def _said_of(part: str) -> Iterator[None]:
    """Say of a user's mistake in which part of the study it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{part}: {error}") from None


def _stop_if_interrupted(engine: Engine) -> None:
    if engine.interrupted:
        raise InterruptedStudyError
