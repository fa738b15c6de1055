"""The floors of DESIGN.md: imports point down only, and Ray, Optuna and torch stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = ("encoders", "alignment", "fusion", "labels", "weighting", "strategies")
OPTUNA = {
    "ledger", "storage", "journal", "journal_lock", "sqlite_file", "grpc_proxy", "outage", "sampling", "pruning",
    "changes", "asking", "draft", "drivers", "trials", "leadership", "fingerprints", "outsiders", "opening",
    "explain", "export", "pipeline", "report", "doctor",
}  # fmt: skip
# A file or folder of mmsa_core and its floor; those that DESIGN.md does not name stand where their use puts them.
FLOORS = {
    "errors": 0, "config": 0, "metrics": 0, "atomic": 0, "cache": 0,
    "tensors": 1, "plugin": 1, "noise": 1, "recurrence": 1, "replay": 1, "checkpoint": 1, "pretrained": 1,
    "data": 2, **dict.fromkeys(KINDS, 2),
    "registry": 3,
    "loader": 4, "aligned": 4, "model": 4,
    "population": 5, "solo": 5, "train": 5, "predict": 5, "cost": 5, "analysis": 5,
}  # fmt: skip
DECLARATIVE = {
    "study",
    "space",
    "configs",
    "shipped",
    "compatibility",
    "nodes",
    "grammar",
    "overrides",
    "refusals",
    "yaml_io",
}
"""Files of search/ on floor 0: what a person writes, checked."""


@dataclass(frozen=True)
class Import:
    """One imported module: by which file, and whether only when a function runs (or for type checks)."""

    file: Path
    module: str
    lazy: bool

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    @property
    def unit(self) -> str:
        """The file or folder below the top package, e.g. ``alignment`` of ``mmsa_core.alignment.coral``."""
        return [*self.module.split("."), ""][1]

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)} imports {self.module}"


def unit(file: Path) -> str:
    """Return the file (without suffix) or folder below its top package."""
    return file.relative_to(ROOT).parts[1].removesuffix(".py")


def imports(file: Path) -> Iterator[Import]:
    """Yield every import of a file; ``from a import b`` counts as ``a.b`` where that is a module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node, lazy in _statements(tree, False):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(file, name.name, lazy)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{file}: relative imports are not read by this test"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield Import(file, whole if _is_module(whole) else node.module, lazy)


def _statements(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, lazy
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield from _statements(child, lazy or inside)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def files(package: str) -> list[Path]:
    return sorted(f for f in (ROOT / package).rglob("*.py"))


CORE = [i for f in files("mmsa_core") for i in imports(f)]
SEARCH = [i for f in files("search") for i in imports(f)]


def breaches(found: list[Import]) -> list[str]:
    return sorted({str(i) for i in found})


def test_files_and_imports_were_found() -> None:
    assert len(files("mmsa_core")) >= 40 and len(files("search")) >= 20
    assert len(CORE) > 100 and len(SEARCH) > 100
    modules = {(i.file.name, i.module) for i in CORE + SEARCH}
    assert {("worker.py", "mmsa_core.train"), ("runner.py", "ray"), ("loader.py", "mmsa_core.registry")} <= modules
    assert Import(ROOT / "search/space.py", "optuna", True) in SEARCH, "a lazy import was overlooked"
    assert Import(ROOT / "search/cli.py", "search.pipeline", True) in SEARCH


def test_core_knows_neither_ray_nor_optuna_nor_search() -> None:
    assert breaches([i for i in CORE if i.package in ("ray", "optuna", "search")]) == []


def test_only_the_runner_imports_ray() -> None:
    users = {unit(i.file) for i in SEARCH if i.package == "ray"}
    assert users == {"runner"}


def test_only_the_ledgers_files_import_optuna() -> None:
    users = [i for i in SEARCH if i.package == "optuna"]
    assert breaches([i for i in users if unit(i.file) not in OPTUNA and not (unit(i.file) == "space" and i.lazy)]) == []
    assert "ledger" in {unit(i.file) for i in users}


def test_core_imports_point_down() -> None:
    units = {unit(f) for f in files("mmsa_core")} - {"__init__"}
    assert units <= FLOORS.keys(), f"give a floor here and in DESIGN.md to {sorted(units - FLOORS.keys())}"
    own = [i for i in CORE if i.package == "mmsa_core" and i.unit and unit(i.file) != i.unit]
    assert len(own) > 60
    assert breaches([i for i in own if FLOORS[unit(i.file)] < FLOORS[i.unit]]) == []
    # side by side is allowed as long as it does not go round: loader -> model -> loader would be one floor
    beside = {(unit(i.file), i.unit) for i in own if FLOORS[unit(i.file)] == FLOORS[i.unit]}
    assert [pair for pair in beside if pair[::-1] in beside] == []


def test_kinds_know_nothing_of_each_other_or_above() -> None:
    plugins = [i for i in CORE if unit(i.file) in KINDS and i.package == "mmsa_core"]
    assert {unit(i.file) for i in plugins} == set(KINDS)
    allowed = {"plugin", "tensors", "noise", "recurrence", "pretrained", "errors", "config"}
    assert breaches([i for i in plugins if i.unit not in allowed | {unit(i.file)}]) == []


def test_metrics_are_numpy_only() -> None:
    outside = {i.package for i in CORE if unit(i.file) == "metrics"} - set(sys.stdlib_module_names)
    assert outside == {"numpy", "mmsa_core"}
    assert {i.unit for i in CORE if unit(i.file) == "metrics" and i.package == "mmsa_core"} == {"errors"}


def test_what_a_person_writes_stands_on_the_ground_floor() -> None:
    ground = [i for i in SEARCH if unit(i.file) in DECLARATIVE and not i.lazy]
    assert {unit(i.file) for i in ground} == DECLARATIVE
    own = [i for i in ground if i.package == "search"]
    assert breaches([i for i in own if i.unit not in DECLARATIVE]) == []
    core = [i for i in ground if i.package == "mmsa_core"]
    assert breaches([i for i in core if FLOORS[i.unit] > 0]) == []


def test_only_the_way_to_the_worker_trains() -> None:
    """The worker is the one door to training for the search: the ledger and the plans never touch it."""
    above = {"ledger", "sampling", "storage", "run_folder", "confirm", "explain", "statistics"}
    doors = [i for i in SEARCH if unit(i.file) in above and i.module in ("mmsa_core.train", "mmsa_core.population")]
    assert above <= {unit(f) for f in files("search")}
    assert breaches(doors) == []


@pytest.mark.parametrize("module", ["search.study, search.space", "mmsa_core.config, mmsa_core.errors", "search.cli"])
def test_light_at_import(module: str) -> None:
    heavy = "{'torch', 'ray', 'optuna'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(sorted({heavy}))"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
