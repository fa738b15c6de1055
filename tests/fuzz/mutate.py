"""Makes broken and hostile inputs from sound ones: text, bytes, arrays, JSON and pickles."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MARKER = "fuzz-was-run"
"""A file that a hostile input makes where its code is run."""
TOKENS = (
    "null", "~", ".nan", ".inf", "-1", "0", "1e400", "1e-3", "9" * 400, "0x7f", "0x" + "f" * 5000, "1:59:59", "''", '"',
    "[]", "{}", "[", "}", ":", "- ", "? ", "&a", "*a", "<<: *a", f"!!python/object/apply:os.system ['touch {MARKER}']",
    "!!binary aGVsbG8=", "!!set {a, b}", "!!timestamp 2001-01-01", "!!int ''", "!!map [a]", "yes", "off", "\t", "\x00",
    "\ufeff", "\u202e", "\x1b[31m", "\xe9" * 30, "---\n", "...\n", "|\n  x\n", '"a\\nb"', '"\\0.yaml"', "x/" * 3000,
    "%YAML 9.9\n", "choice: {}", "choice: {none: {}}", "float: [1, 0]", "float: [0, 1], log: true", "int: [1]",
    "int: [0, 9007199254740992]", "name: none", "default: x", "true", "1.0e+308", "[1, 2, 3]", "{a: {b: {c: 1}}}",
)  # fmt: skip
LEAVES = "abcdefgh"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip(LEAVES, LEAVES[1:] + "i", strict=True)
)
MERGED = "a: &a {k: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 9)}]}}\n" for a, b in zip(LEAVES, LEAVES[1:] + "i", strict=True)
)
WHOLE = (
    BOMB, MERGED, "[" * 5000, "{a: " * 3000, "a: " + "&x " * 500, "- " * 4000, "", "a: &a [*a]", "a: &a {b: *a}",
    "? " * 999,
)  # fmt: skip
"""Texts that are hostile as a whole: anchors that multiply, and depth."""
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 1e308, float("nan"), "", "x" * 999, "\x1b[31m\n", [], {}, [[[[]]]], [1, "a", None],
    {"a": {}}, "../../../etc/passwd",
)  # fmt: skip
"""What stands in the place of a value of JSON."""


def text(original: str, rng: random.Random) -> str:
    """Return a YAML text with a few lines or pieces changed, now and then hostile as a whole."""
    if rng.random() < 0.01:
        whole = rng.choice(WHOLE)
        return original + whole if rng.random() < 0.5 else whole
    lines = original.split("\n")
    for _ in range(rng.randint(1, 4)):
        k, kind = rng.randrange(len(lines)), rng.randrange(6)
        line = lines[k]
        if kind == 0:
            lines[k] = line[: rng.randint(0, len(line))] + rng.choice(TOKENS) + line[rng.randint(0, len(line)) :]
        elif kind == 1 and ":" in line:
            lines[k] = line.partition(":")[0] + ": " + rng.choice(TOKENS)
        elif kind == 2:
            lines.insert(k, lines[rng.randrange(len(lines))])
        elif kind == 3:
            del lines[k]
            lines = lines or [""]
        elif kind == 4:
            lines[k] = " " * rng.randint(0, 9) + line.lstrip()
        else:
            at = rng.randint(0, len(line))
            lines[k] = line[:at] + chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xD7FF)])) + line[at:]
    return "\n".join(lines)


def blob(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with some flipped, cut, doubled or replaced."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        if not out:
            break
        at, kind = rng.randrange(len(out)), rng.randrange(4)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at : at + rng.randint(1, 40)]
        elif kind == 2:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        else:
            out[at : at + 4] = rng.choice([b"\x00" * 4, b"\xff" * 4, b"\x00\x00\x00\x7f", rng.randbytes(4)])
    return bytes(out[: rng.randint(0, len(out))] if rng.random() < 0.1 else out)


def member(data: bytes, rng: random.Random) -> bytes:
    """Return a zip archive in which one member is changed, with the checksum that the archive needs to be read."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    spoilt = rng.choice(names)
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            if name != spoilt:
                archive.writestr(name, source.read(name))
            elif rng.random() < 0.9:
                archive.writestr(name, array(source.read(name), rng))
    return target.getvalue()


