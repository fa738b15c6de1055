"""What a model folder says of its making is checked value by value before a verb uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmsa_core.errors import UserError
from search.provenance import parse_provenance

SOUND: dict[str, Any] = {
    "seeds": [0, 1], "metric": "mae", "convention": "mosi", "nonfinite": "refuse", "data_path": "data.npz",
    "data_fingerprint": "0123", "interval": {"level": 0.9, "scale": 1.5, "floor": 0.1},
    "text_model": {"name": "bert", "pooling": "mean", "layer": -1, "content": "0123456789ab"}, "commit": None,
}  # fmt: skip


def read(folder: Path, changed: dict[str, Any]) -> dict[str, Any]:
    return parse_provenance(json.dumps({**SOUND, **changed}).encode(), folder / "provenance.json")


@pytest.mark.parametrize("changed", [{}, {"text_model": None}, {"text_model": {"name": "bert"}}, {"more": [1]}])
def test_a_sound_record_is_read(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert read(tmp_path, changed) == {**SOUND, **changed}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"text_model": {"name": "bert", "layers": 1}}, r"text_model: unknown key 'layers'; did you mean 'layer'\?"),
        ({"text_model": {}}, "text_model: must be a mapping with a name"),
        ({"text_model": {"name": 7}}, "text_model: text model: name must be text, got 7"),
        ({"text_model": {"name": "bert", "layer": "x"}}, "text_model: text layer: must be a whole number"),
        ({"text_model": {"name": "bert", "pooling": ["x"]}}, "text_model: text pooling: must be one of cls, mean"),
        ({"text_model": {"name": "bert", "content": 3}}, "text_model: text model: content must be text, got 3"),
        ({"interval": {**SOUND["interval"], "more": 1}}, "interval: unknown key 'more'"),
        ({"interval": {"level": 0.9, "scale": 1}}, "interval: floor is missing"),
        ({"interval": {**SOUND["interval"], "level": float("nan")}}, r"interval: level must lie in 0\.\.1, got nan"),
        ({"interval": {**SOUND["interval"], "level": -3}}, r"interval: level must lie in 0\.\.1, got -3"),
        ({"interval": {**SOUND["interval"], "scale": 10**400}}, r"interval: scale must lie in 0\.\.1e\+30, got 1000"),
        ({"interval": {**SOUND["interval"], "floor": "x"}}, "interval: floor must be of type int or float"),
        ({"convention": "foo"}, "convention: there is no 'foo'; known: mosi, sims"),
        ({"metric": "foo"}, "metric: mosi has no 'foo'"),
        ({"metric": "acc7", "convention": "sims"}, "metric: sims has no 'acc7'"),
        ({"nonfinite": "foo"}, "nonfinite must be refuse or zero, got 'foo'"),
        ({"seeds": [0, "a"]}, "seeds must be whole numbers from 0 to 2"),
        ({"seeds": [-1]}, "seeds must be whole numbers"),
        ({"seeds": [True]}, "seeds must be whole numbers"),
    ],
)
def test_an_unsound_value_is_one_sentence(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=rf"provenance\.json: {sentence}"):
        read(tmp_path, changed)
