"""While a study runs, all listen on the loopback interface alone, no dashboard is there, and Ray asks for a token."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from mmsa_core.data.npz import write
from mmsa_core.data.synthetic import planted
from tests.search.test_run import STUDY, driver, finished, wait_for

pytestmark = pytest.mark.ray

CONNECT = """
import os, sys
os.environ["RAY_AUTH_MODE"] = sys.argv[2]
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("connected")
"""


@dataclass(frozen=True)
class Process:
    """One process of a run: its command, where it listens, and what it has in its environment."""

    command: str
    listens: tuple[tuple[str, int], ...]
    environment: dict[str, str]


@dataclass(frozen=True)
class Seen:
    """What was there at one moment of a run, and how two strangers fared who tried to join its cluster."""

    processes: tuple[Process, ...]
    without_token: subprocess.CompletedProcess[str]
    wrong_token: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder, before = tmp_path_factory.mktemp("network"), Path.cwd()
    write(folder / "data.npz", planted(0, train=96, valid=32, test=32))
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    os.chdir(folder)
    try:
        settings = ("resources.workers=2", "budget.trials=200", "rungs.epochs=[20,40]")
        with driver("run", "study.yaml", "--out", "run", *settings) as process:
            wait_for(process, lambda: len(finished("run")) >= 2)
            found = tuple(_look(child) for child in [psutil.Process(process.pid), *_children(process.pid)])
            (address,) = {_option(p.command, "--gcs-address") for p in found} - {""}
            with ThreadPoolExecutor() as both:  # each tries for half a minute
                without = both.submit(_join, address, "disabled")
                wrong = both.submit(_join, address, "token", RAY_AUTH_TOKEN="0" * 64)
            yield Seen(found, without.result(), wrong.result())
    finally:
        os.chdir(before)


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _look(process: psutil.Process) -> Process:
    command, listens, environment = "", [], {}
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        command, environment = " ".join(process.cmdline()), process.environ()
        connections = process.net_connections(kind="tcp")
        listens = [(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]
    return Process(command, tuple(listens), environment)


def _option(command: str, name: str) -> str:
    """Return an option's value in a command."""
    _, found, rest = f"{command} ".partition(f"{name}=")
    return rest.split(" ")[0] if found else ""


def _join(address: str, mode: str, **token: str) -> subprocess.CompletedProcess[str]:
    """Try to join a cluster, from a home without a token."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", CONNECT, address, mode],
        env={**known, "HOME": str(Path.cwd()), **token}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_everything_listens_on_loopback(seen: Seen) -> None:
    names = " ".join(p.command for p in seen.processes)
    assert "gcs_server" in names and "raylet" in names, "Ray's processes were not found"
    places = {(ip, port) for p in seen.processes for ip, port in p.listens}
    assert len(places) >= 3
    assert {ip for ip, _ in places if not _is_loopback(ip)} == set()


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)  # 127.0.0.1 by a socket that speaks both protocols
    return (mapped or address).is_loopback


def test_no_dashboard_is_started(seen: Seen) -> None:
    """Ray's dashboard process is there without its page, its modules and its port."""
    for process in (p for p in seen.processes if "dashboard/dashboard.py" in p.command):
        assert "--minimal" in process.command and "--disable-frontend" in process.command
        assert process.listens == ()
    assert 8265 not in {port for p in seen.processes for _, port in p.listens}


def test_ray_asks_for_the_token_of_this_run(seen: Seen) -> None:
    for part in ("gcs_server", "raylet/raylet"):
        (server,) = [p for p in seen.processes if p.command.split(" ")[0].endswith(part)]
        assert server.environment["RAY_AUTH_MODE"] == "token"
        assert len(server.environment["RAY_AUTH_TOKEN"]) == 64
        assert server.environment["RAY_AUTH_TOKEN"] not in " ".join(p.command for p in seen.processes), (
            "all can read it"
        )


def test_a_stranger_cannot_join(seen: Seen) -> None:
    for tried in (seen.without_token, seen.wrong_token):
        assert tried.returncode != 0 and "connected" not in tried.stdout
        assert "uthentication" in tried.stderr


def test_the_machine_has_an_address_to_listen_on() -> None:
    """What these tests would see: a socket on all interfaces."""
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        assert ("0.0.0.0", server.getsockname()[1]) in _look(psutil.Process()).listens