def array(data: bytes, rng: random.Random) -> bytes:
    """Return an .npy file that is changed: its header says something else, or its values are others."""
    kind = rng.randrange(4)
    if kind == 0:
        return blob(data, rng)
    header = data.index(b"\n") + 1
    if kind == 1:
        return data[:header] + blob(data[header:], rng)
    if kind == 2:
        claims = (
            b"(1152921504606846976,)",
            b"(4294967296, 4294967296)",
            b"(-1,)",
            b"()",
            b"(0, 9)",
            b"(" * 4000,
            b"(1e9,)",
        )
        at = data.index(b"'shape': ") + 9
        text_ = data[10:at] + rng.choice(claims) + b", }"
        text_ += b" " * (-(len(text_) + 11) % 64) + b"\n"
        return data[:8] + len(text_).to_bytes(2, "little") + text_ + data[header:]
    made = rng.choice(
        [
            np.zeros(6), np.zeros(()), np.zeros((6, 0)), np.zeros((0, 3)), np.zeros((6, 2, 3, 4)), np.full(6, 1e300),
            np.full((6, 3), np.nan), np.array(["x"] * 6), np.array([b"x"] * 6), np.zeros(6, "M8[s]"),
            np.zeros(6, "i4,f4"), np.zeros(6, complex), np.zeros(6, bool), np.arange(6), np.full((6, 3, 2), -(2**40)),
            np.zeros(6, "(2,3)f4"),
            np.zeros(6, "V0"), np.frombuffer(b"\xff" * 24, "<U1"), np.frombuffer(b"\xff" * 6, "?"),
        ]
    )  # fmt: skip
    file = io.BytesIO()
    np.lib.format.write_array(file, made)
    return file.getvalue()


def cut(data: bytes, rng: random.Random) -> bytes:
    """Return a JSON record that is no record any more: cut off, empty, another type, or no text."""
    return rng.choice([b"", b"null", b"[]", b"[" * 100_000, data[: rng.randrange(len(data) - 2)], data + b"\xff"])


def record(data: Any, rng: random.Random) -> str:
    """Return JSON in which one value is another, missing, or of another type; now and then it is no JSON."""
    whole = json.loads(json.dumps(data))
    node, path = whole, []
    while isinstance(node, dict | list) and node and (not path or rng.random() < 0.7):
        key = rng.choice([*node]) if isinstance(node, dict) else rng.randrange(len(node))
        path.append((node, key))
        node = node[key]
    if path:
        parent, key = path[-1]
        if rng.random() < 0.3:
            del parent[key]
        else:
            parent[key] = rng.choice(VALUES)
    written = json.dumps(whole)
    kind = rng.random()
    return written if kind > 0.2 else rng.choice(["", "null", "[" * 100_000, written[: len(written) // 2], "[]", "{}"])


class Bad:
    """Runs a command when it is unpickled by an unpickler that lets it."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def hostile(splits: dict[str, dict[str, Any]], rng: random.Random) -> bytes:
    """Return a pickle in MMSA's layout with something in it that is no data."""
    import builtins
    import codecs
    import os

    cyclic: list[Any] = []
    cyclic.append(cyclic)
    nested: Any = [0.0] * 9
    for _ in range(9):
        nested = [nested] * 9
    deep: Any = ()
    for _ in range(300):
        deep = (deep,)
    calls = [
        Bad(os.system, f"touch {MARKER}"), Bad(builtins.eval, f"open({MARKER!r}, 'w')"), Bad(open, MARKER, "w"),
        Bad(builtins.exec, f"open({MARKER!r}, 'w')"), Bad(Path, MARKER), Bad(np.load, MARKER, None, True),
        Bad(bytearray, 2**40), Bad(bytes, 2**40), Bad(__import__, "os"), Bad(np.dtype, "O"), Bad(np.ndarray, (2**40,)),
        Bad(np.empty(0).__reduce__()[0], np.ndarray, (2**40,), b"b"), Bad(codecs.encode, "x" * 9999, "punycode"),
        Bad(int, "9" * 9999), Bad(list, "x" * 999), cyclic, nested, {deep: 1}, {1, 2}, frozenset("ab"), 2**9000, object,
        ["x" * 100_000] + [""] * 100_000, [1, [2, [3]]], {"a": 1}, None, "text", 1.5, [None] * 6, [b"x"] * 6, [1j] * 6,
        np.zeros(6, "M8[s]"), np.zeros(6, "i4,f4"), np.array([[1], [1, 2]], dtype=object), np.float64(3),
        [np.zeros(3)] * 6,
    ]  # fmt: skip
    content: dict[str, Any] = {name: dict(part) for name, part in splits.items()}
    split = rng.choice(list(content))
    content[split][rng.choice(list(content[split]))] = rng.choice(calls)
    return pickle.dumps(content, protocol=rng.randint(0, 5))


def amplified(size: int) -> bytes:
    """Return a pickle of about ``size`` bytes whose arrays would take a thousand times its square."""
    text_ = b"x" * (size // 2)
    start = (
        b"\x80\x02c_codecs\nencode\nq\x00X" + len(text_).to_bytes(4, "little") + text_ + b"q\x01X\x06\0\0\0latin1q\x020"
    )
    return start + b"0]q\x03(" + b"h\x00h\x01h\x02\x86R" * (size // 20) + b"e."
