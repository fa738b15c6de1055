"""MMSA's pickles are read as they were published, and a pickle that wants to run something is refused unrun."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmsa_core.data.convert import convert
from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.source import SPLITS
from mmsa_core.data.split import Split
from mmsa_core.errors import UserError
from tests.data.conftest import mmsa_layout
from tests.data.test_dataset import assert_equal


@pytest.fixture
def layout(small: dict[str, Split]) -> dict[str, dict[str, Any]]:
    return copy.deepcopy(mmsa_layout(small))


def save(path: Path, content: object, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_every_protocol(tmp_path: Path, small: dict[str, Split], layout: dict[str, Any], protocol: int):
    dataset = open_dataset(save(tmp_path / "mmsa.pkl", layout, protocol))
    for name in SPLITS:
        read = dataset.split(name)
        assert read.raw_text == ("",) * len(read)
        assert_equal(Split(**{**vars(read), "raw_text": ()}), small[name])


def test_reads_pickles_of_numpy_1(tmp_path: Path, layout: dict[str, Any]):
    """Numpy 1 wrote ``numpy.core``, and 0 and 1 for the flags of a dtype."""
    content = pickle.dumps(layout, protocol=2).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"numpy._core" not in content and b"\x89\x88\x87" in content
    (tmp_path / "old.pkl").write_bytes(content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87"))
    open_dataset(tmp_path / "old.pkl").check()


def test_minus_infinity_in_audio_is_zero(tmp_path: Path, layout: dict[str, Any]):
    layout["train"]["audio"][0, 1] = -np.inf
    path = save(tmp_path / "mmsa.pkl", layout)
    assert (open_dataset(path).split("train").features["audio"][0, 1] == 0).all()
    layout["train"]["vision"][0, 1] = -np.inf
    with pytest.raises(UserError, match="train/vision has 6 values that are NaN or infinite"):
        open_dataset(save(path, layout)).split("train")


def test_convert_keeps_everything(tmp_path: Path, small: dict[str, Split], layout: dict[str, Any]):
    layout["train"]["audio"] = layout["train"]["audio"].astype(np.float64)
    layout["train"]["regression_labels_T"] = small["train"].labels / 2
    source = save(tmp_path / "mmsa.pkl", layout)
    convert(source, tmp_path / "new" / "mmsa.npz")
    before, after = open_dataset(source), open_dataset(tmp_path / "new" / "mmsa.npz")
    for name in SPLITS:
        assert_equal(before.split(name), after.split(name))
    with np.load(tmp_path / "new" / "mmsa.npz", allow_pickle=False) as file:
        assert file["train/audio"].dtype == np.float32
        assert file["train/text_bert"].dtype == np.int32
        np.testing.assert_array_equal(file["train/text_bert"], layout["train"]["text_bert"])


def test_convert_refuses_wrong_paths(tmp_path: Path, layout: dict[str, Any]):
    with pytest.raises(UserError, match=r"the target must end in .npz, got suffix '.pkl'"):
        convert(save(tmp_path / "mmsa.pkl", layout), tmp_path / "other.pkl")
    with pytest.raises(UserError, match=r"no\.pkl: there is no such file"):
        convert(tmp_path / "no.pkl", tmp_path / "other.npz")


class Malicious:
    """Runs a shell command when it is unpickled the ordinary way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickle_is_not_run(tmp_path: Path, layout: dict[str, Any], protocol: int):
    mark = tmp_path / "was-run"
    layout["train"]["extra"] = Malicious(mark)
    path = save(tmp_path / "evil.pkl", layout, protocol)
    for read in (open_dataset, lambda p: convert(p, tmp_path / "evil.npz")):
        with pytest.raises(UserError, match=r"^evil.pkl: the pickle asks for (posix|nt)\.system, which is no array"):
            read(path)
        assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists(), "the pickle must be one that does harm when it is loaded without care"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"ccopyreg\n_reconstructor\n.",
    ],
)
def test_other_globals_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "evil.pkl").write_bytes(content)
    with pytest.raises(UserError, match="the pickle asks for"):
        open_dataset(tmp_path / "evil.pkl")


def test_truncated_or_other_content(tmp_path: Path, layout: dict[str, Any]):
    path = save(tmp_path / "mmsa.pkl", layout)
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"mmsa.pkl: the pickle is truncated or damaged"):
            open_dataset(path)
    path.write_bytes(b"Pwhere\nQ.")
    with pytest.raises(UserError, match="the pickle asks for the operation PERSID, which is no array and was not run"):
        open_dataset(path)
    with pytest.raises(UserError, match="holds a list; MMSA's layout is a dict with train, valid and test"):
        open_dataset(save(path, [1, 2]))
    with pytest.raises(UserError, match="train is a list; MMSA's layout has a dict for each split"):
        open_dataset(save(path, {"train": []}))


def test_unequal_sequences_are_refused(tmp_path: Path, layout: dict[str, Any]):
    layout["valid"]["audio"] = [np.zeros((i, 8)) for i in range(1, 9)]
    with pytest.raises(UserError, match="valid/audio is a list of unequal shapes"):
        open_dataset(save(tmp_path / "mmsa.pkl", layout))


@pytest.mark.data
@pytest.mark.parametrize("name", ["mosi_seq229", "chsims2281_labels_text"])
def test_round_trip_of_real_data(tmp_path: Path, real_data: Path, name: str):
    native = open_dataset(real_data / f"{name}.npz")
    splits = {s: native.split(s) for s in SPLITS}
    path = save(tmp_path / "mmsa.pkl", mmsa_layout(splits))
    convert(path, tmp_path / "mmsa.npz")
    for read in (open_dataset(path), open_dataset(tmp_path / "mmsa.npz")):
        for s in SPLITS:
            assert_equal(read.split(s), splits[s])
