"""Some hundred broken and hostile inputs for every reader; ``python -m tests.fuzz`` feeds as many as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

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
