"""Feeds broken and hostile files to every reader of what a person gives: study, space, configuration, .npz, pickle.

Whatever comes in, the reader returns or raises one sentence (UserError): no other exception, no hang, and no code of
the file is run. ``python -m tests.fuzz --inputs 100000`` does it at length; tests/search/test_fuzz.py in short.
"""

from __future__ import annotations

import argparse
import pickle
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.source import SPLITS
from mmsa_core.data.synthetic import planted, write_planted
from mmsa_core.errors import UserError
from search.configs import read_config
from search.space import Space
from search.study import StudyConfig

ROOT = Path(__file__).parents[1]
SECONDS = 20
"""An input that takes longer hangs; the slowest sound one takes some hundredths."""
MARKER = "fuzz-was-run"
TOKENS = (
    "null", "~", ".nan", ".inf", "-1", "0", "1e400", "1e-3", "9" * 400, "0x7f", "''", '"', "[]", "{}", "[", "}", ":",
    "- ", "? ", "&a", "*a", "<<: *a", "!!python/object/apply:os.system ['touch fuzz-was-run']", "!!binary aGVsbG8=",
    "!!set {a, b}", "!!timestamp 2001-01-01", "yes", "off", "\t", "\x00", "\ufeff", "\u202e", "\xe9" * 30, "---\n",
    "...\n", "|\n  x\n", "%YAML 9.9\n", "choice: {}", "choice: {none: {}}", "float: [1, 0]", "float: [0, 1], log: true",
    "int: [1]", "name: none", "default: x", "true",
)  # fmt: skip
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


class HangError(Exception):
    """An input took too long."""


def mutated_text(text: str, rng: random.Random) -> str:
    """Return a YAML text with a few lines or pieces changed, now and then hostile as a whole."""
    if rng.random() < 0.01:
        return rng.choice([BOMB, text + BOMB, "[" * 5000, "{a: " * 3000, "a: " + "&x " * 500, "- " * 4000, ""])
    lines = text.split("\n")
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


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
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


class Bad:
    """Runs a command when it is unpickled by an unpickler that lets it."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def hostile(splits: dict[str, dict[str, Any]], rng: random.Random) -> bytes:
    """Return a pickle in MMSA's layout with something in it that is no data."""
    import builtins
    import os

    calls = [
        Bad(os.system, f"touch {MARKER}"), Bad(builtins.eval, f"open({MARKER!r}, 'w')"), Bad(open, MARKER, "w"),
        Bad(builtins.exec, f"open({MARKER!r}, 'w')"), Bad(Path, MARKER), Bad(np.load, MARKER, None, True),
        Bad(bytearray, 2**40), Bad(__import__, "os"), Bad(np.dtype, "O"),
    ]  # fmt: skip
    content: dict[str, Any] = {name: dict(part) for name, part in splits.items()}
    split = rng.choice(list(content))
    content[split][rng.choice(list(content[split]))] = rng.choice(calls)
    return pickle.dumps(content, protocol=rng.randint(0, 4))


class Fuzzer:
    """Makes inputs of one kind after another and feeds each to its reader."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.studies = [p.read_text("utf-8") for p in sorted((ROOT / "spaces" / "studies").glob("*.yaml"))]
        self.spaces = [p.read_text("utf-8") for p in sorted((ROOT / "spaces").glob("*.yaml"))]
        self.configs = [p.read_text("utf-8") for p in sorted((ROOT / "spaces" / "configs").glob("*.yaml"))]
        write_planted(folder / "seed.npz", 0, train=6, valid=3, test=3)
        self.npz = (folder / "seed.npz").read_bytes()
        self.splits = {name: _mmsa(split) for name, split in planted(0, train=6, valid=3, test=3).items()}
        self.pickles = [pickle.dumps(self.splits, protocol=p) for p in range(5)]

    def run(self, inputs: int) -> None:
        """Feed so many inputs; raises what a reader raises besides a sentence."""
        kinds = [self.study, self.space, self.config, self.archive, self.pickle]
        shares = [0.2, 0.15, 0.15, 0.25, 0.25]
        signal.signal(signal.SIGALRM, _hang)
        for _ in range(inputs):
            self._one(self.rng.choices(kinds, shares)[0])
        assert not (self.folder / MARKER).exists() and not Path(MARKER).exists(), "a file's code was run"

    def study(self) -> None:
        path = self._file("study.yaml", mutated_text(self.rng.choice(self.studies), self.rng))
        StudyConfig.load(path).resolved()

    def space(self) -> None:
        Space.load(self._file("space.yaml", mutated_text(self.rng.choice(self.spaces), self.rng))).baseline()

    def config(self) -> None:
        read_config(str(self._file("config.yaml", mutated_text(self.rng.choice(self.configs), self.rng))))

    def archive(self) -> None:
        _read(self._file("data.npz", mutated_bytes(self.npz, self.rng)))

    def pickle(self) -> None:
        if self.rng.random() < 0.3:
            _read(self._file("data.pkl", hostile(self.splits, self.rng)))
        else:
            _read(self._file("data.pkl", mutated_bytes(self.rng.choice(self.pickles), self.rng)))

    def _one(self, kind: Callable[[], None]) -> None:
        started = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            kind()
            self.outcomes[f"{kind.__name__}: read"] += 1
        except UserError as error:
            assert str(error).strip() and "\n" not in str(error), f"not one sentence: {error!r}"
            self.outcomes[f"{kind.__name__}: refused"] += 1
        finally:
            signal.alarm(0)
        self.slowest = max(self.slowest, time.perf_counter() - started)

    def _file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path


def _mmsa(split: Any) -> dict[str, Any]:
    """Return a split as MMSA's pickles have it."""
    own = {"id": list(split.ids), "regression_labels": split.labels, **split.features}
    return {**own, **{f"{m}_lengths": n.tolist() for m, n in split.lengths.items()}}


def _read(path: Path) -> None:
    """Read everything of a data file."""
    data = open_dataset(path)
    data.check()
    for name in SPLITS:
        data.split(name)


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError(f"an input takes longer than {SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), given.seed)
        try:
            fuzzer.run(given.inputs)
        except Exception:
            for path in Path(folder).iterdir():
                (Path(tempfile.gettempdir()) / f"fuzz-{path.name}").write_bytes(path.read_bytes())
            raise
    lines = [f"{name}: {count}" for name, count in sorted(fuzzer.outcomes.items())]
    sys.stdout.write("\n".join([*lines, f"slowest input: {fuzzer.slowest:.2f} s"]) + "\n")


if __name__ == "__main__":
    main()
