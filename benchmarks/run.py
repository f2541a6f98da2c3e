"""Measure the service beside its peers, in one run: python -m benchmarks.run.

Needs wrk (Debian: apt-get install wrk) and the packages of benchmarks/requirements.txt. Starts
every peer with 2 workers over a database of its own with 100 users, then sends requests from 16
clients, a few seconds at a time, one peer after the other, round after round, so that whatever else
the machine does meets all of them. Prints the median of each, and ratios; draws ratios.png.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import psycopg
from sqlalchemy import create_engine, text

from tests.postgres import Postgres, free_port

HERE = Path(__file__).parent
UVICORN = "uvicorn --workers 2 --no-access-log --log-level warning --port {port} "
GUNICORN = "gunicorn --workers 2 --threads 8 --log-level warning --bind 127.0.0.1:{port} "
BASE = "the lessons' code"  # what all others are compared with
PEERS = {
    "this service": UVICORN + "main:app",
    BASE: UVICORN + "benchmarks.peers.lessons:app",
    "FastAPI's tutorial": UVICORN + "benchmarks.peers.tutorial:app",
    "Litestar": UVICORN + "benchmarks.peers.litestar_app:app",
    "Flask": GUNICORN + "benchmarks.peers.flask_app:app",
    "Django Ninja": GUNICORN + "benchmarks.peers.ninja_app:app",
    "the floor": UVICORN + "benchmarks.peers.floor:app",
}
TABLE = {
    "sqlite": "CREATE TABLE users (id INTEGER PRIMARY KEY, name VARCHAR(100) NOT NULL,"
    " email VARCHAR(254) NOT NULL UNIQUE)",
    "postgresql": "CREATE TABLE users (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " name VARCHAR(100) NOT NULL, email VARCHAR(254) NOT NULL UNIQUE)",
}
FILL = text("INSERT INTO users (name, email) VALUES (:name, :email)")


class Peer:
    """A running server over a database of its own."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url
        self.port = free_port()
        if name != "this service":  # which makes its table itself
            engine = create_engine(url)
            with engine.begin() as connection:
                connection.execute(text(TABLE[engine.dialect.name]))
            engine.dispose()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *PEERS[name].format(port=self.port).split()],
            cwd=HERE.parent,
            env=os.environ | {"DATABASE_URL": url, "PEER_URL": url, "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.get("/users")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        time.sleep(2)  # the other worker
        self.fill(100)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
            return bytes(answer.read())

    def fill(self, count: int) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            for start in range(1, count + 1, 100_000):
                users = range(start, min(start + 100_000, count + 1))
                connection.execute(
                    FILL, [{"name": f"User {n}", "email": f"user{n}@example.com"} for n in users]
                )
        engine.dispose()

    def wrk(self, path: str, seconds: float, *script: str) -> dict[str, float]:
        """Return requests per second, and p50 and p99 in milliseconds."""
        done = subprocess.run(
            ["wrk", "-t2", "-c16", f"-d{seconds:g}s", "--timeout", "10s", "--latency"]
            + (["-s", str(HERE / "create.lua")] if script else [])
            + [f"http://127.0.0.1:{self.port}{path}", *script],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if "Non-2xx" in done or "Socket errors" in done:
            raise RuntimeError(f"{self.name} {path}:\n{done}")
        factor = {"us": 0.001, "ms": 1.0, "s": 1000.0}
        found = {}
        for percent in ("50", "99"):
            latency = re.search(rf"^\s+{percent}%\s+([\d.]+)(\w+)", done, re.M)
            assert latency
            found[f"p{percent}"] = float(latency[1]) * factor[latency[2]]
        rate = re.search(r"Requests/sec:\s+([\d.]+)", done)
        assert rate
        return found | {"rate": float(rate[1])}

    def memory(self) -> float:
        """Return what all the processes hold together, shared pages once, in MB."""
        total = 0
        for group in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(group.name)) == self.process.pid:
                    rollup = (group / "smaps_rollup").read_text()
                    total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1])  # type: ignore[index]
            except OSError:
                continue
        return total / 1024

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


