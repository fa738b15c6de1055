"""The benchmark's bookkeeping: rows, recommendation, cache and cap. Speed itself is measured in reports/benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmsa_core.config import MemberConfig
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.synthetic import planted
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors
from mmsa_core.model import complete
from mmsa_core.population import MemberSpec, Population
from search import bench
from search.bench import Row, device_name, measure, population_size, recommend, table, to_json

Data = tuple[SplitTensors, SplitTensors]
ROWS = [Row(1, 10.0, 1.0, 1_000_000), Row(4, 30.0, 3.0, None), Row(8, 46.0, 4.6, 3_000_000), Row(16, 50.0, 5.0, None)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Data:
    splits = planted(0, train=24, valid=8, test=1)
    scaler = Scaler.fit(splits["train"])
    return SplitTensors(scaler.apply(splits["train"]), CPU), SplitTensors(scaler.apply(splits["valid"]), CPU)


def config(width: int = 4, encoder: str = "pool", labels: str = "none") -> MemberConfig:
    small = {"name": encoder, "dim": 4, "hidden": 4}
    tree = {"encoders": {"audio": small, "vision": small}, "labels": labels, "width": width, "batch_size": 4}
    return complete(MemberConfig.from_dict(tree))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Put hand-made rows in place of the measurement; return the list that its calls are written to."""
    calls: list[tuple[int, ...]] = []

    def fake(*args: Any, **kwargs: Any) -> list[Row]:
        calls.append(args[3])
        return ROWS

    monkeypatch.setattr(bench, "measure", fake)
    return calls


@pytest.mark.parametrize("encoder", ["pool", "lstm"])
def test_measure_gives_a_row_per_size(data: Data, encoder: str) -> None:
    rows = measure(config(encoder=encoder), *data, members=[4, 1, 4], rounds=1)
    assert [r.members for r in rows] == [1, 4]
    assert all(r.member_epochs_per_second > 0 and r.speedup > 0 for r in rows)
    one, four = (r.peak_bytes for r in rows)
    assert one is not None
    assert four is not None
    assert 0 < one < four
    # One rate alone stands behind all rows, so that they differ in their speed-up only.
    alone = [r.member_epochs_per_second / r.speedup for r in rows]
    assert alone[0] == pytest.approx(alone[1])


def test_measure_without_memory_and_in_a_budget(data: Data) -> None:
    (row,) = measure(config(), *data, members=[2], rounds=1, budget_seconds=0.01, memory=False)
    assert row.members == 2
    assert row.peak_bytes is None


@pytest.mark.parametrize("members", [[], [0, 4]])
def test_measure_refuses_sizes(data: Data, members: list[int]) -> None:
    with pytest.raises(UserError, match="members: must be one or more whole numbers of at least 1"):
        measure(config(), *data, members=members)


def test_an_epoch_is_at_most_twenty_batches_with_the_same_share_of_valid() -> None:
    splits = planted(0, train=200, valid=50, test=1)
    train, valid = SplitTensors(splits["train"], CPU), SplitTensors(splits["valid"], CPU)
    sample = bench._Sample(config(), train, valid, bench.BATCHES)
    assert len(sample.train) == 20 * 4
    assert sample.share == 0.4
    assert len(sample.valid.available) == 20
    whole = bench._Sample(config(), train, valid, 1000)
    assert len(whole.train) == 200
    assert whole.share == 1.0


