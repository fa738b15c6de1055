"""Some hundred broken and hostile inputs for every reader; ``python -m tests.fuzz`` feeds as many as one likes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.folders import Folder, state
from tests.fuzz.places import KINDS as CHANGES
from tests.fuzz.places import Outside, change
from tests.fuzz.readers import Fuzzer

KINDS = ("study", "space", "configuration", "npz", "pickle", "model", "provenance", "text model", "run folder")


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    return Fuzzer(tmp_path_factory.mktemp("fuzz"), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_comes_in_is_read_or_refused_in_a_sentence(fuzzer: Fuzzer, kind: str) -> None:
    assert set(fuzzer.kinds) == set(KINDS)
    for _ in range(200 if kind != "run folder" else 20):
        fuzzer.one(kind)
    assert fuzzer.outcomes[f"{kind}: refused"] > 0, "no input was broken"
    assert not Path(fuzzer.folder, "fuzz-was-run").exists()


@pytest.mark.parametrize("kind", CHANGES)
def test_a_run_folder_is_brought_back_whatever_was_put_into_it(tmp_path: Path, kind: str) -> None:
    """What the fuzzer of run folders does to one does not reach outside, and is undone to the byte."""
    run, outside = tmp_path / "run", Outside(tmp_path / "outside", {"pid": 1})
    (run / "trials" / "0000").mkdir(parents=True)
    outside.tree.mkdir(parents=True)
    for path in (run / "study.log", run / "lock.json", run / "trials" / "0000" / "curve.csv"):
        path.write_text('{"a": 1}\n', encoding="utf-8")
    for path in (outside.file, outside.journal, outside.held):
        path.write_text("kept", encoding="utf-8")
    folder, before = Folder(run), state(outside.folder)
    sound = {name: record[3] for name, record in state(run).items()}
    for place in ("study.log", "lock.json", ".desk", "trials", "trials/0000/curve.csv", "."):
        change(kind, run / place, random.Random(0), outside)
        assert state(outside.folder) == before
        folder.restore()
        assert {name: record[3] for name, record in state(run).items()} == sound
        assert run.stat().st_mode & 0o777 == 0o755
    assert state(outside.folder) == before