def measure(
    peers: list[Peer], rounds: int, seconds: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the medians for each task and peer."""
    tasks = {"list": ("/users",), "one": ("/users/50",), "create": ("/users", "create")}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for task, (path, *script) in tasks.items():
        taken: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(rounds):
            for peer in peers:
                arguments = [f"{task}{number}"] if script else []
                taken[peer.name].append(peer.wrk(path, seconds, *arguments))
        results[task] = {
            name: {key: statistics.median(t[key] for t in runs) for key in runs[0]}
            for name, runs in taken.items()
        }
    return results


def report(database: str, results: dict[str, dict[str, dict[str, float]]]) -> None:
    for task, peers in results.items():
        base = peers.get(BASE, peers["this service"])["rate"]
        print(f"\n{database}, {task}: requests per second, and how many times {BASE}")
        for name, found in peers.items():
            print(
                f"  {name:20} {found['rate']:6.0f}/s {found['rate'] / base:6.2f} times"
                f"; p50 {found['p50']:6.1f} ms, p99 {found['p99']:6.1f} ms"
            )


def million(peer: Peer, seconds: float) -> None:
    """Show that a page costs the same wherever it is, and what memory a million users take."""
    engine = create_engine(peer.url)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM users"))
    engine.dispose()
    peer.fill(1_000_000)
    first = json.loads(peer.get("/users?limit=1"))[0]["id"]
    taken: dict[int, list[float]] = defaultdict(list)
    for _ in range(5):
        for user in (1, 10_000, 900_000):
            taken[user].append(peer.wrk(f"/users?after={first + user - 2}", seconds)["rate"])
    rates = {user: statistics.median(runs) for user, runs in taken.items()}
    for user, rate in rates.items():
        print(f"  a page from user {user:7,} of a million: {rates[1] / rate:.2f} times the first")
    print(f"  memory with a million users, both workers and their parent: {peer.memory():.0f} MB")


def draw(everything: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    figure, axes = plt.subplots(
        1, len(everything), figsize=(11, 4.5), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (database, results) in zip(axes[0], everything.items(), strict=True):
        names = [name for name in PEERS if name != "the floor"]
        for offset, (task, peers) in enumerate(results.items()):
            base = peers[BASE]["rate"]
            places = [place + (offset - 1) * 0.27 for place in range(len(names))]
            bars = axis.barh(places, [peers[n]["rate"] / base for n in names], 0.25, label=task)
            axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axis.set_yticks(range(len(names)), names)
        axis.set_title({"sqlite": "SQLite", "postgresql": "PostgreSQL"}[database])
        axis.set_xlabel(f"requests per second, {BASE} = 1")
        axis.margins(x=0.1)
    axes[0][0].invert_yaxis()
    axes[0][-1].legend()
    figure.savefig(HERE / "ratios.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--million", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    everything = {}
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    server = Postgres(directory)
    server.create("max_connections=300")
    try:
        for database in arguments.databases:
            peers: list[Peer] = []
            try:
                for number, name in enumerate(arguments.peers):
                    url = f"sqlite:///{directory}/{number}.db"
                    if database == "postgresql":
                        with psycopg.connect(server.url(), autocommit=True) as connection:
                            connection.execute(f"CREATE DATABASE peer{number}".encode())
                        url = server.url(f"peer{number}").replace(
                            "postgresql", "postgresql+psycopg"
                        )
                    peers.append(Peer(name, url))
                expected = json.loads(peers[0].get("/users"))
                for peer in peers[1:]:
                    found = json.loads(peer.get("/users"))
                    assert [user["email"] for user in found] == [user["email"] for user in expected]
                everything[database] = measure(peers, arguments.rounds, arguments.seconds)
                report(database, everything[database])
                if arguments.million:
                    million(peers[0], arguments.seconds)
            finally:
                for peer in peers:
                    peer.stop()
    finally:
        server.stop("immediate")
        shutil.rmtree(directory)
    if arguments.peers == list(PEERS):
        draw(everything)


if __name__ == "__main__":
    main()
