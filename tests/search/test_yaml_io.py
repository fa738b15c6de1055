"""YAML that is made to exhaust the machine, to run something, or to be misread is refused with the line where it is."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from mmsa_core.errors import UserError
from search.yaml_io import DEEPEST, LARGEST, parse_yaml, read_yaml
from tests.fuzz.mutate import BOMB, MERGED


@pytest.mark.parametrize("bomb", [BOMB, MERGED], ids=["anchors", "merge keys"])
def test_anchors_are_counted_as_copies(bomb: str) -> None:
    """Nine lines stand for 9^9 values: read or copied, they would take all memory."""
    tracemalloc.start()
    with pytest.raises(UserError, match=f"line 6: more than {LARGEST} values, or nested deeper than {DEEPEST}"):
        parse_yaml(bomb, "study")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_anchors_that_are_used_as_meant_are_read() -> None:
    text = "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]"
    assert parse_yaml(text, "study") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 3000, "- " * 4000], ids=["lists", "mappings", "blocks"])
def test_depth_is_bounded(text: str) -> None:
    with pytest.raises(UserError, match=f"study: line 1: nested deeper than {DEEPEST}"):
        parse_yaml(text, "study")
    assert parse_yaml("[" * 60 + "]" * 60, "study") is not None


def test_depth_counts_what_anchors_hold() -> None:
    chain = "a0: &a0 x\n" + "".join(f"a{k}: &a{k} [[[[*a{k - 1}]]]]\n" for k in range(1, 40))
    with pytest.raises(UserError, match="line 17: more than"):
        parse_yaml(chain, "study")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: !!python/object/apply:os.system [ls]",
            "the tag .*python/object/apply:os.system' is not read; leave it out",
        ),
        ("a: !!int ''", "the tag .*int' is not read"),
        ("a: !!timestamp x", "the tag .*timestamp' is not read"),
        ("a: !mine 1", "the tag '!mine' is not read"),
        ("a: " + "9" * 19, r"a whole number must be below 2\^63"),
        ("a: 0x" + "f" * 9999, r"a whole number must be below 2\^63"),
        ("a: 1:30", "bare 1:30 is a number to the base 60 in YAML; quote it"),
        ("a: 1:30.5", "bare 1:30.5 is a number to the base 60"),
    ],
)
def test_what_is_not_plain_data_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^study: line 1: {message}"):
        parse_yaml(text, "study")


def test_a_path_that_no_file_system_has(tmp_path: Path) -> None:
    for name in ("a\0b.yaml", "x" * 300 + ".yaml"):
        with pytest.raises(UserError, match="cannot be read as UTF-8 text") as caught:
            read_yaml(f"{tmp_path}/{name}")
        assert str(caught.value).isprintable()
