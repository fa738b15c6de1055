"""Configurations by name: what is shipped, what of Self-MM's and MMSA's tables it holds, changes, and modalities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmsa_core.config import MemberConfig
from mmsa_core.data.npz import write
from mmsa_core.data.synthetic import planted
from mmsa_core.errors import UserError
from mmsa_core.model import complete
from mmsa_core.train import Objective
from search import configs, export
from search.configs import changed, for_modalities, modules, read_config
from search.shipped import FOLDERS, read_named, shipped
from search.yaml_io import write_yaml

NAMES = ("dma", "self_mm", "self_mm_mosei", "self_mm_mosi", "self_mm_sims")
ROOT = Path(__file__).parents[2]
# Self-MM's and MMSA's settings: batch, rates of audio and vision, weight decay of BERT and of "other", hidden sizes of
# the LSTMs, dropout before the fusion's head, whether zeros are left out of the classes, BERT and its longest input.
# Sources: thuiar/Self-MM 1786283 (MOSI) and MMSA 2.2.1's config_regression.json.
TABLE = {
    "self_mm": (32, 1e-3, 1e-4, 1e-3, 1e-3, 32, 64, 0.1, False, "bert-base-uncased", 50),
    "self_mm_mosi": (16, 5e-3, 5e-3, 1e-3, 1e-3, 16, 32, 0.0, True, "bert-base-uncased", 50),
    "self_mm_mosei": (32, 5e-3, 1e-4, 1e-3, 1e-2, 16, 32, 0.1, True, "bert-base-uncased", 50),
    "self_mm_sims": (32, 5e-3, 5e-3, 1e-3, 1e-3, 16, 64, 0.0, True, "bert-base-chinese", 39),
}


def test_what_is_shipped() -> None:
    assert shipped("configuration") == NAMES
    assert set(NAMES) == {p.stem for p in (ROOT / "spaces" / "configs").glob("*.yaml")}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_configuration_is_whole_and_says_where_it_deviates(name: str) -> None:
    config = read_config(name)
    done = complete(config)
    assert done.modalities == ("text", "audio", "vision")
    assert done == complete(done) and MemberConfig.from_dict(done.to_dict()) == done
    text = (ROOT / FOLDERS["configuration"] / f"{name}.yaml").read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert "arXiv:2102.04830" in text and "Reproduced" in text
    deviations = header[header.index("# Deviations, each with its reason:") + 1 :]
    assert len([line for line in deviations if line.startswith("# - ")]) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_configuration_trains(name: str, tmp_path: Path, tiny_bert: Path) -> None:
    """With pooled text, and with a BERT of a few thousand weights on texts that say the label's sign."""
    told = planted(0, train=24, valid=10, test=4)
    for split, part in told.items():
        words = ["a very good film" if y > 0 else "not a good film" for y in part.labels]
        told[split] = replace(part, raw_text=tuple(words))
    write(tmp_path / "data.npz", told)
    for key, value in (("encoders.text", "pool"), ("encoders.text.model", str(tiny_bert))):
        config = read_config(name, [(key, value), ("epochs", 1)])
        out = tmp_path / key
        found = export.train_model(config, str(tmp_path / "data.npz"), [0], Objective(), "refuse", out)
        assert 0 < found["valid"]["mae"]["mean"] < 3
        assert export.read_model(out).config == complete(config)


@pytest.mark.parametrize("name", TABLE)
def test_values_of_the_originals_table(name: str) -> None:
    config = read_config(name)
    text, audio, vision = (config.encoders[m] for m in ("text", "audio", "vision"))
    optimizer = config.optimizer
    rates = [pytest.approx(optimizer.lr * factor, rel=1e-12) for factor in (optimizer.audio, optimizer.vision)]
    found = (
        config.batch_size, *rates, text.params["weight_decay"], optimizer.weight_decay, audio.params["hidden"],
        vision.params["hidden"], config.heads.dropout, config.labels.params["exclude_zero"], text.params["model"],
        text.params["max_length"],
    )  # fmt: skip
    assert found == TABLE[name]


@pytest.mark.parametrize("name", TABLE)
def test_values_common_to_the_originals(name: str) -> None:
    """lr_bert 5e-5, lr_other 1e-3, audio_out 16, video_out 32, no LSTM dropout, post_fusion_dim 128, early_stop 8,
    update_epochs 4, all of BERT trained, no schedule, no clipping, task weights of 1."""
    config = complete(read_config(name))
    text, audio, vision = (config.encoders[m] for m in ("text", "audio", "vision"))
    assert (text.name, text.params["pooling"], text.params["lr"], text.params["freeze"]) == ("bert", "cls", 5e-5, 0)
    assert (text.params["warmup"], text.params["dropout"]) == (0.0, 0.0)
    assert [(e.name, e.params["dim"], e.params["dropout"]) for e in (audio, vision)] == [
        ("lstm", 16, 0.0),
        ("lstm", 32, 0.0),
    ]
    assert config.optimizer.lr == 1e-3 and config.optimizer.accumulate == 4 and config.optimizer.clip >= 1e6
    assert (config.heads.dim, config.width, config.patience) == (128, 128, 8)
    assert config.fusion.name == "concat" and not config.alignment
    assert (config.labels.name, config.labels.params["floor"]) == ("ulgm", 0.0)
    assert config.weighting.to_dict() == {"name": "static", "text": 1.0, "audio": 1.0, "vision": 1.0}


def test_dma_is_self_mm_with_coral_on_audio_vision_only() -> None:
    dma, base = read_config("dma"), read_config("self_mm")
    assert replace(dma, alignment={}) == base
    assert list(dma.alignment) == ["audio-vision"]
    pair = dma.alignment["audio-vision"]
    assert (pair.alignment.name, pair.place) == ("coral", "projection") and pair.weight > 0


