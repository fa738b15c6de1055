"""How long a storage may take to answer: one that is frozen must not freeze the driver."""

from __future__ import annotations

from typing import Any

import sqlalchemy

LIMIT = 60.0
"""Seconds that one call of a storage may take, a new connection included."""


def connecting() -> float:
    """Return the seconds of the limit that a new connection may take."""
    return LIMIT / 3


def answering() -> float:
    """Return the seconds of the limit that a statement may take."""
    return LIMIT - connecting()


def engine_arguments(url: str) -> dict[str, Any]:
    """Return the arguments of SQLAlchemy's engine that limit what its driver waits for; those that the URL gives
    stand."""
    parsed = sqlalchemy.make_url(url)
    driver = parsed.get_dialect().driver
    if driver == "psycopg":
        from search.postgresql import connector  # psycopg is an extra

        return {"creator": connector(parsed)}
    if driver == "pymysql":
        limits = {"connect_timeout": connecting(), "read_timeout": answering(), "write_timeout": answering()}
        return {"connect_args": {name: int(limit) for name, limit in limits.items() if name not in parsed.query}}
    return {}
