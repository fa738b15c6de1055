"""Where results that can be computed again are kept between runs."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from mmsa_core.errors import UserError


def user_cache() -> Path:
    """Return our folder in the user's cache; by the XDG specification a relative ``XDG_CACHE_HOME`` does not count.

    Raises:
        UserError: the user has no home folder, and somebody else has made the temporary one.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "mmsa-search"
    try:
        return Path.home() / ".cache" / "mmsa-search"
    except RuntimeError:  # no HOME and no entry in the user database, as in many a container
        return _temporary()


def _temporary() -> Path:
    """Make the folder of a user without a home; what another user put there is not to be trusted."""
    folder = Path(tempfile.gettempdir()) / f"mmsa-search-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"{folder}: is not this user's folder, and there is no home folder; set XDG_CACHE_HOME")
    return folder
