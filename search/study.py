"""The study file, checked: data, objective, budget, seeds, rungs, space, storage, resources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmsa_core.config import MODALITIES
from mmsa_core.errors import UserError, nearest
from mmsa_core.metrics import DIRECTIONS, METRICS, Convention
from search.overrides import parse_override, plain
from search.refusals import sentence
from search.space import Space
from search.yaml_io import read_yaml, shown

SCHEMES = ("sqlite", "postgresql", "mysql", "mariadb", "grpc")


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
    """Which file, which modalities (None: all that it has), and what to do with values that are not finite."""

    path: str | None = None
    modalities: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    nonfinite: Literal["refuse", "zero"] = "refuse"

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
    """The metric that a trial is judged by on the valid split; ``auto`` takes the convention from the labels' range."""

    metric: str = "mae"
    direction: Literal["minimize", "maximize"] = "minimize"
    convention: Literal["mosi", "sims", "auto"] = "auto"

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
        return self


class BudgetConfig(_Part):
    """Totals of the study, not of a call: trials, and minutes of training where not None."""

    trials: Positive
    minutes: Annotated[float, Field(gt=0)] | None = None


class SeedsConfig(_Part):
    """Seeds per trial, fresh seeds to confirm each of the ``leaders`` with, how many of these the effects of modules
    are measured with, and the number all seeds start from."""

    search: Positive = 1
    confirm: Annotated[int, Field(ge=2)] = 20
    effects: Annotated[int, Field(ge=2)] = 10
    leaders: Positive = 3
    base: Annotated[int, Field(ge=0)] = 0


class RungsConfig(_Part):
    """The epochs at which weak members are dropped (the last ends a trial) and the share that is kept."""

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


class StudyConfig(_Part):
    """A study: what is locked beside its results."""

    study: str
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    budget: BudgetConfig
    seeds: SeedsConfig = SeedsConfig()
    rungs: RungsConfig = RungsConfig()
    population: AutoCount = "auto"
    space: str | dict[str, Any]
    sampler: Literal["tpe", "random", "gp", "cmaes", "nsga2"] = "tpe"
    pruner: Literal["rungs", "median", "hyperband", "successive_halving", "none"] = "rungs"
    storage: str = "journal"
    resources: ResourcesConfig = ResourcesConfig()
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.5

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

    @field_validator("space", mode="before")
    @classmethod
    def _space(cls, value: object) -> object:
        if not isinstance(value, str | Mapping):
            raise ValueError("must be a shipped name, a path, or a mapping")
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
        """Read a study file with ``key=value`` overrides, of which ``space.<path>=value`` reaches into the space.

        Relative paths of data and space are taken from the current folder or else from the study file's.

        Raises:
            UserError: one sentence with file, key, value, rule and fix.
        """
        tree, into_space, written = read_yaml(path), [], {}
        for key, value in map(parse_override, overrides):
            if key.startswith("space."):
                into_space.append((key.removeprefix("space."), value))
            else:
                _set(tree, key, value)
                written[key] = f"override {key}"
        if data is not None:
            _set(tree, "data.path", data)
        config = StudyConfig.check(tree, str(path), written)
        return config._located(Path(path).parent, str(path), into_space)

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

    def resolved(self) -> dict[str, Any]:
        """Return plain data with every default filled in and the space written out; :meth:`check` reads it back."""
        space = Space.load(self.space).tree if isinstance(self.space, str) else self.space
        data: dict[str, Any] = plain({**self.model_dump(), "space": space})
        return data

    def _located(self, folder: Path, source: str, overrides: list[tuple[str, Any]]) -> StudyConfig:
        """Resolve paths against the study's folder, and check the space with its overrides."""
        data = self.data.model_copy(update={"path": _beside(self.data.path, folder)})
        place = self.space if isinstance(self.space, dict) else _beside(self.space, folder)
        try:
            space = Space.load(place) if isinstance(place, str) else Space.parse(place, "space")
            for key, value in overrides:
                space, place = (changed := space.override(key, value)), dict(changed.tree)
            if data.modalities is not None:
                space.restrict(data.modalities)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        return self.model_copy(update={"data": data, "space": place})


def _beside(path: str | None, folder: Path) -> str | None:
    """Return the path in the study's folder where it exists only there."""
    if path is not None and not Path(path).exists() and (folder / path).exists():
        return str(folder / path)
    return path


def _set(tree: dict[Any, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the mappings on its way; whether the key is known is checked with everything else."""
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(tree.get(parent), str) and parent == "objective":
            tree[parent] = {"metric": tree[parent]}
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise UserError(
                f"override {key}: {parent} has no keys below it, got {shown(tree)}; end the key at {parent!r}"
            )
    tree[last] = value
