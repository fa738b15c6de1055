"""The study file, checked: data, objective, budget, seeds, rungs, space, baseline, storage, resources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mmsa_core.config import MODALITIES, MemberConfig
from mmsa_core.errors import UserError, nearest
from mmsa_core.metrics import DIRECTIONS, METRICS, Convention
from search import configs
from search.overrides import assign, parse_override, plain
from search.refusals import sentence
from search.space import Space
from search.yaml_io import read_yaml

T = TypeVar("T")
ONE_OBJECTIVE = {"cmaes", "median", "hyperband", "successive_halving"}
"""Samplers and pruners that cannot weigh a metric against a cost."""
SCHEMES = ("journal", "sqlite", "postgresql", "mysql", "mariadb", "grpc")


def _auto_or_number(kind: type[int] | type[float], least: float) -> BeforeValidator:
    """Accept ``auto`` or a number of at least ``least``, with one sentence where pydantic's union gives two."""

    def check(value: object) -> object:
        number = isinstance(value, int | kind) and not isinstance(value, bool)
        if value != "auto" and not (number and least <= value < float("inf")):  # type: ignore[operator]  # a number
            what = "whole number" if kind is int else "number"
            raise ValueError(f"must be 'auto' or a {what} of at least {least:g}")
        return value

    return BeforeValidator(check)


