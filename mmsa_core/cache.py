"""Finds where results that can be computed again are kept between runs."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from mmsa_core.errors import UserError


def user_cache() -> Path:
    """Return our folder in the user's cache; by the XDG specification a relative ``XDG_CACHE_HOME`` does not count.

    Raises:
        UserError: as :func:`user_home`.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else user_home() / ".cache") / "mmsa-search"


def user_home() -> Path:
    """Return the user's home folder, or one in the temporary folder for a user who has none, as in many a container.

    Raises:
        UserError: somebody else has made that one; what another user put there is not to be trusted.
    """
    try:
        return Path.home()
    except RuntimeError:  # no HOME and no entry in the user database
        folder = Path(tempfile.gettempdir()) / f"mmsa-search-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise UserError(f"{folder}: is not this user's folder, and there is no home folder; set HOME") from None
        return folder
