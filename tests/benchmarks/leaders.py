"""How often two drivers that begin one study at the same moment both lead: 50 times on every storage.

    python -m tests.benchmarks.leaders [ROUNDS]

Each round is a whole driver but for the training: session, ledger, handing over, an opening of the test split.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.search.racing import ONE_LEADER, race
from tests.search.servers import Postgres, binaries, free_port


def main(rounds: int = 50) -> None:
    """Print, by storage, how many rounds there were, in how many one driver led, and the sums of what is counted."""
    print("| storage | rounds | one leader | confirmations | openings | terms | trials | complete | baselines |")  # noqa: T201
    print("|---|---|---|---|---|---|---|---|---|")  # noqa: T201
    with ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        urls = {"SQLite": f"sqlite:///{folder}/shared.db", "journal": f"journal://{folder}/shared.log"}
        if (programs := binaries()) is not None:
            server = Postgres(free_port(), programs, folder / "postgres")
            server.create()
            server.start()
            open_.callback(server.stop)
            urls["PostgreSQL"] = server.url()
        for name, url in urls.items():
            (folder / name).mkdir()
            found = race(url, folder / name, rounds)
            sound = sum(r.counts == ONE_LEADER for r in found)
            sums = [sum(column) for column in zip(*(r.counts for r in found), strict=True)]
            print("| " + " | ".join(map(str, [name, rounds, sound, *sums])) + " |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