AutoCount = Annotated[Literal["auto"] | int, _auto_or_number(int, 1)]
AutoShare = Annotated[Literal["auto"] | float, _auto_or_number(float, 0)]
Positive = Annotated[int, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataConfig(_Part):
    """Which file, which modalities (None: all that it has), and what to do with values that are not finite.

    With ``text_model`` (a hub name, a folder or an installed package) the text features are that model's, made of
    ``raw_text`` once before the first trial: ``text_pooling`` of the hidden states of ``text_layer``.
    """

    path: str | None = None
    modalities: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    nonfinite: Literal["refuse", "zero"] = "refuse"
    text_model: str | None = None
    text_pooling: Literal["cls", "mean", "tokens"] = "mean"
    text_layer: int = -1

    @field_validator("modalities", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"must be a list of one or more of {', '.join(MODALITIES)}")
        for name in value:
            if name not in MODALITIES:
                raise ValueError(f"there is no modality {name!r}{nearest(str(name), MODALITIES)}")
        if len(set(value)) < len(value):
            raise ValueError("every modality must be there once")
        return tuple(m for m in MODALITIES if m in value)


class ObjectiveConfig(_Part):
    """The metric that a trial is judged by on the valid split; ``auto`` takes the convention from the labels' range.

    With ``cost`` a trial is also judged by what it costs: the numbers it trains (``parameters``), milliseconds per
    utterance on the worker's device, ``latency_batch`` utterances at a time (``latency``), or its share of the
    ``seconds`` of its population's training.
    """

    metric: str = "mae"
    direction: Literal["minimize", "maximize"] = "minimize"
    convention: Literal["mosi", "sims", "auto"] = "auto"
    cost: Literal["parameters", "latency", "seconds"] | None = None
    latency_batch: Positive = 1

    @property
    def directions(self) -> dict[str, Literal["minimize", "maximize"]]:
        """The directions of the study's objectives by name: the metric's, and that of the cost where there is one."""
        return {self.metric: self.direction, **({} if self.cost is None else {self.cost: "minimize"})}

    @property
    def decided(self) -> Convention:
        """The convention of a study that was opened with its data: ``auto`` is decided then."""
        assert self.convention != "auto", "the convention is decided when the data is opened"
        return self.convention

    @model_validator(mode="before")
    @classmethod
    def _direction(cls, data: object) -> object:
        if isinstance(data, Mapping) and "direction" not in data:
            metric = data.get("metric", "mae")
            return {**data, "direction": DIRECTIONS.get(metric, "minimize") if isinstance(metric, str) else "minimize"}
        return data

    @model_validator(mode="after")
    def _fits(self) -> ObjectiveConfig:
        known = DIRECTIONS if self.convention == "auto" else METRICS[self.convention]
        if self.metric not in known:
            raise ValueError(f"{self.convention} has no metric {self.metric!r}{nearest(self.metric, known)}")
        if self.direction != DIRECTIONS[self.metric]:
            raise ValueError(f"{self.metric} is to {DIRECTIONS[self.metric]}; leave direction out")
        if self.latency_batch != 1 and self.cost != "latency":
            raise ValueError("latency_batch is a setting of cost: latency; leave it out, or take that cost")
        return self


class BudgetConfig(_Part):
    """Totals of the study, not of a call: trials, and minutes of training where not None."""

    trials: Positive
    minutes: Annotated[float, Field(gt=0)] | None = None


class SeedsConfig(_Part):
    """Seeds per trial, fresh seeds that the ``leaders`` and the baseline race over, how many of these the effects of
    modules are measured with, and the number all seeds start from."""

    search: Positive = 1
    confirm: Annotated[int, Field(ge=2)] = 20
    effects: Annotated[int, Field(ge=2)] = 10
    leaders: Positive = 6
    base: Annotated[int, Field(ge=0)] = 0


class RungsConfig(_Part):
    """The epochs at which weak members are dropped and populations saved (the last ends a trial), and the share that
    is kept."""

    epochs: Annotated[tuple[Positive, ...], Field(strict=False)] = (2, 4, 8, 16, 32)
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @field_validator("epochs", mode="before")
    @classmethod
    def _increasing(cls, value: object) -> object:
        whole = isinstance(value, list | tuple) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        if not whole or not value or [*value] != sorted({*value}) or value[0] < 1:  # type: ignore[index,misc]
            raise ValueError("must be increasing whole numbers from 1 on, e.g. [2, 4, 8]")
        return value


class ResourcesConfig(_Part):
    """CPUs and GPUs (a share is allowed) of one population, and how many populations run side by side."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: AutoShare = "auto"
    workers: AutoCount = "auto"


class LeaderConfig(_Part):
    """A leader of another run: its trial there, whether it was confirmed, and its configuration, complete."""

    trial: Annotated[int, Field(ge=0)]
    confirmed: bool
    config: dict[str, Any]


class WarmStartConfig(_Part):
    """A run folder whose leaders are tried first, and the fingerprint of its data; both are read when the study starts
    and kept with it."""

    run: str
    data: str | None = None
    leaders: Annotated[tuple[LeaderConfig, ...], Field(strict=False)] | None = None


class StudyConfig(_Part):
    """A study: what is locked beside its results. ``baseline`` is trial 0 in place of the space's defaults, the leaders
    of the runs in ``warm_start`` and what ``priors`` advise come next, and ``winner`` is the rule by which one
    confirmed candidate is taken: best end of the interval, best mean, or cheapest of the best. Of confirmed members
    all predictions are kept, and by ``keep_weights`` the weights of the winner and the baseline, or of all. Weak trials
    are ended early where ``rungs`` or ``pruner`` are given: without, as much time found better configurations
    (reports/benchmarks/quality.md)."""

    study: str
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    budget: BudgetConfig
    seeds: SeedsConfig = SeedsConfig()
    rungs: RungsConfig = RungsConfig()
    population: AutoCount = "auto"
    space: str | dict[str, Any]
    baseline: str | dict[str, Any] | None = None
    warm_start: Annotated[tuple[WarmStartConfig, ...], Field(strict=False)] = ()
    priors: Literal["none", "interactions"] = "none"
    sampler: Literal["tpe", "random", "gp", "cmaes", "nsga2"] = "tpe"
    pruner: Literal["rungs", "median", "hyperband", "successive_halving", "none"] = "none"
    winner: Literal["bound", "mean", "cheapest"] = "bound"
    storage: str = "journal"
    resources: ResourcesConfig = ResourcesConfig()
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.5
    keep_weights: Literal["winner", "all"] = "winner"

    @model_validator(mode="before")
    @classmethod
    def _rungs_are_for_pruning(cls, value: object) -> object:
        return {"pruner": "rungs", **value} if isinstance(value, Mapping) and "rungs" in value else value

    @field_validator("study")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("must be of letters, digits, '.', '_' and '-', and start with a letter or digit")
        return value

    @field_validator("objective", mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"metric": value} if isinstance(value, str) else value

    @field_validator("space", "baseline", mode="before")
    @classmethod
    def _named(cls, value: object, info: ValidationInfo) -> object:
        absent = value is None and info.field_name == "baseline"
        if not absent and not isinstance(value, str | Mapping):
            raise ValueError("must be a shipped name, a path, or a mapping")
        return value

    @field_validator("warm_start", mode="before")
    @classmethod
    def _runs(cls, value: object) -> object:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str | Mapping) for v in value):
            raise ValueError("must be a list of run folders, e.g. [runs/other]")
        return [{"run": v} if isinstance(v, str) else v for v in value]

    @field_validator("sampler", "pruner")
    @classmethod
    def _weighs(cls, value: str, info: ValidationInfo) -> str:
        objective = info.data.get("objective")
        if objective is not None and objective.cost is not None and value in ONE_OBJECTIVE:
            others = "random, tpe, gp or nsga2" if info.field_name == "sampler" else "rungs or none"
            raise ValueError(f"{value} knows one objective and the study has a cost; take {others}, or no cost")
        return value

    @field_validator("storage")
    @classmethod
    def _storage(cls, value: str) -> str:
        scheme, colon, _ = value.partition("://")
        if value not in ("journal", "sqlite") and (not colon or scheme.split("+")[0] not in SCHEMES):
            raise ValueError(f"must be journal, sqlite or a URL of {', '.join(f'{s}://' for s in SCHEMES)}")
        return value

    @staticmethod
    def load(path: str | Path, overrides: Iterable[str] = (), data: str | None = None) -> StudyConfig:
        """Read a study file with ``key=value`` overrides; ``space.<path>=value`` reaches into the space and
        ``baseline.<path>=value`` into the baseline.

        Relative paths of data, space, baseline and warm_start are taken from the current folder or else from the study
        file's.

        Raises:
            UserError: one sentence with file, key, value, rule and fix.
        """
        tree, written = read_yaml(path), {}
        into: dict[str, list[tuple[str, Any]]] = {"space": [], "baseline": []}
        for key, value in map(parse_override, overrides):
            part, _, below = key.partition(".")
            if part in into and below:
                into[part].append((below, value))
            else:
                assign(tree, key, value, {"objective": "metric"})
                written[key] = f"override {key}"
        if data is not None:
            assign(tree, "data.path", data, {})
        config = StudyConfig.check(tree, str(path), written)
        return config._located(Path(path).parent, str(path), into)

    @staticmethod
    def check(tree: Mapping[str, Any], source: str = "study", written: Mapping[str, str] | None = None) -> StudyConfig:
        """Check plain data (e.g. of a ``resolved.yaml``); ``written`` names the origin of keys from elsewhere.

        Raises:
            UserError: one sentence with file, key, value, rule and fix.
        """
        try:
            return StudyConfig.model_validate(plain(tree))
        except ValidationError as error:
            raise sentence(error, StudyConfig, source, written or {}) from None

    def search_space(self) -> Space:
        """Return the space, restricted to ``data.modalities`` where given.

        Raises:
            UserError: there is no such space, or it is refused.
        """
        space = (
            Space.load(self.space) if isinstance(self.space, str) else Space.parse(self.space, f"{self.study}: space")
        )
        return space if self.data.modalities is None else space.restrict(self.data.modalities)

    def named_baseline(self) -> MemberConfig | None:
        """Return the configuration that trial 0 is, for ``data.modalities`` and with the last rung's epochs as every
        trial; None where it is the space's defaults.

        Raises:
            UserError: there is no such configuration, or it is refused.
        """
        config = _read_baseline(self.baseline)
        if config is None:
            return None
        if self.data.modalities is not None:
            config = configs.for_modalities(config, self.data.modalities, "baseline")
        return replace(config, epochs=self.rungs.epochs[-1])

    def resolved(self) -> dict[str, Any]:
        """Return plain data with every default filled in, space and baseline written out; :meth:`check` reads it
        back."""
        space = Space.load(self.space).tree if isinstance(self.space, str) else self.space
        data: dict[str, Any] = plain({**self.model_dump(), "space": space, "baseline": _written(self.named_baseline())})
        return data

    def _located(self, folder: Path, source: str, into: Mapping[str, list[tuple[str, Any]]]) -> StudyConfig:
        """Resolve paths against the study's folder, and check space and baseline with their overrides."""
        places = {key: _beside(getattr(self.data, key), folder) for key in ("path", "text_model")}
        data = self.data.model_copy(update=places)
        runs = tuple(w.model_copy(update={"run": _beside(w.run, folder)}) for w in self.warm_start)
        place = _beside(self.space, folder)
        try:
            space = Space.load(place) if isinstance(place, str) else Space.parse(place, "space")
            for key, value in into["space"]:
                space, place = (changed := space.override(key, value)), dict(changed.tree)
            if data.modalities is not None:
                space.restrict(data.modalities)
            baseline = self._changed_baseline(folder, into["baseline"])
            found = self.model_copy(update={"data": data, "space": place, "baseline": baseline, "warm_start": runs})
            return found.model_copy(update={"baseline": _written(found.named_baseline())})
        except UserError as error:
            raise UserError(f"{source}: {error}") from None

    def _changed_baseline(self, folder: Path, overrides: list[tuple[str, Any]]) -> dict[str, Any] | None:
        """Return the baseline written out, with its overrides."""
        config = _read_baseline(_beside(self.baseline, folder))
        if config is None and overrides:
            raise UserError(
                f"override baseline.{overrides[0][0]}: the study names no baseline; add one, e.g. baseline=self_mm"
            )
        return None if config is None else configs.changed(config, overrides).to_dict()


def _read_baseline(given: str | dict[str, Any] | None) -> MemberConfig | None:
    if given is None:
        return None
    return configs.read_config(given) if isinstance(given, str) else MemberConfig.from_dict(given, "baseline")


def _written(config: MemberConfig | None) -> dict[str, Any] | None:
    return None if config is None else config.to_dict()


def _beside(path: T, folder: Path) -> T | str:
    """Return the path in the study's folder where it exists only there; what is no path stays as it is."""
    if isinstance(path, str) and not _exists(Path(path)) and _exists(folder / path):
        return str(folder / path)
    return path


def _exists(path: Path) -> bool:
    """Tell whether a path exists; one that the file system refuses, as it is too long, does not."""
    try:
        return path.exists()
    except OSError:
        return False
