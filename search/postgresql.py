"""Connections to PostgreSQL that end a statement which the server does not answer in time.

The server's own ``statement_timeout`` is of no use where the server is what stands still, and libpq has none for its
client. This is tried with psycopg 3.3 and SQLAlchemy 2.1; of psycopg's inside it knows ``waiting.wait`` and
``Connection.wait``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from psycopg import waiting

from search import time_limits

R = TypeVar("R")


class NoAnswerError(psycopg.OperationalError):
    """The server has not answered in time."""


class LimitedConnection(psycopg.Connection[Any]):
    """A connection that is closed when a statement takes too long, or is interrupted: what would end it cleanly is
    another question to the same server."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Run an exchange with the server to its end.

        Raises:
            NoAnswerError: it took longer than the limit.
        """
        limit = time_limits.answering() if timeout is None else timeout
        try:
            return waiting.wait(_until(gen, limit), self.pgconn.socket, interval)
        except psycopg.Error as error:
            if isinstance(error, NoAnswerError):
                self.pgconn.finish()
            raise
        except BaseException:
            self.pgconn.finish()
            raise


def connector(url: sqlalchemy.URL) -> Callable[[], LimitedConnection]:
    """Return what opens a connection to a URL, with a limit and with the network's own tests whether the host lives."""
    _, arguments = url.get_dialect()().create_connect_args(url)
    limits = {
        "connect_timeout": max(2, int(time_limits.connecting())),
        "keepalives_idle": int(time_limits.connecting()),
        "tcp_user_timeout": int(1000 * time_limits.LIMIT),
    }
    return lambda: LimitedConnection.connect(**{**limits, **arguments})


def _until(exchange: Generator[Any, Any, R], limit: float) -> Generator[Any, Any, R]:
    """Pass on an exchange with the server until it takes longer than ``limit``."""
    until = time.monotonic() + limit
    try:
        wanted = next(exchange)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= until:
                raise NoAnswerError(f"the server has not answered for {limit:.0f} s")
            wanted = exchange.send(ready) or wanted
    except StopIteration as end:
        found: R = end.value
        return found
