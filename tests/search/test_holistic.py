"""The holistic report's numbers against what the members' predictions say, row by row."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmsa_core.config import MemberConfig
from mmsa_core.data.split import Split, videos
from mmsa_core.loader import SplitTensors
from mmsa_core.metrics import evaluate
from mmsa_core.model import complete
from mmsa_core.population import MemberSpec
from mmsa_core.predict import predict, predict_rows
from mmsa_core.solo import SoloMembers
from search import holistic
from search.holistic import Ground, Judged, Match, build, calibration_record, noise_records, subset_records, write
from search.members import Candidate, file, place
from search.populations import Outcome, Reply, Slot, Task
from search.statistics import PredictionInterval, paired_errors
from search.worker import Worker
from tests.search import tiny

SEEDS = [11, 12, 13, 14, 15, 16, 17]
FAILED = 12


@dataclass(frozen=True)
class Filed:
    """A confirmation's files: a winner and a baseline of which one seed failed, and the splits."""

    folder: Path
    candidates: dict[int, Candidate]
    splits: tuple[Split, Split, Split]
    numbers: dict[str, Any]

    @property
    def test(self) -> Split:
        return self.splits[2]

    def record(self, winner: int = 1) -> dict[str, Any]:
        return {"winner": winner, "baseline": 0, "seeds": SEEDS, "convention": "mosi", "metric": "mae"}

    def predictions(self, role: str) -> NDArray[np.float32]:
        with np.load(self.folder / f"test_{role}.npz") as kept:
            made: NDArray[np.float32] = kept["predictions"]
        return made

    def slice(self, group: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(s for s in self.numbers["slices"] if (s["group"], s["name"]) == (group, name))
        return found


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Filed:
    folder = tmp_path_factory.mktemp("confirm")
    train, valid, test = tiny.scaled()
    space = tiny.study().search_space()
    config = {**space.baseline()[0], "epochs": 3}
    candidates = {0: Candidate("0", config), 1: Candidate("1", {**config, "optimizer": {"lr": 0.02}})}
    worker = Worker(train, valid, torch.device("cpu"))
    for number, candidate in candidates.items():
        slots = tuple(Slot(k, seed, candidate.config) for k, seed in enumerate(SEEDS))
        path = place(folder, candidate, SEEDS)
        task = Task(str(path), slots, (), "mae", "mosi", keep_states=True)
        result = worker.run(task, lambda *_: Reply())
        if number == 0:
            result.outcomes[SEEDS.index(FAILED)] = Outcome(failure="worn out")
        file(path, task, result)
        whole = [o for o in result.outcomes if o.state is not None]
        states = {
            n: torch.stack([torch.from_numpy(o.state[n]) for o in whole if o.state]) for n in whole[0].state or {}
        }
        predictions = predict(MemberConfig.from_dict(whole[0].config or {}), states, test)
        np.savez(folder / f"test_{'winner' if number else 'baseline'}.npz", predictions=predictions)
    made = Filed(folder, candidates, (train, valid, test), {})
    return replace(made, numbers=build(made.record(), candidates, folder, made.splits))


def test_the_whole_is_what_confirmation_says(filed: Filed) -> None:
    numbers, own = filed.numbers, filed.predictions("winner")
    assert (numbers["split"], numbers["metric"], numbers["rows"], numbers["kept_seeds"]) == ("test", "mae", 32, 5)
    assert (numbers["winner"], numbers["baseline"]) == (1, 0)
    assert numbers["clusters"] == len(set(videos(filed.test.ids))) == 7
    whole = filed.slice("all", "all rows")
    each = [evaluate(p, filed.test.labels) for p in own]
    assert (whole["n"], whole["videos"], whole["mae"]["n"], whole["mae"]["clusters"]) == (32, 7, 7, 7)
    assert whole["mae"]["mean"] == pytest.approx(np.mean([e["mae"] for e in each]), rel=1e-9)
    assert whole["metrics"] == pytest.approx({n: np.mean([e[n] for e in each]) for n in each[0]}, rel=1e-9)
    median = np.median(filed.splits[0].labels)
    constant = np.abs(filed.test.labels - median).mean(dtype=np.float64)
    assert whole["skill"] == pytest.approx(1 - whole["mae"]["mean"] / constant, rel=1e-6)


def test_a_slice_is_of_its_rows_and_its_difference_of_common_seeds(filed: Filed) -> None:
    labels, clusters = filed.test.labels, videos(filed.test.ids)
    rows = (np.abs(labels) > 1) & (np.abs(labels) <= 2)
    found = filed.slice("label strength", "medium (up to 2)")
    own, other = (np.abs(filed.predictions(r).astype(np.float64) - labels) for r in ("winner", "baseline"))
    kept = [k for k, seed in enumerate(SEEDS) if seed != FAILED]
    assert found["n"] == rows.sum() > 3 and found["videos"] == len(set(clusters[rows]))
    assert found["mae"]["n"] == 7 and found["mae"]["mean"] == pytest.approx(own[:, rows].mean(), rel=1e-12)
    expected = paired_errors(own[kept][:, rows], other[:, rows], clusters[rows])
    assert found["difference"] == pytest.approx(expected.to_dict(), rel=1e-9) and found["difference"]["n"] == 6
    assert found["difference"]["mean"] == pytest.approx(own[kept][:, rows].mean() - other[:, rows].mean(), rel=1e-9)


def test_slices_add_up(filed: Filed) -> None:
    slices = filed.numbers["slices"]
    groups = {s["group"] for s in slices}
    assert {"all", "label strength", "interaction", "signs", "length"} <= groups
    for group in groups:
        own = [s for s in slices if s["group"] == group]
        assert sum(s["n"] for s in own) == 32
        for part in ("mae", "difference"):
            total = sum(s["n"] * s[part]["mean"] for s in own)
            assert total == pytest.approx(32 * filed.slice("all", "all rows")[part]["mean"], abs=1e-10)


def test_subsets_are_of_the_modalities_that_the_models_read(filed: Filed) -> None:
    found = {tuple(s["modalities"]): s for s in filed.numbers["subsets"]}
    assert list(found) == [("text",), ("audio",), ("text", "audio")], "the data has vision, the models do not read it"
    kept = [k for k, seed in enumerate(SEEDS) if seed != FAILED][:5]
    for role, rows in (("winner", kept), ("baseline", list(range(5)))):
        own = np.abs(filed.predictions(role)[rows] - filed.test.labels).mean()
        assert found["text", "audio"][role]["mean"] == pytest.approx(own, rel=1e-5)
        assert found["text", "audio"][role]["n"] == 5
        judged = Judged.read(filed.folder, role, filed.candidates[role == "winner"], SEEDS)
        states = {n: t[rows] for n, t in judged.states.items()}
        lengths = {**filed.test.lengths, "audio": np.zeros(32, np.int64)}
        silent = predict(judged.config, states, replace(filed.test, lengths=lengths))
        assert found["text",][role]["mean"] == pytest.approx(np.abs(silent - filed.test.labels).mean(), rel=1e-5)
    assert found["text",]["winner"]["mean"] != found["audio",]["winner"]["mean"]


def test_noise_curves_begin_with_the_clean_row(filed: Filed) -> None:
    curves = filed.numbers["robustness"]
    assert [(c["modality"], c["kind"]) for c in curves] == [
        (m, k) for m in ("text", "audio") for k in ("noise", "drop", "structured")
    ]
    whole = next(s for s in filed.numbers["subsets"] if s["modalities"] == ["text", "audio"])
    for c in curves:
        assert c["levels"] == [k / 10 for k in range(11)] and c["seeds"] == 5
        for role in ("winner", "baseline"):
            assert len(c[role]) == 11 and c[role][0] == whole[role]["mean"], "bit for bit"
            middle = sum((a + b) / 2 * 0.1 for a, b in zip(c[role], c[role][1:], strict=False))
            assert c["area"][role] == pytest.approx(middle, rel=1e-9)
            assert len(set(c[role])) > 8
    text = {c["kind"]: c["winner"][-1] for c in curves if c["modality"] == "text"}
    assert text["drop"] == pytest.approx(text["structured"], rel=1e-6), "at 1 both leave zeros alone"


def test_long_sequences_are_read_by_fewer_seeds(filed: Filed, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = Judged.read(filed.folder, "winner", filed.candidates[1], SEEDS)
    ground = Ground(filed.test, "mosi", 0.0, videos(filed.test.ids))
    values = sum(filed.test.features[m].size for m in ("text", "audio"))
    for allowed, seeds in ((2.5 * values, 2), (0.1 * values, 1), (99 * values, 4)):
        monkeypatch.setattr(holistic, "NOISY_VALUES", int(allowed))
        assert {c["seeds"] for c in noise_records(ground, Match(judged, judged), 4)} == {seeds}


def test_calibration_is_of_intervals_from_the_valid_split(filed: Filed) -> None:
    found = filed.numbers["calibration"]
    judged = Judged.read(filed.folder, "winner", filed.candidates[1], SEEDS)
    valid = filed.splits[1].labels
    for level, observed in zip(found["nominal"], found["observed"], strict=True):
        interval = PredictionInterval.fit(judged.valid, valid, level)
        assert observed == interval.coverage(judged.test, filed.test.labels)
    assert found["n"] == 32 and 0 <= found["error"] <= 1
    assert calibration_record(replace(judged, test=judged.valid), valid, valid)["error"] < 0.05, "its own labels"


def test_a_baseline_that_wins_is_computed_once(filed: Filed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*given: Any) -> NDArray[np.float32]:
        calls.append(given)
        return predict_rows(*given)

    monkeypatch.setattr(holistic, "predict_rows", counted)
    build(filed.record(), filed.candidates, filed.folder, filed.splits)
    both = len(calls)
    calls.clear()
    mark = filed.candidates[0].mark
    (tmp_path / mark).symlink_to(filed.folder / mark)
    np.savez(tmp_path / "test_winner.npz", predictions=filed.predictions("baseline"))
    numbers = build(filed.record(winner=0), filed.candidates, tmp_path, filed.splits)
    assert 2 * len(calls) == both == 2 * (3 + 1 + 6 * 10)
    for part in numbers["slices"]:
        assert (part["difference"]["mean"], part["difference"]["low"], part["difference"]["high"]) == (0, 0, 0)
    assert all(c["winner"] == c["baseline"] for c in numbers["robustness"])
    assert all(s["winner"] == s["baseline"] for s in numbers["subsets"])


def test_raw_text_goes_missing_and_gets_no_noise(splits: tuple[SplitTensors, SplitTensors], tiny_bert: Path) -> None:
    """An encoder that reads the text itself sees none where text is missing."""
    split = replace(splits[1].split, raw_text=("a very good film !",) * len(splits[1]))
    text = {"name": "bert", "model": str(tiny_bert)}
    tree = {"encoders": {"text": text, "audio": "pool"}, "width": 8, "heads": {"dim": 8}, "labels": "none"}
    config = complete(MemberConfig.from_dict(tree))
    data = SplitTensors(split, torch.device("cpu"))
    states = SoloMembers([MemberSpec(config, 1)], data).model_states()
    judged = Judged(config, [1], states, *[np.zeros((1, len(split)), np.float32)] * 2)
    match, ground = Match(judged, judged), Ground(split, "mosi", 0.0, videos(split.ids))
    assert not match.stacked
    found = {tuple(s["modalities"]): s["winner"]["mean"] for s in subset_records(ground, match, 1)}
    silent = predict(config, states, replace(split, raw_text=("",) * len(split)))
    assert found["audio",] == pytest.approx(np.abs(silent - split.labels).mean(), rel=1e-5)
    assert found["audio",] != found["text", "audio"]


def test_the_file_is_plain_json(filed: Filed, tmp_path: Path) -> None:
    write(tmp_path, filed.numbers)
    text = (tmp_path / "holistic.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(filed.numbers, allow_nan=False)), "no NaN, no infinity"
