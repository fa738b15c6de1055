"""Where results that can be computed again are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """Return our folder in the user's cache; by the XDG specification a relative ``XDG_CACHE_HOME`` does not count."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "mmsa-search"
