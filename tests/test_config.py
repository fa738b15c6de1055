"""The member's configuration: what it reads, refuses, and takes for equal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmsa_core.config import MemberConfig, PairConfig, PlugIn, fingerprint
from mmsa_core.errors import UserError
from mmsa_core.model import complete
from tests.members import plain


def read(**changes: Any) -> MemberConfig:
    return MemberConfig.from_dict(plain(**changes))


def test_round_trip_through_json() -> None:
    config = read(fusion={"name": "low_rank", "rank": 2}, weighting={"name": "static", "text": 0.5})
    again = MemberConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again.fingerprint() == config.fingerprint()
    done = complete(config)
    assert MemberConfig.from_dict(done.to_dict()) == done and complete(done) == done


def test_shorthand_names() -> None:
    short = {"encoders": {"vision": "lstm", "text": "pool"}, "alignment": {"text-vision": "cka"}}
    config = MemberConfig.from_dict(short)
    assert config.encoders["vision"] == PlugIn("lstm") and config.modalities == ("text", "vision")
    assert config.alignment["text-vision"] == PairConfig(PlugIn("cka"), 0.1, "projection", True)
    encoders = {"text": {"name": "pool"}, "vision": {"name": "lstm"}}
    long = {"encoders": encoders, "alignment": {"text-vision": {"name": "cka"}}}
    assert MemberConfig.from_dict(long).fingerprint() == config.fingerprint()


def test_alignment_none_is_no_alignment() -> None:
    named = read(alignment={"text-audio": "none", "audio-vision": {"name": "none", "weight": 0.3}})
    assert named == read(alignment={}) and named.fingerprint() == read(alignment={}).fingerprint()


def test_pair_settings_are_told_from_the_plug_ins() -> None:
    settings = {"name": "mmd", "weight": 2, "place": "encoder", "normalize": False, "kernels": 3}
    pair = read(alignment={"text-audio": settings})
    assert pair.alignment["text-audio"] == PairConfig(PlugIn("mmd", {"kernels": 3}), 2.0, "encoder", False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fussion": "concat"}, "config: unknown key 'fussion'; did you mean 'fusion'"),
        ({"encoders": {"txt": "pool"}}, "config.encoders: unknown key 'txt'; did you mean 'text'"),
        ({"fusion": {"name": "sum", None: 1}}, "config.fusion: a setting's name must be text, got None"),
        ({"encoders": {}}, "config.encoders: must name at least one modality"),
        ({"encoders": "pool"}, "config.encoders: must be a mapping, got 'pool'"),
        ({"encoders": {"text": {"nam": "pool"}}, "alignment": {}}, "config.encoders.text: needs a plug-in's name"),
        ({"optimizer": {"lrr": 0.1}}, "config.optimizer: unknown key 'lrr'; did you mean 'lr'"),
        ({"optimizer": {"lr": "1e-3"}}, "config.optimizer.lr: must be a number, got '1e-3'; .*write 1.0e-3"),
        ({"optimizer": {"lr": True}}, "config.optimizer.lr: must be a number, got True"),
        ({"optimizer": {"lr": float("nan")}}, "config.optimizer.lr: must be a finite number, got nan"),
        ({"optimizer": {"clip": -1.0}}, "config.optimizer.clip: must be 0 or more, got -1.0"),
        ({"optimizer": 3}, "config.optimizer: must be a mapping, got 3"),
        ({"heads": {"dim": 8.0}}, "config.heads.dim: must be a whole number of at least 1, got 8.0"),
        ({"heads": {"dropout": -0.1}}, "config.heads.dropout: must be 0 or more, got -0.1"),
        ({"heads": {"dropuot": 0.1}}, "config.heads: unknown key 'dropuot'; did you mean 'dropout'"),
        ({"width": True}, "config.width: must be a whole number of at least 1, got True"),
        ({"width": 0}, "config.width: must be a whole number of at least 1, got 0"),
        ({"batch_size": "32"}, "config.batch_size: must be a whole number of at least 1, got '32'"),
        ({"epochs": 2.5}, "config.epochs: must be a whole number of at least 1, got 2.5"),
        ({"fusion": False}, "config.fusion: a bare no/off is a boolean in YAML; write 'none'"),
        ({"labels": None}, "config.labels: must be a mapping, got None"),
        ({"alignment": {"audio-vison": "coral"}}, "alignment: unknown key 'audio-vison'; did you mean 'audio-vision'"),
        ({"alignment": {"text-audio": {"name": "coral", "weight": -0.1}}}, "weight: must be 0 or more, got -0.1"),
        ({"alignment": {"text-audio": {"name": "coral", "weight": "1e-3"}}}, "weight: must be a number.*write 1.0e-3"),
        ({"alignment": {"text-audio": {"name": "coral", "weight": float("inf")}}}, "weight: must be a finite number"),
        ({"alignment": {"text-audio": {"name": "coral", "place": "fusion"}}}, "place: must be 'encoder' or"),
        ({"alignment": {"text-audio": {"name": "coral", "normalize": 1}}}, "normalize: must be true or false, got 1"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(**changes)


def test_a_pair_needs_both_modalities() -> None:
    data = {"encoders": {"text": "pool", "audio": "pool"}, "alignment": {"audio-vision": "coral"}}
    with pytest.raises(UserError, match=r"config\.alignment: unknown key 'audio-vision'.*text-audio"):
        MemberConfig.from_dict(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "concatt"}, "fusion: there is no plug-in 'concatt'; did you mean 'concat'"),
        ({"fusion": {"name": "low_rank", "rnk": 2}}, "fusion: low_rank has no parameter 'rnk'; did you mean 'rank'"),
        (
            {"encoders": {"text": {"name": "pool", "dim": "8"}}, "alignment": {}},
            "text.dim: must be of type int, got '8'",
        ),
        ({"encoders": {"text": {"name": "pool", "dropout": "0"}}, "alignment": {}}, "text.dropout: must be of type"),
        ({"labels": {"name": "ulgm", "exclude_zero": 1}}, "labels.exclude_zero: must be of type bool, got 1"),
    ],
)
def test_complete_refuses_what_a_plug_in_does_not_know(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        complete(read(**changes))


def test_fingerprint_does_not_depend_on_key_order() -> None:
    data = plain()
    turned = {k: dict(reversed(v.items())) if isinstance(v, dict) else v for k, v in reversed(data.items())}
    assert list(turned) != list(data)
    config = read()
    assert MemberConfig.from_dict(turned).fingerprint() == config.fingerprint()
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1, "b": [1, 2]}) != fingerprint({"a": 1, "b": [2, 1]})
    assert len(config.fingerprint()) == 12 and config.fingerprint() != read(width=9).fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"lr": 0.5, "weight_decay": 0.3, "clip": 9, "text": 0.1}},
        {"heads": {"dim": 8, "dropout": 0.4}},
        {"alignment": {"audio-vision": {"name": "coral", "weight": 3}}},
        {"weighting": {"name": "static", "audio": 2}},
        {"labels": {"name": "ulgm", "floor": 1}},
    ],
)
def test_signature_ignores_floats(changes: dict[str, Any]) -> None:
    one, other = complete(read()), complete(read(**changes))
    assert one.signature() == other.signature() and one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 9},
        {"batch_size": 8},
        {"epochs": 5},
        {"heads": {"dim": 9, "dropout": 0.1}},
        {"fusion": "sum"},
        {"labels": "none"},
        {"labels": {"name": "ulgm", "exclude_zero": False}},
        {"weighting": "uncertainty"},
        {"alignment": {}},
        {"alignment": {"audio-vision": {"name": "mmd", "weight": 0.2}}},
        {"alignment": {"text-vision": {"name": "coral", "weight": 0.2}}},
        {"alignment": {"audio-vision": {"name": "coral", "weight": 0.2, "place": "encoder"}}},
        {"alignment": {"audio-vision": {"name": "coral", "weight": 0.2, "normalize": False}}},
        {"encoders": {**plain()["encoders"], "vision": {"name": "pool", "dim": 8, "hidden": 9}}},
    ],
)
def test_signature_tells_structures_apart(changes: dict[str, Any]) -> None:
    assert complete(read(**changes)).signature() != complete(read()).signature()


def test_without_labels_the_weighting_says_nothing() -> None:
    one, other = (complete(read(labels="none", weighting=w)) for w in ("static", "uncertainty"))
    assert one == other and one.signature() == other.signature()