# ---- names and changes -----------------------------------------------------------------------------------------------


def test_a_path_is_read_as_it_is(tmp_path: Path) -> None:
    write_yaml(tmp_path / "own.yaml", {"encoders": {"audio": "gru"}, "epochs": 3})
    assert read_config(tmp_path / "own.yaml") == MemberConfig.from_dict({"encoders": {"audio": "gru"}, "epochs": 3})


@pytest.mark.parametrize(
    ("kind", "name", "match"),
    [
        (
            "configuration",
            "selfmm",
            r"^configuration: there is no shipped configuration 'selfmm'; did you mean 'self_m",
        ),
        ("configuration", "zzz", "known: dma, self_mm, self_mm_mosei, .*; or give a .yaml path$"),
        ("space", "quik", r"^space: there is no shipped space 'quik'; did you mean 'quick'\?"),
        ("space", "self_mm", "there is no shipped space 'self_mm'"),
        ("configuration", "./nowhere.yaml", r"^\./nowhere\.yaml: there is no such file$"),
    ],
)
def test_there_is_no_such_name(kind: Any, name: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        read_named(kind, name)


def test_changes() -> None:
    start = read_config("dma")
    found = changed(
        start,
        [
            ("optimizer.lr", 0.5),
            ("encoders.text", "pool"),
            ("encoders.text.dim", 8),
            ("encoders.audio.hidden", 7),
            ("alignment.text-audio", "cka"),
            ("alignment.text-audio.weight", 0.25),
            ("alignment.audio-vision", "none"),
            ("fusion", {"name": "low_rank", "rank": 2}),
            ("epochs", 3),
        ],
    )
    assert found.optimizer == replace(start.optimizer, lr=0.5)
    assert found.encoders["text"].to_dict() == {"name": "pool", "dim": 8}, "BERT's settings went with it"
    assert found.encoders["audio"].params == {**start.encoders["audio"].params, "hidden": 7}
    assert found.encoders["vision"] == start.encoders["vision"]
    assert {k: (p.alignment.name, p.weight) for k, p in found.alignment.items()} == {"text-audio": ("cka", 0.25)}
    assert found.fusion.to_dict() == {"name": "low_rank", "rank": 2}
    assert (found.epochs, found.patience, found.labels) == (3, start.patience, start.labels)
    assert start == read_config("dma"), "the original stays"


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("optimzer.lr", 1, r"^override optimzer\.lr: config: unknown key 'optimzer'; did you mean 'optimizer'\?$"),
        ("optimizer.lrr", 1, r"^override optimizer\.lrr: config\.optimizer: unknown key 'lrr'; did you mean 'lr'\?$"),
        ("encoders.txt.model", "x", r"unknown key 'txt'; did you mean 'text'\?$"),
        ("alignment.audio-vison.weight", 1, r"unknown key 'audio-vison'; did you mean 'audio-vision'\?$"),
        ("alignment.text-audio.weight", 1, r"alignment\.text-audio: needs a plug-in's name"),
        ("optimizer.lr", "fast", r"optimizer\.lr: must be a number, got 'fast'"),
        ("epochs", 0, r"epochs: must be a whole number of at least 1, got 0"),
        ("width.x", 1, r"^override width\.x: width has no keys below it, got 128; end the key at 'width'$"),
    ],
)
def test_a_wrong_change(key: str, value: object, match: str) -> None:
    with pytest.raises(UserError, match=match):
        changed(read_config("self_mm"), [(key, value)])


def test_a_wrong_setting_of_a_plug_in_is_found_when_it_is_completed() -> None:
    config = read_config("self_mm", [("encoders.text.modell", "x")])
    with pytest.raises(UserError, match=r"encoders\.text: bert has no parameter 'modell'; did you mean 'model'\?"):
        complete(config)


# ---- modalities ------------------------------------------------------------------------------------------------------


def test_only_some_modalities() -> None:
    found = for_modalities(read_config("dma"), ("text", "audio"), "baseline")
    assert found.modalities == ("text", "audio") and not found.alignment
    assert found.weighting.params == {"text": 1.0, "audio": 1.0}
    assert found.optimizer.vision == 1.0 and found.optimizer.audio == read_config("dma").optimizer.audio
    complete(found)
    both = for_modalities(read_config("dma"), ("audio", "vision"), "baseline")
    assert both.modalities == ("audio", "vision") and list(both.alignment) == ["audio-vision"]
    assert for_modalities(read_config("dma"), ("text", "audio", "vision"), "baseline") == read_config("dma")


def test_nothing_is_left() -> None:
    config = MemberConfig.from_dict({"encoders": {"audio": "pool", "vision": "pool"}})
    with pytest.raises(
        UserError, match=r"^baseline: has encoders of audio, vision, and the study has text only; name "
    ):
        for_modalities(config, ("text",), "baseline")


def test_modules_by_place() -> None:
    assert modules(read_config("dma").to_dict()) == {
        "encoders.text": "bert", "encoders.audio": "lstm", "encoders.vision": "lstm",
        "alignment.text-audio": "none", "alignment.text-vision": "none", "alignment.audio-vision": "coral",
        "fusion": "concat", "labels": "ulgm", "weighting": "static", "strategy": "none",
    }  # fmt: skip
    short = {"encoders": {"text": "pool"}, "alignment": {"text-audio": {"name": "none"}}}
    assert modules(short)["alignment.text-audio"] == "none"
    taught = {f"alignment.{pair}" for pair in configs.TAUGHT}
    assert set(modules(short)) == set(configs.PLACES) - {"encoders.audio", "encoders.vision", *taught}
