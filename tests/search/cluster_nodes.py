"""A study on a cluster whose nodes come and go: run as a program, in a network namespace of its own.

Each node is a ``ray start`` with an address of its own on the namespace's loopback interface, which nothing outside can
reach. One node is killed in the middle and another joins. Prints on which nodes populations trained, as JSON.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from search.run_folder import RunFolder
from search.trials import finished, open_study

PORT = 6379
RAY = str(Path(sys.executable).parent / "ray")


def address(node: int) -> str:
    return f"10.99.0.{node}"


def start(node: int) -> subprocess.Popen[bytes]:
    """Start a node with one CPU; the first is the head."""
    subprocess.run(["ip", "address", "add", f"{address(node)}/32", "dev", "lo"], check=True)
    place = (
        ["--head", f"--port={PORT}", "--include-dashboard=false"] if node == 1 else [f"--address={address(1)}:{PORT}"]
    )
    command = [RAY, "start", "--block", "--num-cpus=1", f"--node-ip-address={address(node)}", *place]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def trains(node: subprocess.Popen[bytes]) -> bool:
    """Tell whether a worker of a node is at work."""
    with suppress(psutil.Error):
        below = psutil.Process(node.pid).children(recursive=True)
        return any("ray::ResourceTrainable.train" in " ".join(p.cmdline()) for p in below)
    return False


def kill(node: subprocess.Popen[bytes]) -> None:
    """End a node and all its processes at once, as when the machine is gone."""
    own = psutil.Process(node.pid)
    for process in [*own.children(recursive=True), own]:
        with suppress(psutil.Error):
            process.kill()
    node.wait()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 90.0) -> bool:
    """Wait for a condition while a process runs; tell whether it came true."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    nodes = {1: start(1)}
    time.sleep(8.0)
    nodes[2] = start(2)
    time.sleep(8.0)
    run = [sys.executable, "-c", "from search.cli import main; main()", "run", *sys.argv[1:]]
    study = subprocess.Popen(run, env={**os.environ, "RAY_ADDRESS": f"{address(1)}:{PORT}"})
    folder = RunFolder(Path(sys.argv[sys.argv.index("--out") + 1]))
    seen = {node: until(lambda n=node: trains(nodes[n]), study) for node in (1, 2)}  # type: ignore[misc]
    kill(nodes[2])
    nodes[3] = start(3)
    seen[3] = until(lambda: trains(nodes[3]), study)
    code = study.wait(timeout=200)
    told = finished(open_study(folder.config(), folder).get_trials())
    states = sorted(t.state.name for t in told)
    settings = len({str(sorted(t.params.items())) for t in told})
    sys.stdout.write(json.dumps({"code": code, "trained": seen, "states": states, "settings": settings}) + "\n")
    for node in nodes.values():
        if node.poll() is None:
            node.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
