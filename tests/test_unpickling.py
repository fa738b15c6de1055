"""No file is loaded that can run code: models and checkpoints are safetensors and JSON, and there is one unpickler,
which makes data only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNPICKLER = "mmsa_core/data/unpickle.py"
LOADERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
"""Modules whose loaders run what a file says."""


def risks(source: str) -> Iterator[str]:
    """Yield what of a module loads pickles, or evaluates text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {n}" for n in names if n.split(".")[0] in LOADERS)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("torch.load", "eval", "exec", "yaml.load_all", "yaml.unsafe_load", "pd.read_pickle"):
                yield name
            if name == "yaml.load" and not any("_Loader" in ast.unparse(a) for a in node.args):
                yield name
            allowed = [k.value for k in node.keywords if k.arg in ("allow_pickle", "trust_remote_code", "shell")]
            yield from (f"{name}({ast.unparse(v)})" for v in allowed if ast.unparse(v) != "False")


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from joblib import load", "torch.load(p)", "np.load(p, allow_pickle=True)", "eval(text)",
     "np.load(p, allow_pickle=yes)", "yaml.load(text, yaml.Loader)", "subprocess.run(c, shell=True)"],
)  # fmt: skip
def test_the_walk_sees(code: str) -> None:
    assert list(risks(code))


def test_nothing_loads_what_can_run() -> None:
    files = [f for package in ("mmsa_core", "search") for f in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    found = {str(f.relative_to(ROOT)): list(risks(f.read_text(encoding="utf-8"))) for f in files}
    assert {name: what for name, what in found.items() if what} == {UNPICKLER: ["import pickle"]}
