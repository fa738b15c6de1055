"""Text features of a frozen model: against one text at a time, cached, resumed, and in the place of a file's own."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmsa_core.data import text
from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.npz import NpzSource, write_arrays
from mmsa_core.data.source import ArraySource
from mmsa_core.data.text import Pooling, TextModel, embed, with_text_features, write_with_text_features
from mmsa_core.errors import UserError
from mmsa_core.pretrained import load_body, load_tokenizer
from tests.text_models import SENTENCES, save_tiny_bert, with_weights

SIZES = {"train": 9, "valid": 4, "test": 5}


def arrays(*, with_text: bool = False) -> dict[str, NDArray[Any]]:
    """Return a data set with raw_text and audio; texts repeat over the splits, and some are empty."""
    made: dict[str, NDArray[Any]] = {"cv_fold": np.arange(3)}
    for split, n in SIZES.items():
        rng = np.random.default_rng(n)
        made[f"{split}/id"] = np.array([f"{split}{i}" for i in range(n)])
        made[f"{split}/raw_text"] = np.array([SENTENCES[i % len(SENTENCES)] for i in range(n)])
        made[f"{split}/audio"] = rng.standard_normal((n, 3)).astype(np.float32)
        made[f"{split}/regression_labels"] = rng.uniform(-3, 3, n).astype(np.float32)
        if with_text:
            made[f"{split}/text"] = rng.standard_normal((n, 4, 7)).astype(np.float32)
            made[f"{split}/text_lengths"] = np.full(n, 4)
    return made


def one_by_one(folder: Path, sentence: str, pooling: Pooling, layer: int) -> NDArray[np.float32]:
    """Return a sentence's features [t, d] by transformers alone, without a batch."""
    tokens = load_tokenizer(folder)(sentence, return_tensors="pt")
    with torch.no_grad():
        states = load_body(folder)(**tokens, output_hidden_states=True).hidden_states[layer][0].numpy()
    rows: dict[str, NDArray[np.float32]] = {"cls": states[:1], "mean": states.mean(0, keepdims=True), "tokens": states}
    return rows[pooling] if sentence else states[:0]


@pytest.mark.parametrize("pooling", ["cls", "mean", "tokens"])
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_features_are_the_models_own(tiny_bert: Path, pooling: Pooling, layer: int) -> None:
    values, lengths = embed(SENTENCES, TextModel(str(tiny_bert), pooling, layer))
    for i, sentence in enumerate(SENTENCES):
        expected = one_by_one(tiny_bert, sentence, pooling, layer)
        assert lengths[i] == len(expected) == (0 if not sentence else lengths[i])
        np.testing.assert_allclose(values[i, : lengths[i]], expected, atol=1e-5)
        assert not values[i, lengths[i] :].any()
    assert values.shape[2] == 16


def test_they_take_the_place_of_the_files_own(tiny_bert: Path, tmp_path: Path) -> None:
    source = with_text_features(
        ArraySource("data.npz", arrays(with_text=True)), TextModel(str(tiny_bert)), cache=tmp_path
    )
    direct, lengths = embed([SENTENCES[i % 5] for i in range(9)], TextModel(str(tiny_bert)))
    np.testing.assert_allclose(source.read("train/text"), direct, atol=1e-6)
    np.testing.assert_array_equal(source.read("train/text_lengths"), lengths)
    assert source.shape("test/text") == (5, 1, 16) and source.read("train/audio").shape == (9, 3)


