"""Splits are loaded one by one, the native format keeps what is written, and the fingerprint sees what is read."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmsa_core.config import MODALITIES, MemberConfig
from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.describe import describe
from mmsa_core.data.npz import NpzSource, write, write_arrays
from mmsa_core.data.source import SPLITS
from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import planted
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors

SIZES = {
    "mosi_std_ta": (1284, 229, 686),
    "mosi_clean752": (450, 147, 155),
    "mosi_seq229": (141, 43, 45),
    "mosei_video792": (526, 87, 179),
    "chsims2281_labels_text": (1368, 456, 457),
    "meld_dev1108_ta": (718, 200, 190),
}


def assert_equal(a: Split, b: Split) -> None:
    """Compare all but the padding behind the longest sequence."""
    assert a.ids == b.ids and a.raw_text == b.raw_text
    np.testing.assert_array_equal(a.labels, b.labels)
    for m in a.features:
        np.testing.assert_array_equal(a.lengths[m], b.lengths[m])
        np.testing.assert_array_equal(a.features[m][a.real_rows(m)], b.features[m][b.real_rows(m)])
    assert a.unimodal.keys() == b.unimodal.keys()
    for m in a.unimodal:
        np.testing.assert_array_equal(a.unimodal[m], b.unimodal[m])


def test_what_is_written_is_read(tmp_path: Path, small: dict[str, Split]):
    labels = {m: np.float32(0.5) * small["train"].labels for m in MODALITIES}
    train = Split(**{**vars(small["train"]), "unimodal": labels, "raw_text": tuple(f"wörd {i}" for i in range(20))})
    write(tmp_path / "toy.npz", {**small, "train": train})
    dataset = open_dataset(tmp_path / "toy.npz")
    assert_equal(train, dataset.split("train"))
    assert_equal(small["test"], dataset.split("test"))


def test_a_split_is_read_without_the_others(npz: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = open_dataset(npz)
    read: list[str] = []
    original = NpzSource.read
    monkeypatch.setattr(NpzSource, "read", lambda self, key: read.append(key) or original(self, key))
    dataset.split("train")
    assert {key.split("/")[0] for key in read} == {"train"}


def test_opening_reads_no_test_values(npz: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    original = NpzSource.read
    monkeypatch.setattr(NpzSource, "read", lambda self, key: read.append(key) or original(self, key))
    open_dataset(npz)
    assert read == ["train/id", "valid/id", "test/id"]


def test_failed_write_leaves_the_old_file(npz: Path, monkeypatch: pytest.MonkeyPatch):
    before = npz.read_bytes()
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(npz, {"a": np.zeros(3), "b": np.array([None])})
    assert npz.read_bytes() == before
    assert [p.name for p in npz.parent.iterdir()] == ["toy.npz"]


def test_fingerprint(tmp_path: Path, arrays: dict[str, np.ndarray]):
    def fingerprint(changed: dict[str, np.ndarray], modalities: list[str] | None = None) -> str:
        write_arrays(tmp_path / "toy.npz", {**arrays, **changed})
        return open_dataset(tmp_path / "toy.npz", modalities).fingerprint()

    base = fingerprint({})
    assert len(base) == 32
    assert base == fingerprint({"train/extra": np.zeros(3)})
    for key in ("train/text", "valid/regression_labels", "test/audio"):
        assert base != fingerprint({key: arrays[key] + 1}), key
    assert base != fingerprint({"train/audio": arrays["train/audio"].astype(np.float64)})
    assert base != fingerprint({"train/id": np.array([f"other{i}" for i in range(20)])})
    assert fingerprint({}, ["text"]) == fingerprint({"train/audio": arrays["train/audio"] + 1}, ["text"]) != base


def test_flat_features_and_half_precision(tmp_path: Path, arrays: dict[str, np.ndarray]):
    for split in SPLITS:
        arrays[f"{split}/text"] = arrays[f"{split}/text"].mean(1).astype(np.float16)
    arrays["train/text"][2] = 0
    write_arrays(tmp_path / "toy.npz", arrays)
    train = open_dataset(tmp_path / "toy.npz").split("train")
    assert train.features["text"].shape == (20, 1, 20) and train.features["text"].dtype == np.float32
    assert train.lengths["text"].tolist() == [1, 1, 0] + [1] * 17


def test_describe(npz: Path, small: dict[str, Split]):
    told = json.loads(json.dumps(describe(open_dataset(npz))))
    train = told["splits"]["train"]
    assert train["samples"] == 20 and train["labels"]["mean"] == pytest.approx(float(small["train"].labels.mean()))
    assert train["features"]["audio"] == {"shape": [20, 20, 8], "longest": 20, "missing": 0.0, "constant_columns": 0}
    assert told["convention"] == "mosi"
    assert told["splits"]["test"] == {
        "samples": 9,
        "features": {"text": {"shape": [9, 12, 20]}, "audio": {"shape": [9, 20, 8]}, "vision": {"shape": [9, 10, 6]}},
    }, "nothing but sizes of the test split"


def test_describe_counts_missing_and_constant(tmp_path: Path, arrays: dict[str, np.ndarray]):
    arrays["train/vision"][:5] = 0
    arrays["train/vision"][5:, :, 1] = 2.5
    arrays["train/audio"][:] = 0
    for split in SPLITS:
        arrays[f"{split}/regression_labels"] = np.clip(arrays[f"{split}/regression_labels"], -1, 1)
    write_arrays(tmp_path / "toy.npz", arrays)
    told = describe(open_dataset(tmp_path / "toy.npz"))
    features = told["splits"]["train"]["features"]
    assert (features["vision"]["missing"], features["vision"]["constant_columns"]) == (0.25, 1)
    assert (features["audio"]["missing"], features["audio"]["constant_columns"]) == (1.0, 8)
    assert told["convention"] == "sims"


def test_second_header_version(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array(file, np.zeros((2, 3)), version=(2, 0))
    assert NpzSource(tmp_path / "a.npz").shape("x") == (2, 3)


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_real_files(real_data: Path, name: str):
    dataset = open_dataset(real_data / f"{name}.npz")
    assert tuple(len(dataset.ids(s)) for s in SPLITS) == SIZES[name]
    for split in (dataset.split(s) for s in SPLITS):
        for m, lengths in split.lengths.items():
            assert split.features[m].shape[1] == max(1, lengths.max())
            assert not split.features[m][~split.real_rows(m)].any()
    assert describe(dataset)["convention"] == ("sims" if name[:4] in ("chsi", "meld") else "mosi")


@pytest.mark.data
def test_zero_rows_tell_the_lengths_of_real_sequences(real_data: Path):
    with np.load(real_data / "mosi_seq229.npz") as file:
        lengths = file["train/lengths"]
    split = open_dataset(real_data / "mosi_seq229.npz").split("train")
    for m in MODALITIES:
        np.testing.assert_array_equal(split.lengths[m], lengths)


@pytest.mark.data
def test_human_labels_of_chsims(real_data: Path):
    train = open_dataset(real_data / "chsims2281_labels_text.npz").split("train")
    assert train.unimodal.keys() == {"text"} and not np.array_equal(train.unimodal["text"], train.labels)
    assert train.raw_text[0] == "我不想嫁给李茶"


def test_rows_without_labels_come_with_train(tmp_path: Path) -> None:
    """They keep their place behind the labelled rows, and a modality that they lack is missing."""
    made = planted(0, train=12, valid=4, test=4)
    extra = planted(1, train=5, valid=2, test=2)["train"]
    write(tmp_path / "data.npz", {**made, "train": replace(made["train"], unlabeled=extra)})
    train = open_dataset(tmp_path / "data.npz").split("train")
    assert train.unlabeled is not None and len(train) == 12 and len(train.unlabeled) == 5
    for m, values in extra.features.items():
        longest = train.unlabeled.features[m].shape[1]
        np.testing.assert_array_equal(train.unlabeled.features[m], values[:, :longest])
        assert not values[:, longest:].any()
    assert not train.unlabeled.labels.any()
    tensors = SplitTensors(train, torch.device("cpu"))
    assert len(tensors) == 12 and tensors.rows.unlabeled == 5 and len(tensors.labels) == 17
    batch = tensors.batch(MemberConfig.from_dict({"encoders": {"audio": "lstm", "text": "lstm"}}))
    own = train.unlabeled.features["audio"]
    np.testing.assert_array_equal(batch.features[1].values[12:, : own.shape[1]], own)
    assert batch.available.all() and len(tensors.rows.domains) == 17

    source = NpzSource(tmp_path / "data.npz")
    kept = {k: source.read(k) for k in source.keys if k not in ("unlabeled/vision", "unlabeled/vision_lengths")}
    write_arrays(tmp_path / "some.npz", kept)
    some = open_dataset(tmp_path / "some.npz")
    unlabeled = some.split("train").unlabeled
    assert unlabeled is not None and not unlabeled.lengths["vision"].any()
    assert some.fingerprint() != open_dataset(tmp_path / "data.npz").fingerprint()
    write_arrays(tmp_path / "wide.npz", {**kept, "unlabeled/audio": np.zeros((5, 3), np.float32)})
    with pytest.raises(UserError, match=r"unlabeled/audio has shape \[5, 3\]; it must be \[samples, time, "):
        open_dataset(tmp_path / "wide.npz").split("train")
