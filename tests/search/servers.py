"""Servers of the tests alone that store studies, PostgreSQL and Optuna's gRPC proxy: both can die and come back."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

PASSWORD = "tr0ub:4d@r/3?&"
"""Holds what a URL must write in percents."""
PROXY = """
import sys, optuna
from optuna.storages.journal import JournalFileBackend
storage = optuna.storages.JournalStorage(JournalFileBackend(sys.argv[1]))
optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
"""


@contextmanager
def frozen(server: Postgres | Proxy) -> Iterator[None]:
    """Let a server stand still (SIGSTOP): it is there, and does not answer."""
    stopped = server.processes()
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, if it is installed."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *(Path(p).parent for p in [shutil.which("initdb")] if p)]
    return next((f for f in found if (f / "pg_ctl").exists() and (f / "initdb").exists()), None)


def _as_postgres(*command: str) -> None:
    """Run a command that refuses to be root's."""
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    done = subprocess.run([*user, *command], cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server whose user ``ann`` has the password; its data is in ``folder``."""

    port: int
    programs: Path
    folder: Path

    def url(self, password: str = PASSWORD, database: str = "postgres") -> str:
        return f"postgresql+psycopg://ann:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        self.folder.mkdir(mode=0o755)
        password = self.folder / "password"
        password.write_text(PASSWORD, encoding="utf-8")
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
            shutil.chown(password, "postgres")
        options = ("-U", "ann", "-A", "scram-sha-256", f"--pwfile={password}")
        _as_postgres(str(self.programs / "initdb"), "-D", str(self.folder / "data"), *options)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c log_statement=none"
        self._control("-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End the server at once, as a power cut does."""
        self._control("-m", "immediate", "stop")

    def processes(self) -> list[psutil.Process]:
        """Return all of the server's processes."""
        first = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        return [first, *first.children(recursive=True)]

    def _control(self, *arguments: str) -> None:
        _as_postgres(str(self.programs / "pg_ctl"), "-D", str(self.folder / "data"), *arguments)


class Proxy:
    """Optuna's gRPC proxy before a journal, in a process of its own."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-c", PROXY, str(self.journal), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None and time.monotonic() < until, "the proxy did not start"
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """Return the proxy's process."""
        assert self.process is not None
        return [psutil.Process(self.process.pid)]

    def stop(self) -> None:
        """Kill it (``kill -9``)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