def test_they_are_computed_once(tiny_bert: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def made(model: Path, pooling: Pooling = "mean", **changed: NDArray[Any]) -> int:
        before = len(calls)
        source = ArraySource("data.npz", {**arrays(), **changed})
        with_text_features(source, TextModel(str(model), pooling), lambda *n: calls.append(n), tmp_path / "cache")
        return len(calls) - before

    assert made(tiny_bert) == 1 and calls == [(5, 5)]
    assert made(tiny_bert) == 0, "the second time nothing is computed"
    assert made(tiny_bert, **{"train/audio": np.zeros((9, 3))}) == 0, "audio does not matter"
    assert made(tiny_bert, "cls") == 1
    assert made(save_tiny_bert(tmp_path / "tiny", seed=1)) == 1, "another model of the same name"
    assert made(tiny_bert, **{"valid/raw_text": np.array(["very bad", "it", "was", "a"])}) == 1


def test_an_interrupted_computation_goes_on(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PART", 2)
    source, model = ArraySource("data.npz", arrays()), TextModel(str(tiny_bert))

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_text_features(source, model, interrupt, tmp_path)
    parts = {p: p.stat().st_mtime_ns for p in tmp_path.glob("text/*.parts/*.npz")}
    assert len(parts) == 2
    seen: list[dict[Path, int]] = []
    news: list[int] = []

    def watch(done: int, total: int) -> None:
        news.append(done)
        seen.append({p: p.stat().st_mtime_ns for p in parts})

    whole = with_text_features(source, model, watch, tmp_path)
    assert news == [2, 4, 5] and all(s == parts for s in seen), "what was finished is not made again"
    assert not list(tmp_path.glob("text/*.parts"))
    np.testing.assert_allclose(
        whole.read("train/text"), embed(arrays()["train/raw_text"].tolist(), model)[0], atol=1e-6
    )


def test_what_was_cached_unchecked_is_made_again(tiny_bert: Path, tmp_path: Path) -> None:
    """Before there was a version, the name of a file in the cache was the hash of the model's content and the texts."""
    source, model = ArraySource("data.npz", arrays()), TextModel(str(tiny_bert)).found()
    texts = {split: arrays()[f"{split}/raw_text"].tolist() for split in SIZES}
    digest = hashlib.blake2b(json.dumps([model.content, texts]).encode(), digest_size=12).hexdigest()
    old: dict[str, NDArray[Any]] = {"text_model": np.array(json.dumps(model.to_dict()))}
    for split, n in SIZES.items():
        old |= {f"{split}/text": np.ones((n, 1, 16), np.float32), f"{split}/text_lengths": np.ones(n, np.int64)}
    write_arrays(tmp_path / "text" / f"{digest}.npz", old)
    made = with_text_features(source, model, cache=tmp_path)
    np.testing.assert_allclose(made.read("train/text"), embed(arrays()["train/raw_text"].tolist(), model)[0], atol=1e-6)


def large(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights whose features lie beyond float16."""
    return {k: v * 1e6 if k.endswith("layer.1.output.LayerNorm.weight") else v for k, v in weights.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: {f"net.{k}": v for k, v in w.items()}, "its weights do not fit its config.json"),
        (lambda w: {k: v * 1e36 for k, v in w.items()}, "its outputs are not finite"),
        (large, "features reach beyond float16; take pooling mean or cls"),
    ],
)
def test_features_that_are_no_good_are_not_kept(tiny_bert: Path, tmp_path: Path, change: Any, sentence: str) -> None:
    model = TextModel(str(with_weights(tiny_bert, tmp_path / "model", change)), "tokens")
    with pytest.raises(UserError, match=sentence):
        with_text_features(ArraySource("data.npz", arrays()), model, cache=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/text/*.npz"))


def test_a_tokenizer_that_pads_on_the_left(tiny_bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}), encoding="utf-8")
    for pooling in ("cls", "tokens"):
        found, expected = (embed(SENTENCES, TextModel(str(f), pooling))[0] for f in (folder, tiny_bert))  # type: ignore[arg-type]  # mypy sees str
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_open_dataset_with_a_text_model(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_arrays(tmp_path / "data.npz", arrays())
    plain = open_dataset(tmp_path / "data.npz")
    assert plain.modalities == ("audio",) and plain.text_model is None
    rich = open_dataset(tmp_path / "data.npz", text_model=TextModel(str(tiny_bert)))
    assert rich.modalities == ("text", "audio") and rich.dims() == {"text": 16, "audio": 3}
    assert rich.text_model == TextModel(str(tiny_bert)) and len(rich.text_model.content) == 12
    assert (
        rich.fingerprint()
        != open_dataset(tmp_path / "data.npz", text_model=TextModel(str(tiny_bert), "cls")).fingerprint()
    )
    split = rich.split("train")
    assert split.lengths["text"].tolist() == [int(t != "") for t in split.raw_text]
    assert open_dataset(tmp_path / "data.npz", ["audio"], text_model=TextModel("no such model")).modalities == (
        "audio",
    )


def test_writing_keeps_everything_else(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, target = ArraySource("data.npz", arrays(with_text=True)), tmp_path / "out.npz"
    write_with_text_features(source, target, TextModel(str(tiny_bert)), lambda *_: None)
    written = NpzSource(target)
    assert written.keys == source.keys | {"text_model"}
    for key in source.keys - {f"{s}/{k}" for s in SIZES for k in ("text", "text_lengths")}:
        np.testing.assert_array_equal(written.read(key), source.read(key))
    dataset = open_dataset(target)
    assert dataset.text_model == TextModel(str(tiny_bert))
    again = open_dataset(target, text_model=TextModel(str(tiny_bert)), on_progress=lambda *_: pytest.fail("made again"))
    assert again.fingerprint() == dataset.fingerprint()
    with pytest.raises(UserError, match=r"out.csv: the target must end in .npz"):
        write_with_text_features(source, tmp_path / "out.csv", TextModel(str(tiny_bert)), lambda *_: None)


def test_refusals(tiny_bert: Path, tmp_path: Path) -> None:
    without = {k: v for k, v in arrays().items() if k != "valid/raw_text"}
    with pytest.raises(UserError, match=r"data.npz: valid/raw_text is missing; text features are made from it"):
        with_text_features(ArraySource("data.npz", without), TextModel(str(tiny_bert)), cache=tmp_path)
    with pytest.raises(UserError, match="text pooling: must be one of cls, mean, tokens, got 'max'"):
        TextModel("x", "max")  # type: ignore[arg-type]  # what a user may write
    with pytest.raises(UserError, match="has layers 0 to 2, got 3"):
        embed(["good"], TextModel(str(tiny_bert), layer=3))
    with pytest.raises(UserError, match="is not the one that the features were made with"):
        embed(["good"], TextModel(str(tiny_bert), content="0123456789ab"))
    with pytest.raises(UserError, match="text model: name must be text, got 7"):
        TextModel(7)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="text layer: must be a whole number, -1 for the last, got 'x'"):
        TextModel("x", layer="x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="text 1: holds half of a character"):
        embed(["good", "b\ud800d"], TextModel(str(tiny_bert)))
    odd = np.array('{"name": "x", "layers": 1}')
    write_arrays(tmp_path / "odd.npz", {**arrays(with_text=True), "text_model": odd})
    with pytest.raises(UserError, match=r"odd.npz: text_model: unknown key 'layers'; did you mean 'layer'\?"):
        open_dataset(tmp_path / "odd.npz")
    write_arrays(tmp_path / "broken.npz", {**arrays(with_text=True), "text_model": np.array("{")})
    with pytest.raises(UserError, match=r"broken.npz: text_model is damaged"):
        open_dataset(tmp_path / "broken.npz")
    write_arrays(tmp_path / "bare.npz", {k: v for k, v in arrays().items() if not k.endswith("audio")})
    with pytest.raises(UserError, match=r"train has no features; .*; or name a text_model"):
        open_dataset(tmp_path / "bare.npz")
