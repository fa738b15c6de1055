"""The user's cache where there is no home folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UID = 54321
STRANGER = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--bounding-set=-all,+dac_read_search",
            "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]  # fmt: skip
"""Runs a command as a user who is in no user database, and may read everything, the interpreter among it."""
ASK = """
from mmsa_core.cache import user_cache
from mmsa_core.errors import UserError
try:
    print(user_cache())
except UserError as error:
    print(error)
"""


def said(temporary: Path, code: str) -> str:
    """Return what code prints where there is no home folder, and another temporary one."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME")}
    environment |= {"TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    call = [*STRANGER, sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment, cwd=temporary)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root's setpriv can become a user without an entry")
    tmp_path.chmod(0o777)
    return tmp_path


def test_a_user_without_a_home_folder_has_a_temporary_one(temporary: Path) -> None:
    own = temporary / f"mmsa-search-{UID}"
    assert said(temporary, ASK) == str(own / ".cache" / "mmsa-search")
    assert (own.stat().st_uid, own.stat().st_mode & 0o777) == (UID, 0o700)


def test_a_folder_that_somebody_else_made_is_refused(temporary: Path) -> None:
    own = temporary / f"mmsa-search-{UID}"
    own.mkdir()
    sentence = f"{own}: is not this user's folder, and there is no home folder; set HOME"
    assert said(temporary, ASK) == sentence
    own.rmdir()
    (temporary / "elsewhere").mkdir()
    own.symlink_to(temporary / "elsewhere")
    assert said(temporary, ASK) == sentence


@pytest.mark.ray
def test_ray_finds_a_home_folder(temporary: Path) -> None:
    assert said(temporary, "import search.runner, os; print(os.environ['HOME'])").startswith(str(temporary))
