"""Records the environment of a run: versions, platform, commit and command."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.storage import without_password

PACKAGES = ("torch", "optuna", "ray", "numpy", "pandas", "transformers", "mmsa-search")


def environment() -> dict[str, Any]:
    """Return versions, platform, commit and command: what a reader needs to run it again."""
    return {
        "command": without_password(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit of the source tree that this code runs from, with ``+`` if it was changed."""
    where = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=where, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
