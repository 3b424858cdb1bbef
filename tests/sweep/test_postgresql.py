"""A search whose workers share a real PostgreSQL, started here on loopback."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockwise_lora.sweep.search import open_study

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
SOURCE = Path(__file__).parents[2] / "src"

WORKER = """
import sys
from blockwise_lora.sweep.candidates import Space, everything
from blockwise_lora.sweep.search import Means, open_study, screen

blocks = ("in0", "in1", "mid", "out2", "out3")
concepts = ("character", "style")
space = Space(dict.fromkeys(concepts, blocks), dict.fromkeys(concepts, (0, 8)))

def look(candidate):
    print(candidate.pair, flush=True)
    mine, theirs = candidate.character, candidate.style
    return Means(float(bool(mine["mid"])), float(bool(theirs["out3"])), 0.0, 0.0)

url, seed = sys.argv[1], int(sys.argv[2])
screen(open_study("shared", url, seed), space, [everything(space)], look, lambda n: n >= 12)
"""


def postgresql_binaries() -> Path:
    """Where initdb and pg_ctl are; installed from Debian's packages where they are missing."""
    if not BINARIES and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-q", "postgresql"]
        subprocess.run(command, capture_output=True, timeout=300, check=False)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed and cannot be: the shared search was NOT tested")
    return found[-1]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of a database of an own server; it refuses to run as root, so it may get a user."""
    binaries = postgresql_binaries()
    # Not below pytest's own folder, which no other user may enter.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    user = getpass.getuser()
    prefix: list[str] = []
    if os.geteuid() == 0:
        user = "postgres"
        prefix = ["runuser", "-u", user, "--"]
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run([*prefix, *command], check=True, capture_output=True, cwd=folder)

    data = str(folder / "data")
    run(str(binaries / "initdb"), "-D", data, "-A", "trust", "-U", user)
    options = f"-h 127.0.0.1 -p {port} -k {folder}"
    log = str(folder / "log")
    run(str(binaries / "pg_ctl"), "-D", data, "-w", "-l", log, "-o", options, "start")
    try:
        yield f"postgresql+psycopg://{user}@127.0.0.1:{port}/postgres"
    finally:
        run(str(binaries / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_two_workers_share_one_search(server):
    """Each looks at its own candidates; what one has seen, the other does not look at again."""
    open_study("shared", server, 0)  # the tables are made once, before both use them
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, server, str(seed)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for seed in (1, 2)
    ]
    said = [worker.communicate(timeout=240)[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    study = open_study("shared", server, 3)
    done = [t for t in study.trials if t.state.is_finished()]
    assert len(done) >= sum(map(len, said)) >= 2
    first, second = map(set, said)
    assert first and second
    # Both may be at work on one candidate at the same moment, seldom on more than a few.
    assert len(first & second) <= 3
    best = max(study.best_trials, key=lambda t: sum(t.values))
    assert best.values[:2] == [1.0, 1.0]
