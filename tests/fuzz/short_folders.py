"""Some run folders with foreign things in them: a test that the suite leaves out as long as some of them are not met.

``python -m pytest tests/fuzz/short_folders.py`` runs it. Once it passes it belongs into tests/search/test_fuzz.py.
"""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.folders import Fuzzer


def test_foreign_things_in_a_run_folder_do_no_harm(tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path, 0)
    try:
        fuzzer.run(range(300))
    finally:
        fuzzer.close()
    assert not fuzzer.failures, fuzzer.first
    assert sum(fuzzer.outcomes.values()) == 300
