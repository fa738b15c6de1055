"""What earlier studies know: the leaders of other runs, tried first in this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmsa_core.config import MemberConfig
from mmsa_core.errors import UserError
from mmsa_core.model import complete
from search import configs, fingerprints
from search.confirm import read_record
from search.nearest import nearest_point, untaken
from search.run_folder import RunFolder
from search.space import Space
from search.study import LeaderConfig, StudyConfig, WarmStartConfig
from search.trials import WARM_START, FirstTrial, configuration, leaders, read_study

PER_RUN = 5
"""Leaders taken of a run, at most."""
SHARE = 4
"""At most one part in this many of the budget goes to warm starts."""


def with_leaders(config: StudyConfig, folder: RunFolder) -> StudyConfig:
    """Return the study with the leaders of its runs written into it, so that it does not need the other folders later.

    A run that is taken up again keeps those that it started with.

    Raises:
        UserError: one of the runs is no run folder, or none of its trials is complete.
    """
    runs = [w.model_copy(update={"run": str(Path(w.run).resolve())}) for w in config.warm_start]
    known: list[WarmStartConfig] = []
    if runs and (folder.path / "resolved.yaml").exists():
        known = [*folder.config(storage=config.storage).warm_start]
    if [w.run for w in known] == [w.run for w in runs]:
        runs = known
    return config.model_copy(update={"warm_start": tuple(w if w.leaders is not None else _filled(w) for w in runs)})


def _filled(run: WarmStartConfig) -> WarmStartConfig:
    """Return a run with its leaders and its data's fingerprint."""
    folder = RunFolder(Path(run.run))
    leaders = leaders_of(folder.path)
    data = fingerprints.of_folder(folder.config(), folder)["parts"].get("data")
    return run.model_copy(update={"leaders": leaders, "data": data})


def leaders_of(run: Path) -> tuple[LeaderConfig, ...]:
    """Return a run's leaders: the confirmed ones first, best first, then its best complete trials.

    Raises:
        UserError: it is no run folder, not of its study, or none of its trials is complete.
    """
    folder = RunFolder(run)
    try:
        config = folder.config()
        study, space, record = read_study(config, folder), config.search_space(), read_record(run / "confirm")
        fingerprints.check_folder(study, config, folder)
    except UserError as error:
        raise UserError(f"warm_start: {error}") from None
    confirmed: list[int] = []
    if record is not None:
        table = sorted(record["candidates"], key=lambda c: c.get("dropped_after") is not None)
        confirmed = [c["trial"] for c in table if c["trial"] == record["winner"] or c["trial"] != record["baseline"]]
    found = dict.fromkeys([*confirmed, *(t.number for t in leaders(study, PER_RUN))])
    if not found:
        raise UserError(
            f"warm_start: {run}: none of its trials is complete, the baseline left out; run it first, or leave it out"
        )
    trials, epochs = study.get_trials(deepcopy=False), config.rungs.epochs[-1]
    return tuple(
        LeaderConfig(
            trial=number,
            confirmed=number in confirmed,
            config=complete(MemberConfig.from_dict(configuration(trials[number], space, epochs))).to_dict(),
        )
        for number in [*found][:PER_RUN]
    )


def first_trials(config: StudyConfig, space: Space, data: str | None = None) -> list[FirstTrial]:
    """Return the points of ``space`` nearest to the leaders, the best of every run first, for at most a quarter of the
    budget; ``data`` is the fingerprint of the study's own, and notes say which leaders are of other data.

    Raises:
        UserError: a leader has none of the study's modalities.
    """
    return [*_points(config, space, data)][: config.budget.trials // SHARE]


def _points(config: StudyConfig, space: Space, data: str | None) -> Iterator[FirstTrial]:
    for place in range(PER_RUN):
        for run in config.warm_start:
            for leader in (run.leaders or ())[place : place + 1]:
                name = f"{Path(run.run).name}, trial {leader.trial}"
                other = ", of other data" if None not in (data, run.data) and data != run.data else ""
                yield _point(name, other, leader, config, space)


def _point(name: str, other: str, leader: LeaderConfig, config: StudyConfig, space: Space) -> FirstTrial:
    whole = MemberConfig.from_dict(leader.config, f"warm_start: {name}")
    if config.data.modalities is not None:
        whole = configs.for_modalities(whole, config.data.modalities, f"warm_start: {name}")
    own = complete(whole).to_dict()
    params = nearest_point(space, own)
    missed, settings = untaken(own, complete(MemberConfig.from_dict(space.config(params))).to_dict())
    taken = "all of its settings" if missed == 0 else f"{settings - missed} of its {settings} settings"
    return FirstTrial(params, WARM_START, f"{name}{' (confirmed)' if leader.confirmed else ''}{other}: {taken} taken")