def test_sizes_that_do_not_fit_are_left_out(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(sample: Any, singles: Any, size: int, rounds: int) -> list[tuple[float, float]]:
        if size > 2:
            raise torch.OutOfMemoryError("full")
        return [(1.0, 1.0 / size)] * rounds

    monkeypatch.setattr(bench, "_pairs", full)
    rows = measure(config(), *data, members=[1, 2, 4, 8], memory=False)
    assert [(r.members, r.speedup) for r in rows] == [(1, 1.0), (2, 2.0)]
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        measure(config(), *data, members=[4, 8], memory=False)


def test_peak_is_what_torch_allocated_at_most() -> None:
    with bench._peak(CPU) as peak:
        for _ in range(3):
            a = torch.ones(250_000)
            b = a + 1
            del a, b
    # Two tensors of 1 MB lived at the same time, though six were made; scalars take a few bytes.
    assert 2_000_000 <= peak[0] < 2_001_000


def test_peak_counts_what_a_member_keeps_per_training_row(data: Data) -> None:
    plain, kept = (bench._peak_bytes(config(labels=name), *data, size=2) for name in ("none", "ulgm"))
    features = Population([MemberSpec(config(labels="ulgm"), 0)] * 2, data[0]).buffers["labels.features"]
    assert features.shape[1] == len(data[0])
    assert kept - plain > features.nbytes


def test_recommend_takes_the_smallest_within_a_tenth_of_the_best() -> None:
    assert recommend(ROWS) == 8
    assert recommend(ROWS[::-1]) == 8
    assert recommend(ROWS[:2]) == 4
    assert recommend([Row(8, 44.9, 4.49, None), Row(16, 50.0, 5.0, None)]) == 16
    assert recommend([Row(1, 10.0, 1.0, None), Row(64, 2.0, 0.2, None)]) == 1


def test_table_marks_the_recommended_size() -> None:
    lines = table(ROWS, "a CPU").splitlines()
    assert lines[0] == "a CPU"
    assert lines[1].split() == ["members", "member-epochs/s", "speed-up", "memory"]
    assert [line.split() for line in lines[2:5]] == [
        ["1", "10", "1.00x", "1.0", "MB"],
        ["4", "30", "3.00x", "-"],
        ["*", "8", "46", "4.60x", "3.0", "MB"],
    ]
    assert sum(line.startswith("*") for line in lines[:-1]) == 1


def test_json_is_the_stable_interface() -> None:
    made = json.loads(json.dumps(to_json(ROWS[:1], "a CPU")))
    row = {"members": 1, "member_epochs_per_second": 10.0, "speedup": 1.0, "peak_bytes": 1_000_000}
    assert made == {"device": "a CPU", "rows": [row], "recommended": 1}


def test_a_given_population_is_taken_as_it_is(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    assert population_size(64, config(), *data, trials=3, cache_dir=tmp_path) == 64
    assert calls == []


def test_auto_measures_once_per_structure(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    folder = tmp_path / "new" / "cache"
    for _ in range(2):
        assert population_size("auto", config(), *data, trials=1000, cache_dir=folder) == 8
    assert calls == [bench.AUTO_MEMBERS["cpu"]]
    (file,) = folder.iterdir()
    stored = json.loads(file.read_text())
    assert stored["device"] == device_name(CPU)
    assert stored["torch"] == torch.__version__
    assert len(stored["rows"]) == len(ROWS)
    population_size("auto", config(width=5), *data, trials=1000, cache_dir=folder)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"recommended": "8"}', '{"recommended": 0}', '{"recommended": true}', "\x00\xff"]
)
def test_a_broken_cache_is_measured_anew(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    calls = counted(monkeypatch)
    population_size("auto", config(), *data, trials=1000, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(text.encode("latin-1"))
    assert population_size("auto", config(), *data, trials=1000, cache_dir=tmp_path) == 8
    assert len(calls) == 2
    assert json.loads(file.read_text())["recommended"] == 8


def test_a_cache_that_cannot_be_written_is_ignored(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    (tmp_path / "file").write_text("not a folder")
    for _ in range(2):
        assert population_size("auto", config(), *data, trials=1000, cache_dir=tmp_path / "file") == 8
    assert len(calls) == 2


@pytest.mark.parametrize(("trials", "size"), [(1, 2), (24, 2), (25, 3), (60, 5), (96, 8), (10_000, 8)])
def test_auto_leaves_a_study_a_dozen_combinations(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int, size: int
) -> None:
    counted(monkeypatch)
    assert population_size("auto", config(), *data, trials=trials, cache_dir=tmp_path) == size


def test_default_cache_is_in_the_users_cache(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    population_size("auto", config(), *data, trials=12)
    assert len(list((tmp_path / "xdg" / "mmsa-search").iterdir())) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    population_size("auto", config(), *data, trials=12)
    assert len(list((tmp_path / ".cache" / "mmsa-search").iterdir())) == 1
