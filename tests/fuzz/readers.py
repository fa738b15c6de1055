"""Feeds one changed input after another to the reader that it is made for."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
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
from mmsa_core.data.text import TextModel, embed
from mmsa_core.encoders.bert import Bert
from mmsa_core.errors import UserError
from mmsa_core.train import Objective
from search import show
from search.configs import read_config
from search.confirm import read_record
from search.export import read_model, write_model
from search.inference import text_model
from search.opening import read_opening
from search.pipeline import open_run
from search.provenance import parse_provenance
from search.report.build import write_report
from search.space import Space
from search.statistics import PredictionInterval
from search.study import StudyConfig
from tests.fuzz import mutate, seeds
from tests.text_models import SENTENCES

ROOT = Path(__file__).parents[2]
DAMAGED = (".json", ".yaml", ".log", ".csv", ".safetensors", ".npz")
"""What of a run folder is spoilt."""
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
        self.model_folder = seeds.without_hashes(seeds.model(_made(folder / "model")))
        self.run_path = seeds.run(_made(folder / "run"))
        self.text_models = [
            seeds.text_model(folder / "safetensors"),
            seeds.text_model_of_torch(folder / "torch"),
        ]
        self.pickles = [pickle.dumps(self.splits, protocol=p) for p in range(6)]

    @property
    def kinds(self) -> dict[str, tuple[Callable[[], None], float]]:
        """The readers by name, with the share of the inputs that each gets."""
        return {
            "study": (self.study, 0.2),
            "space": (self.space, 0.145),
            "configuration": (self.config, 0.15),
            "npz": (self.archive, 0.2),
            "pickle": (self.pickle, 0.1),
            "model": (self.model, 0.1),
            "provenance": (self.provenance, 0.05),
            "text model": (self.text_model, 0.05),
            "run folder": (self.run_folder, 0.005),
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

    def model(self) -> None:
        folder = self._spoilt(self.model_folder, ("config.yaml", "provenance.json", "model.safetensors"))
        model = read_model(folder)
        data = self.model_folder.parent / "planted.npz"
        model.predict(open_dataset(data, model.modalities).split("test"))
        with contextlib.redirect_stdout(io.StringIO()):
            show.evaluate(folder, str(data), "valid", as_json=True)

    def provenance(self) -> None:
        sound = json.loads((self.model_folder / "provenance.json").read_text("utf-8"))
        sound["text_model"] = TextModel("bert-base-uncased", content="0123456789ab").to_dict()
        path = self._file("provenance.json", mutate.record(sound, self.rng))
        record = parse_provenance(path.read_bytes(), path)
        text_model(record)
        PredictionInterval(**record["interval"]).half(np.zeros((2, 3), np.float32))
        Objective(record["metric"], record["convention"]).sign  # noqa: B018 (it looks the metric up)

    def text_model(self) -> None:
        source = self.rng.choice(self.text_models)
        names = sorted(p.name for p in source.iterdir())
        folder = self._spoilt(source, names)
        if (hostile := folder / "pytorch_model.bin").exists() and self.rng.random() < 0.1:
            hostile.write_bytes(mutate.hostile(self.splits, self.rng))
        values, _ = embed(SENTENCES, TextModel(str(folder)))
        assert np.isfinite(values).all()
        Bert.tokens(SENTENCES, None, {"model": str(folder), "max_length": 8})

    def run_folder(self) -> None:
        files = [p.relative_to(self.run_path) for p in self.run_path.rglob("*") if p.is_file()]
        chosen = [str(f) for f in sorted(files) if f.suffix in DAMAGED and f.parts[0] != "report"]
        folder = self._spoilt(self.run_path, chosen)
        verb = self.rng.choice([_status, write_report, _export, _opening])
        with contextlib.redirect_stdout(io.StringIO()):
            verb(folder)

    def _spoilt(self, source: Path, names: Sequence[str]) -> Path:
        """Return a copy of a folder in which one file is damaged or missing."""
        folder = self.folder / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        path = folder / self.rng.choice(names)
        kind = self.rng.random()
        if kind < 0.1:
            path.unlink()
        elif (kind < 0.4 and path.suffix != ".json") or path.suffix not in (".json", ".yaml"):
            path.write_bytes(mutate.blob(path.read_bytes(), self.rng))
        elif path.suffix == ".json" and source == self.run_path:
            path.write_bytes(mutate.cut(path.read_bytes(), self.rng))
        elif path.suffix == ".json":
            path.write_text(mutate.record(json.loads(path.read_text("utf-8")), self.rng), "utf-8", "surrogatepass")
        else:
            text = mutate.text(path.read_text("utf-8"), self.rng)
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return folder

    def _file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _status(run: Path) -> None:
    show.status(run, watch=False, as_json=True)


def _export(run: Path) -> None:
    opened, record = open_run(run), read_record(run / "confirm")
    if record is not None:
        write_model(opened, record)


def _opening(run: Path) -> None:
    read_opening(run / "confirm")


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
