"""Every mistake in a data file is one sentence with place, value, rule and fix."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.npz import write_arrays
from mmsa_core.errors import UserError

Arrays = dict[str, np.ndarray]


def set_to(key: str, index: object, value: object) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[key][index] = value

    return spoil


def replace(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[key] = change(arrays[key])

    return spoil


def drop(*keys: str) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        for key in [k for k in arrays if k.startswith(keys)]:
            del arrays[key]

    return spoil


STRUCTURE = {
    "rows": (
        replace("valid/audio", lambda a: a[:-1]),
        r"^toy.npz: valid/audio has 7 rows but valid/regression_labels has 8; every array of a split needs one row per",
    ),
    "ids": (replace("train/id", lambda a: a[:-2]), "train/id has 18 rows but train/regression_labels has 20"),
    "axes": (
        replace("train/text", lambda a: a[..., None]),
        r"train/text has shape \[20, 12, 20, 1\]; it must be \[samples",
    ),
    "no width": (
        replace("test/text", lambda a: a[..., :0]),
        r"test/text has shape \[9, 12, 0\].*without an empty axis",
    ),
    "label axes": (replace("test/regression_labels", lambda a: a[:, None]), r"shape \[9, 1\]; it must be \[samples\]"),
    "no axis": (replace("train/regression_labels", lambda a: a[0]), r"shape \[\]; it must be \[samples\]"),
    "empty": (replace("valid/regression_labels", lambda a: a[:0]), "valid is empty; every split needs at least one"),
    "no split": (drop("test/"), "the split 'test' is missing; a data set needs train, valid and test"),
    "no labels": (drop("valid/regression_labels"), "valid/regression_labels is missing; every split needs it"),
    "no id": (drop("test/id"), "test/id is missing"),
    "lost modality": (drop("test/vision"), "test/vision is missing"),
    "no features": (drop("train/text", "train/audio", "train/vision"), "train has no features"),
    "width": (
        replace("test/vision", lambda a: a[..., :-1]),
        "test/vision has width 5 but train/vision has 6; extract all splits with the same features",
    ),
    "id twice": (set_to("train/id", 1, "train0000$_$0"), r"the id 'train0000\$_\$0' occurs twice in train"),
    "id in two": (set_to("train/id", 1, "test0000$_$0"), r"the id 'test0000\$_\$0' occurs in train and in test"),
}
VALUES = {
    "nan": (set_to("train/audio", (3, 2), np.nan), r"train/audio has 8 values that are NaN.*data: \{nonfinite: zero\}"),
    "inf": (set_to("train/vision", (0, 0, 0), np.inf), "train/vision has 1 values that are NaN or infinite"),
    "label": (set_to("train/regression_labels", 4, np.nan), "train/regression_labels has 1 values.*the first in row 4"),
    "half a character": (set_to("train/id", 2, "a\udc64"), r"train/id\[2\] holds half of a character"),
    "words": (replace("train/text", lambda a: a.astype(np.str_)), "train/text has dtype <U.*it must hold numbers"),
}


@pytest.mark.parametrize(("spoil", "message"), STRUCTURE.values(), ids=STRUCTURE)
def test_structure_is_checked_when_opened(
    tmp_path: Path, arrays: Arrays, spoil: Callable[[Arrays], None], message: str
):
    spoil(arrays)
    write_arrays(tmp_path / "toy.npz", arrays)
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path / "toy.npz")


@pytest.mark.parametrize(("spoil", "message"), VALUES.values(), ids=VALUES)
def test_values_are_checked_when_loaded(tmp_path: Path, arrays: Arrays, spoil: Callable[[Arrays], None], message: str):
    spoil(arrays)
    write_arrays(tmp_path / "toy.npz", arrays)
    dataset = open_dataset(tmp_path / "toy.npz")
    dataset.split("valid")
    with pytest.raises(UserError, match=message):
        dataset.split("train")
    with pytest.raises(UserError, match=message):
        dataset.check()


@pytest.mark.parametrize("bad", [-1, 21, np.nan])
def test_lengths_must_fit(tmp_path: Path, arrays: Arrays, bad: float):
    arrays["train/audio_lengths"] = np.array([5.0] * 19 + [bad])
    write_arrays(tmp_path / "toy.npz", arrays)
    with pytest.raises(UserError, match=rf"train/audio_lengths\[19\] is {bad}; a length must lie in 0..20"):
        open_dataset(tmp_path / "toy.npz").split("train")


def test_unused_modality_is_not_checked(tmp_path: Path, arrays: Arrays):
    arrays["train/audio"][:] = np.nan
    del arrays["test/audio"]
    write_arrays(tmp_path / "toy.npz", arrays)
    open_dataset(tmp_path / "toy.npz", ["text", "vision"]).check()


def test_nonfinite_zero(tmp_path: Path, arrays: Arrays):
    arrays["train/audio"][3, 2] = np.nan
    arrays["train/audio"][4] = -np.inf
    write_arrays(tmp_path / "toy.npz", arrays)
    train = open_dataset(tmp_path / "toy.npz", nonfinite="zero").split("train")
    assert (train.features["audio"][3, 2] == 0).all()
    assert train.lengths["audio"][4] == 0, "a sample without a finite value lacks the modality"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["text", "vison"], "has no modality 'vison'; did you mean 'vision'"),
        (["smell"], "has no modality 'smell'; known: audio, text, vision"),
        ([], "the list of modalities is empty"),
    ],
)
def test_wanted_modalities(npz: Path, wanted: list[str], message: str):
    with pytest.raises(UserError, match=message):
        open_dataset(npz, wanted)


def test_modalities_come_in_canonical_order(npz: Path):
    assert open_dataset(npz, ["vision", "text"]).modalities == ("text", "vision")
    assert open_dataset(npz).dims() == {"text": 20, "audio": 8, "vision": 6}


def test_missing_file_and_wrong_format(tmp_path: Path, npz: Path):
    with pytest.raises(UserError, match=r"nowhere.npz: there is no such file"):
        open_dataset(tmp_path / "nowhere.npz")
    with pytest.raises(UserError, match=r"data.csv: the data must be an .npz or an MMSA .pkl, got suffix '.csv'"):
        open_dataset(tmp_path / "data.csv")
    with pytest.raises(UserError, match="must be 'refuse' or 'zero', got 'ignore'"):
        open_dataset(npz, nonfinite="ignore")  # type: ignore[arg-type]


def test_damaged_npz(tmp_path: Path, npz: Path):
    whole = npz.read_bytes()
    npz.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"toy.npz: is not a readable .npz of plain arrays \(File is not a zip file\)"):
        open_dataset(npz)
    npz.write_bytes(b"PK")
    with pytest.raises(UserError, match="copy it again"):
        open_dataset(npz)


def test_damaged_array(npz: Path):
    content = bytearray(npz.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
    npz.write_bytes(content)
    with pytest.raises(UserError, match=r"is not a readable \.npz of plain arrays"):
        open_dataset(npz).check()


def test_damaged_header(npz: Path):
    with zipfile.ZipFile(npz, "a") as archive:
        archive.writestr("valid/raw_text.npy", b"not an array")
    with pytest.raises(UserError, match="valid/raw_text: the magic string is not correct"):
        open_dataset(npz)


def test_npz_with_objects_is_refused(tmp_path: Path, arrays: Arrays):
    path = tmp_path / "toy.npz"
    np.savez(path, **{**arrays, "train/id": arrays["train/id"].astype(object)})
    with pytest.raises(UserError, match="train/id: holds Python objects"):
        open_dataset(path)


@pytest.mark.parametrize(
    "claim", [b"(1152921504606846976,)", b"(4294967296, 4294967296)", b"(-1,)", b"(" * 4000, b"(1e9,)"]
)
def test_a_header_must_say_what_is_there(tmp_path: Path, arrays: Arrays, claim: bytes):
    """Nothing is made of a claim: 2^60 values would not fit into any machine."""
    path = tmp_path / "toy.npz"
    write_arrays(path, arrays)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    spoilt = parts["train/regression_labels.npy"]
    at = spoilt.index(b"'shape': ") + 9
    header = spoilt[10:at] + claim + b", }\n"
    parts["train/regression_labels.npy"] = spoilt[:8] + len(header).to_bytes(2, "little") + header + spoilt[128:]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match=r"toy\.npz: is not a readable .npz of plain arrays .train/regression_labels: "):
        open_dataset(path)


def test_an_array_that_no_memory_holds(monkeypatch: pytest.MonkeyPatch, npz: Path):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100))
    with pytest.raises(
        UserError, match=r"takes 0\.0 GB and this machine has 0.0 GB free; take a machine with more memory"
    ):
        open_dataset(npz)


def test_text_of_numbers_that_are_no_characters(tmp_path: Path, arrays: Arrays):
    arrays["train/id"] = np.frombuffer(b"\xff" * 80, "<U1")
    write_arrays(tmp_path / "toy.npz", arrays)
    with pytest.raises(UserError, match="train/id: its text holds characters that do not exist"):
        open_dataset(tmp_path / "toy.npz")
