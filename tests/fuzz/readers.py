"""Feeds one changed input after another to the reader that it is made for."""

from __future__ import annotations

import json
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from mmsa_core.data.convert import convert
from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.describe import describe
from mmsa_core.data.npz import write
from mmsa_core.data.source import SPLITS
from mmsa_core.data.synthetic import planted
from mmsa_core.errors import UserError
from search.configs import read_config
from search.space import Space
from search.study import StudyConfig
from tests.fuzz import mutate

ROOT = Path(__file__).parents[2]
SECONDS = 20
"""An input that takes longer hangs; the slowest sound one takes some tenths."""


class HangError(Exception):
    """An input took too long."""


class Fuzzer:
    """Makes inputs of one kind after another, with a seed, and feeds each to its reader."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.studies = _texts("studies/*.yaml")
        self.spaces = _texts("*.yaml")
        self.configs = _texts("configs/*.yaml")
        made = planted(0, train=6, valid=3, test=3, problem="unlabeled", unlabeled=4)
        write(folder / "seed.npz", made)
        self.npz = (folder / "seed.npz").read_bytes()
        self.splits = {name: _mmsa(split) for name, split in made.items()}
        self.pickles = [pickle.dumps(self.splits, protocol=p) for p in range(6)]

    @property
    def kinds(self) -> dict[str, tuple[Callable[[], None], float]]:
        """The readers by name, with the share of the inputs that each gets."""
        return {
            "study": (self.study, 0.2),
            "space": (self.space, 0.15),
            "configuration": (self.config, 0.15),
            "npz": (self.archive, 0.25),
            "pickle": (self.pickle, 0.25),
        }

    def run(self, inputs: int) -> None:
        """Feed so many inputs; raises what a reader raises besides a sentence."""
        names, shares = list(self.kinds), [share for _, share in self.kinds.values()]
        signal.signal(signal.SIGALRM, _hang)
        for name in self.rng.choices(names, shares, k=inputs):
            self.one(name)
        assert not (self.folder / mutate.MARKER).exists() and not Path(mutate.MARKER).exists(), "a file's code was run"

    def one(self, name: str) -> None:
        """Feed one input; what is no sentence is raised."""
        started = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            self.kinds[name][0]()
            self.outcomes[f"{name}: read"] += 1
        except UserError as error:
            text = str(error)
            assert text.strip() and text.isprintable() and len(text) < 2000, f"not one sentence: {error!r}"
            self.outcomes[f"{name}: refused"] += 1
        finally:
            signal.alarm(0)
        self.slowest = max(self.slowest, time.perf_counter() - started)

    def study(self) -> None:
        path = self._file("study.yaml", mutate.text(self.rng.choice(self.studies), self.rng))
        StudyConfig.load(path).resolved()

    def space(self) -> None:
        space = Space.load(self._file("space.yaml", mutate.text(self.rng.choice(self.spaces), self.rng)))
        space.count()
        json.dumps(space.random(1, 0)[0])

    def config(self) -> None:
        read_config(str(self._file("config.yaml", mutate.text(self.rng.choice(self.configs), self.rng)))).fingerprint()

    def archive(self) -> None:
        change = mutate.member if self.rng.random() < 0.7 else mutate.blob
        _read(self._file("data.npz", change(self.npz, self.rng)))

    def pickle(self) -> None:
        kind = self.rng.random()
        if kind < 0.5:
            content = mutate.hostile(self.splits, self.rng)
            content = mutate.blob(content, self.rng) if kind < 0.1 else content
        else:
            content = mutate.blob(self.rng.choice(self.pickles), self.rng)
        path = self._file("data.pkl", content)
        _read(path)
        convert(path, self.folder / "converted.npz")

    def _file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path


def _texts(pattern: str) -> list[str]:
    return [p.read_text("utf-8") for p in sorted((ROOT / "spaces").glob(pattern))]


def _mmsa(split: Any) -> dict[str, Any]:
    """Return a split as MMSA's pickles have it."""
    own = {"id": list(split.ids), "regression_labels": split.labels, **split.features}
    text = np.array(["a b"] * len(split), dtype=object)
    return {**own, "raw_text": text, **{f"{m}_lengths": n.tolist() for m, n in split.lengths.items()}}


def _read(path: Path) -> None:
    """Read everything of a data file."""
    data = open_dataset(path)
    data.check()
    for name in SPLITS:
        data.split(name)
    describe(data)


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError(f"an input takes longer than {SECONDS} s")
