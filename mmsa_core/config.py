"""What one member is: a frozen, checked record of its modules, sizes and settings. No torch here."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from mmsa_core.errors import UserError, nearest

MODALITIES = ("text", "audio", "vision")
NONE = "none"
TEACHER = "teacher"
"""The frozen features of text, as the other end of an alignment: ``audio-teacher``."""
T = TypeVar("T", "HeadsConfig", "OptimizerConfig")


@dataclass(frozen=True)
class PlugIn:
    """A plug-in by its file name, with its hyper-parameters."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}


@dataclass(frozen=True)
class PairConfig:
    """What is asked of a pair of modalities: an alignment plug-in, its weight in the loss and where it acts.

    ``normalize`` divides the loss by its chance value, so that one range of weights means the same for all plug-ins.
    """

    alignment: PlugIn
    weight: float = 0.1
    place: Literal["encoder", "projection"] = "projection"
    normalize: bool = True

    def to_dict(self) -> dict[str, Any]:
        own = {"weight": self.weight, "place": self.place, "normalize": self.normalize}
        return {"name": self.alignment.name, **own, **self.alignment.params}


@dataclass(frozen=True)
class HeadsConfig:
    """The prediction heads: width of their two hidden layers (the first one's output is what Self-MM compares)."""

    dim: int = 32
    dropout: float = 0.1


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW per member; ``clip`` bounds the gradient's norm; ``text``, ``audio``, ``vision`` scale encoders' ``lr``.

    ``accumulate`` batches make one step, by the mean of their gradients.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    text: float = 1.0
    audio: float = 1.0
    vision: float = 1.0
    accumulate: int = 1


@dataclass(frozen=True)
class MemberConfig:
    """One configuration: modules, sizes and settings of one model and its training.

    Training ends after ``epochs``, or after ``patience`` epochs without a better value on the valid split.

    >>> MemberConfig.from_dict({"encoders": {"text": "pool"}, "fusion": "concat"}).modalities
    ('text',)
    """

    encoders: Mapping[str, PlugIn]
    alignment: Mapping[str, PairConfig] = field(default_factory=dict)
    fusion: PlugIn = PlugIn("concat")
    labels: PlugIn = PlugIn(NONE)
    weighting: PlugIn = PlugIn("static")
    strategy: PlugIn = PlugIn(NONE)
    heads: HeadsConfig = HeadsConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    width: int = 32
    batch_size: int = 32
    epochs: int = 32
    patience: int = 10

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that are read, in canonical order."""
        return tuple(m for m in MODALITIES if m in self.encoders)

    @staticmethod
    def from_dict(data: Mapping[str, Any], place: str = "config") -> MemberConfig:
        """Read a configuration as written by a person or sampled from a space.

        Raises:
            UserError: an unknown key, a wrong type, or a value out of range.
        """
        _check_keys(data, [f.name for f in fields(MemberConfig)], place)
        encoders = _mapping(data.get("encoders"), f"{place}.encoders")
        _check_keys(encoders, MODALITIES, f"{place}.encoders")
        if not encoders:
            raise UserError(f"{place}.encoders: must name at least one modality, e.g. encoders: {{text: pool}}")
        pairs = _mapping(data.get("alignment", {}), f"{place}.alignment")
        known = [
            f"{a}-{b}" for i, a in enumerate(MODALITIES) for b in MODALITIES[i + 1 :] if a in encoders and b in encoders
        ]
        known += [f"{m}-{TEACHER}" for m in MODALITIES if m in encoders and "text" in encoders]
        _check_keys(pairs, known, f"{place}.alignment")
        alignment = {k: _pair(pairs[k], f"{place}.alignment.{k}") for k in known if k in pairs}
        return MemberConfig(
            encoders={m: _plugin(encoders[m], f"{place}.encoders.{m}") for m in MODALITIES if m in encoders},
            alignment={k: v for k, v in alignment.items() if v is not None},
            fusion=_plugin(data.get("fusion", "concat"), f"{place}.fusion"),
            labels=_plugin(data.get("labels", NONE), f"{place}.labels"),
            weighting=_plugin(data.get("weighting", "static"), f"{place}.weighting"),
            strategy=_plugin(data.get("strategy", NONE), f"{place}.strategy"),
            heads=_record(HeadsConfig, data.get("heads", {}), f"{place}.heads"),
            optimizer=_record(OptimizerConfig, data.get("optimizer", {}), f"{place}.optimizer"),
            width=_positive_int(data.get("width", 32), f"{place}.width"),
            batch_size=_positive_int(data.get("batch_size", 32), f"{place}.batch_size"),
            epochs=_positive_int(data.get("epochs", 32), f"{place}.epochs"),
            patience=_positive_int(data.get("patience", 10), f"{place}.patience"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :meth:`from_dict` reads back to an equal configuration."""
        return {
            "encoders": {m: p.to_dict() for m, p in self.encoders.items()},
            "width": self.width,
            "alignment": {k: p.to_dict() for k, p in self.alignment.items()},
            "fusion": self.fusion.to_dict(),
            "heads": vars(self.heads).copy(),
            "labels": self.labels.to_dict(),
            "weighting": self.weighting.to_dict(),
            "strategy": self.strategy.to_dict(),
            "optimizer": vars(self.optimizer).copy(),
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "patience": self.patience,
        }

    def fingerprint(self) -> str:
        """Return 12 hex digits that are equal for equal configurations, however they were written."""
        return fingerprint(self.to_dict())

    def signature(self) -> str:
        """Return what must be equal inside a population: everything that is not a float (of a completed
        configuration)."""
        return json.dumps(_without_floats(self.to_dict()), sort_keys=True)


