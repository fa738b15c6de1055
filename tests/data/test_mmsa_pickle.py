"""MMSA's pickles are read as they were published, and a pickle that wants to run something is refused unrun."""

from __future__ import annotations

import codecs
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
from tests.fuzz.mutate import amplified


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


class Call:
    """Calls something when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Call(bytearray, 2**40), "truncated or damaged"),
        (Call(np.ndarray, (2**40,)), "asks for numpy.ndarray"),
        (Call(codecs.encode, "x" * 10_000, "punycode"), "asks for the encoding 'punycode'"),
        (Call(int, "9"), "asks for builtins.int"),
        ({1, 2}, "asks for the operation EMPTY_SET"),
        ({((),): 1}, "asks for a key that is neither text nor number"),
        (np.zeros(2, "i4,f4"), "asks for the dtype 'V8'"),
        (np.zeros(2, "M8[s]"), "asks for the dtype 'M8'"),
    ],
)
def test_what_makes_no_data_is_not_called(tmp_path: Path, layout: dict[str, Any], value: Any, message: str):
    layout["train"]["extra"] = value
    with pytest.raises(UserError, match=message):
        open_dataset(save(tmp_path / "evil.pkl", layout))


def test_a_dtype_of_the_process_is_not_changed(tmp_path: Path):
    """The state of a dtype that is not a copy is that of every array: here it said that float32 holds objects."""
    content = b"\x80\x02cnumpy\ndtype\n(X\x02\0\0\0f4\x89\x89tR"
    content += b"(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb."
    (tmp_path / "evil.pkl").write_bytes(content)
    with pytest.raises(UserError, match="holds a Dtype"):
        open_dataset(tmp_path / "evil.pkl")
    assert not np.dtype("float32").hasobject and np.zeros(3, np.float32).sum() == 0


@pytest.mark.parametrize(
    "state",
    [
        (1, (2**60,), np.dtype("f4"), False, b""),
        (1, (2**32, 2**32), np.dtype("f4"), False, b""),
        (1, (-1,), np.dtype("f4"), False, b""),
        (1, (3,), np.dtype("O"), False, [1]),
        (1, (3,), None, False, b"123"),
    ],
)
def test_an_array_is_no_larger_than_its_bytes(tmp_path: Path, layout: dict[str, Any], state: tuple[Any, ...]):
    class Claim:
        def __reduce__(self) -> tuple[Any, ...]:
            return (*np.zeros(1).__reduce__()[:2], state)

    layout["train"]["extra"] = Claim()
    with pytest.raises(UserError, match=r"truncated or damaged|an array without dtype or shape"):
        open_dataset(save(tmp_path / "evil.pkl", layout))


def test_lists_that_multiply_are_counted(tmp_path: Path, layout: dict[str, Any]):
    nested: Any = [0.0] * 1000
    for _ in range(3):
        nested = [nested] * 1000
    layout["train"]["audio"] = nested
    with pytest.raises(UserError, match="train/audio is or holds more memory than 16 times its size"):
        open_dataset(save(tmp_path / "bomb.pkl", layout))
    layout["train"]["audio"] = ["x" * 1_000_000] + [""] * 1000
    with pytest.raises(UserError, match="train/audio is or holds more memory"):
        open_dataset(save(tmp_path / "bomb.pkl", layout))
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    layout["train"]["audio"] = cyclic
    with pytest.raises(UserError, match="train/audio is or holds lists that are nested deeper than 4"):
        open_dataset(save(tmp_path / "bomb.pkl", layout))


def test_text_that_is_encoded_again_and_again_is_counted(tmp_path: Path):
    """A megabyte that is copied by every five bytes of the file."""
    (tmp_path / "bomb.pkl").write_bytes(amplified(2_000_000))
    with pytest.raises(UserError, match="asks for more memory than 16 times its size"):
        open_dataset(tmp_path / "bomb.pkl")


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
