"""The servers that tests of storages share; a test that needs one which is not installed is skipped and says so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.search.servers import Postgres, Proxy, binaries, free_port

MISSING = "PostgreSQL is not here (apt-get install postgresql, pip install psycopg[binary])"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL server of this module alone."""
    programs = binaries()
    if programs is None or find_spec("psycopg") is None:
        pytest.skip(MISSING)
    made = Postgres(free_port(), programs, Path("/tmp") / f"mmsa-postgres-{os.getpid()}")
    try:
        made.create()
        made.start()
        yield made
    finally:
        with suppress(AssertionError):
            made.stop()
        shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """Optuna's gRPC proxy before a journal."""
    if find_spec("grpc") is None:
        pytest.skip("grpc is not here (pip install grpcio protobuf)")
    made = Proxy(tmp_path / "behind.log")
    try:
        made.start()
        yield made
    finally:
        made.stop()