def fingerprint(data: Any) -> str:
    """Return 12 hex digits of plain data, independent of key order."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _without_floats(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {k: _without_floats(v) for k, v in node.items() if not isinstance(v, float)}
    return node


def _plugin(value: Any, place: str) -> PlugIn:
    if isinstance(value, str):
        return PlugIn(value)
    if value is False:
        raise UserError(f"{place}: a bare no/off is a boolean in YAML; write 'none'")
    data = _mapping(value, place)
    for key in data:
        if not isinstance(key, str):
            raise UserError(f"{place}: a setting's name must be text, got {key!r}; rename or quote it")
    if not isinstance(data.get("name"), str):
        raise UserError(f"{place}: needs a plug-in's name, e.g. {{name: concat}}, got {dict(data)!r}")
    return PlugIn(data["name"], MappingProxyType({k: v for k, v in data.items() if k != "name"}))


def _pair(value: Any, place: str) -> PairConfig | None:
    plugin = _plugin(value, place)
    if plugin.name == NONE:
        return None
    params = dict(plugin.params)
    weight = _float(params.pop("weight", 0.1), f"{place}.weight")
    where = params.pop("place", "projection")
    if where not in ("encoder", "projection"):
        raise UserError(f"{place}.place: must be 'encoder' or 'projection', got {where!r}")
    normalize = params.pop("normalize", True)
    if not isinstance(normalize, bool):
        raise UserError(f"{place}.normalize: must be true or false, got {normalize!r}")
    if weight < 0:
        raise UserError(
            f"{place}.weight: must be 0 or more, got {weight}; a negative matching loss is unbounded below, "
            "use a private plug-in such as orthogonal instead"
        )
    return PairConfig(PlugIn(plugin.name, MappingProxyType(params)), weight, where, normalize)


def _record(cls: type[T], value: Any, place: str) -> T:
    data = _mapping(value, place)
    known = {f.name: f for f in fields(cls)}
    _check_keys(data, known, place)
    read = {k: _not_negative if isinstance(f.default, float) else _positive_int for k, f in known.items()}
    return cls(**cast(dict[str, Any], {k: read[k](v, f"{place}.{k}") for k, v in data.items()}))


def _check_keys(data: Mapping[str, Any], known: Any, place: str) -> None:
    for key in data:
        if key not in known:
            raise UserError(f"{place}: unknown key {key!r}{nearest(str(key), known)}")


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{place}: must be a mapping, got {value!r}")
    return value


def _float(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; YAML reads 1e-3 as text, write 1.0e-3" if isinstance(value, str) else ""
        raise UserError(f"{place}: must be a number, got {value!r}{hint}")
    if not math.isfinite(value):
        raise UserError(f"{place}: must be a finite number, got {value}")
    return float(value)


def _not_negative(value: Any, place: str) -> float:
    number = _float(value, place)
    if number < 0:
        raise UserError(f"{place}: must be 0 or more, got {number}")
    return number


def _positive_int(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{place}: must be a whole number of at least 1, got {value!r}")
    return value
