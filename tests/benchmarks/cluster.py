"""A study on a Ray cluster whose nodes come and go, really run on one machine.

The program starts itself again in a network of its own (``unshare``, which needs root), where nothing outside can reach
it. Each node is a ``ray start`` with an address and a CPU of its own. Two nodes train; one is killed with all its
processes in the middle, and another joins. Writes Markdown: ``python -m tests.benchmarks.cluster``.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from mmsa_core.data.synthetic import write_planted
from search.run_folder import RunFolder
from search.trials import finished, open_study

PORT = 6379
TRIALS = 16
STUDY = f"""
study: cluster
data: {{path: data.npz}}
objective: mae
budget: {{trials: {TRIALS}}}
rungs: {{epochs: [10, 20], keep: 0.5}}
population: 1
space: quick
"""
ROOT = Path(__file__).parents[2]
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


def inside(folder: Path) -> None:
    """Run the study on nodes that die and join, up to the end of its search, and print what became of it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    write_planted(folder / "data.npz", 0, train=12_000, valid=300, test=100)
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    nodes = {1: start(1)}
    time.sleep(8.0)
    nodes[2] = start(2)
    command = [sys.executable, "-c", "from search.cli import main; main()", "run", "study.yaml", "--out", "run"]
    address_of_head = {"RAY_ADDRESS": f"{address(1)}:{PORT}", "PYTHONPATH": str(ROOT)}
    study = subprocess.Popen(command, cwd=folder, env={**os.environ, **address_of_head})
    run = RunFolder(folder / "run")

    def told() -> int:
        return len(finished(open_study(run.config(), run).get_trials()))

    trained = {node: until(lambda n=node: trains(nodes[n]), study) for node in (1, 2)}  # type: ignore[misc]
    before = told()
    kill(nodes[2])
    nodes[3] = start(3)
    trained[3] = until(lambda: trains(nodes[3]), study)
    until(lambda: told() == TRIALS, study, 300.0)
    study.send_signal(signal.SIGTERM)
    code = study.wait(timeout=100)
    trials = finished(open_study(run.config(), run).get_trials())
    failed = sum(t.state.name == "FAIL" for t in trials)
    settings = len({str(sorted(t.params.items())) for t in trials})
    nodes_that_trained = ", ".join(str(node) for node, did in trained.items() if did)
    sys.stdout.write(
        "| nodes that trained | told before the kill | told at the end | distinct | failed | exit code at SIGTERM |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        f"| {nodes_that_trained} | {before} | {len(trials)} of {TRIALS} | {settings} | {failed} | {code} |\n"
    )
    for node in nodes.values():
        if node.poll() is None:
            node.send_signal(signal.SIGTERM)


def main() -> None:
    if len(sys.argv) > 1:
        return inside(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        alone = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        subprocess.run([*alone, sys.executable, "-m", "tests.benchmarks.cluster", folder], cwd=ROOT, check=True)
    return None


if __name__ == "__main__":
    main()
