"""Measure what one needs to plan a larger installation: python -m benchmarks.planning.

Needs Linux and wrk (Debian: apt-get install wrk). Nearly all is CPU time or bytes, not speed, so
that other work of the machine matters less. Makes two PostgreSQL servers, a primary and a standby
that a commit waits for (remote_apply), and two services of one worker, with DATABASE_READ_URL and
without. Counts the CPU time of service and servers (in /proc, with that of their children) for some
thousand requests. Then fills a third server, to see what a table takes.
"""

import argparse
import itertools
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg

from tests.postgres import Postgres, free_port

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
TASKS = ["list", "one", "email", "create"]
MIX = {"one": 0.7, "list": 0.1, "email": 0.1, "create": 0.1}
BUSY = 0.6  # of the processor, so that a peak and the loss of a machine find room
CORES = 8  # of a machine
SETTINGS = ["max_connections=300", "max_wal_size=4GB", "shared_buffers=512MB"]
FILL = """
    INSERT INTO users (name, email)
    SELECT 'User ' || n, 'user' || n || '@example.com' FROM generate_series(%s::bigint, %s) AS n
"""


def cpu(root: int) -> float:
    """Return the seconds of CPU that a process and all its children have taken."""
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(directory.name)
        parents[pid] = int(fields[1])
        times[pid] = sum(map(int, fields[11:15])) / TICKS  # its own, and of children that ended
    total = 0.0
    for pid, taken in times.items():
        ancestor = pid
        while ancestor not in (0, 1, root):
            ancestor = parents.get(ancestor, 0)
        total += taken if ancestor == root else 0
    return total


def pid_of(server: Postgres) -> int:
    return int((server.data / "postmaster.pid").read_text().split()[0])


def run(server: Postgres, statement: str, *values: object) -> list[tuple]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def wait_for_standby(primary: Postgres, standby: Postgres) -> None:
    """Let it replay what there is, and the primary have a checkpoint behind it."""
    run(primary, "CHECKPOINT")
    (end,) = run(primary, "SELECT pg_current_wal_lsn()::text")[0]
    while not run(standby, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", end)[0][0]:
        time.sleep(0.2)


@contextmanager
def service(url: str, read_url: str):
    """Start one worker, and yield its process and its address."""
    port = free_port()
    options = f"--no-access-log --log-level warning --port {port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", *options.split()],
        cwd=HERE.parent,
        env=os.environ | {"DATABASE_URL": url, "DATABASE_READ_URL": read_url, "API_TOKEN": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/health").close()
                break
            time.sleep(0.1)
        yield process, address
    finally:
        process.terminate()
        process.wait()


def make_users(server: Postgres, count: int) -> None:
    """Let the service make the tables, and load users with plain SQL."""
    with service(server.url(), ""):
        run(server, FILL, 1, count)
    run(server, "VACUUM ANALYZE users")


def wrk(address: str, clients: int, seconds: int, *script: str) -> tuple[int, float]:
    """Return how many requests were answered, and the median of the time in ms."""
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "10s", "--latency"),
            *("-s", str(HERE / script[0]), f"{address}/users", *script[1:]),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if "Non-2xx" in done or "Socket errors" in done:
        raise RuntimeError(done)
    median = re.search(r"^\s+50%\s+([\d.]+)(\w+)", done, re.M)
    requests = re.search(r"(\d+) requests in", done)
    assert median
    assert requests
    factor = {"us": 0.001, "ms": 1.0, "s": 1000.0}[median[2]]
    return int(requests[1]), float(median[1]) * factor


def script(task: str, users: int, label: str) -> list[str]:
    return ["create.lua", label] if task == "create" else ["read.lua", task, str(users)]


Costs = dict[str, tuple[float, ...]]


def costs(
    primary: Postgres, standby: Postgres, users: int, options: argparse.Namespace
) -> tuple[Costs, Costs]:
    """Return ms of CPU for a request, of the service, the primary and the standby.

    First with all requests to the primary, then with the reads on the standby; measured in turn.
    The least of some rounds, since whatever else the machine does only adds to it.
    """
    found: tuple[dict[str, list], ...] = (defaultdict(list), defaultdict(list))
    with ExitStack() as stack:
        services = [
            stack.enter_context(service(primary.url(), read_url))
            for read_url in ("", standby.url())
        ]
        for number, task in itertools.product(range(options.rounds + 1), TASKS):
            for way, (process, address) in enumerate(services):
                arguments = script(task, users, f"{way}{task}{number}")
                pids = [process.pid, pid_of(primary), pid_of(standby)]
                before = [cpu(pid) for pid in pids]
                requests, _ = wrk(address, 8, options.seconds, *arguments)
                time.sleep(0.5)  # the standby is a moment behind
                taken = [cpu(pid) - start for pid, start in zip(pids, before, strict=True)]
                if number:  # the first round warms up
                    found[way][task].append([seconds / requests * 1000 for seconds in taken])
    alone, split = (
        {task: tuple(map(min, zip(*rows, strict=True))) for task, rows in way.items()}
        for way in found
    )
    return alone, split


def connections(primary: Postgres, standby: Postgres, users: int) -> tuple[int, int]:
    """Return how many connections one worker has to each server while 100 clients ask."""
    count = (
        "SELECT count(*) - 1 FROM pg_stat_activity"  # without this one
        " WHERE backend_type = 'client backend'"
    )
    with service(primary.url(), standby.url()) as (_, address):
        for task in ("one", "create"):
            wrk(address, 100, 2, *script(task, users, "many"))
        return run(primary, count)[0][0], run(standby, count)[0][0]


def price_of_waiting(primary: Postgres, rounds: int) -> dict[str, float]:
    """Return how long a create takes (median), by what its commit waits for; `local` is 1."""
    taken = defaultdict(list)
    with service(primary.url(), "") as (_, address):
        for number in range(rounds):
            for setting in ("local", "on", "remote_apply"):
                run(primary, f"ALTER SYSTEM SET synchronous_commit = {setting}")
                run(primary, "SELECT pg_reload_conf()")
                time.sleep(0.5)
                _, median = wrk(address, 1, 1, "create.lua", f"wait{setting}{number}")
                taken[setting].append(median)
    medians = {setting: statistics.median(times) for setting, times in taken.items()}
    return {setting: medians[setting] / medians["local"] for setting in medians}


def sizes(server: Postgres, counts: list[int]) -> dict[int, dict[str, float]]:
    """Fill a table up to each of the counts; return the time in all, bytes, pages and levels."""
    run(server, "CREATE EXTENSION pgstattuple")
    found, made, taken = {}, 0, 0.0
    for count in counts:
        began = time.monotonic()
        for start in range(made + 1, count + 1, 1_000_000):
            run(server, FILL, start, min(start + 999_999, count))
        taken += time.monotonic() - began
        made = count
        run(server, "VACUUM ANALYZE users")
        found[count] = {
            "seconds": taken,
            "table": run(server, "SELECT pg_table_size('users')")[0][0],
        }
        for name, index in (("id", "pk_users"), ("email", "uq_users_email")):
            about = "index_size, leaf_pages, internal_pages, tree_level + 1"
            row = run(server, f"SELECT {about} FROM pgstatindex('{index}')")[0]
            keys = (name, f"{name} leaves", f"{name} inner", f"{name} levels")
            found[count] |= dict(zip(keys, row, strict=True))
    return found


def show_sizes(found: dict[int, dict[str, float]], computed: int) -> None:
    (few, less), (many, more) = list(found.items())[-2:]
    slope = {key: (more[key] - less[key]) / (many - few) for key in more}
    last = {key: more[key] + slope[key] * (computed - many) for key in more}
    for name in ("id", "email"):
        branches = more[f"{name} leaves"] / more[f"{name} inner"]
        last[f"{name} levels"] = 1 + math.ceil(math.log(last[f"{name} leaves"], branches))
    print("\n| users | time to make | table | index of ids | index of e-mails | levels of these |")
    print("|---|---|---|---|---|---|")
    for count, row in (found | {computed: last}).items():
        size = [f"{row[key] / 1e9:.2f} GB" for key in ("table", "id", "email")]
        depth = f"{row['id levels']:.0f} and {row['email levels']:.0f}"
        note = " (computed)" if count == computed else ""
        print(f"| {count:,}{note} | {row['seconds']:.0f} s | {' | '.join(size)} | {depth} |")


def show_plan(alone: Costs, split: Costs) -> None:
    """Print how many workers, machines and standbys some rates need."""
    service_ms, primary_ms, standby_ms = (
        sum(share * split[task][column] for task, share in MIX.items()) for column in range(3)
    )
    writes = MIX["create"]
    replay_ms = writes * split["create"][2]
    read_ms = standby_ms - replay_ms
    before = sum(share * alone[task][1] for task, share in MIX.items())
    print(f"\nThe primary's CPU for a request of the mix: {before:.3f} ms, {primary_ms:.3f} with")
    print(f"standbys, which take over {1 - primary_ms / before:.0%} of it.\n")
    print("| requests/s | workers | machines for them | cores of the primary | standbys |")
    print("|---|---|---|---|---|")
    for rate in (500, 2_000, 10_000, 20_000, 50_000):
        workers = math.ceil(rate * service_ms / 1000 / BUSY)
        machines = math.ceil(workers / CORES)
        cores = math.ceil(rate * primary_ms / 1000 / BUSY)
        replay = rate * replay_ms / 1000  # every standby replays every write, in one process
        standbys = math.ceil(rate * read_ms / 1000 / (CORES * BUSY - replay))
        note = "" if cores <= CORES and replay <= BUSY else ": too many writes"
        print(f"| {rate:,}{note} | {workers} | {machines} | {cores} | {standbys} |")
    most = CORES * BUSY / (split["create"][1] / 1000)
    print(f"\nA primary of {CORES} cores takes {most:,.0f} creates a second at {BUSY:.0%}.")


@contextmanager
def running(server: Postgres):
    """Stop the server at the end, and give its place on the disk back."""
    try:
        yield
    finally:
        server.stop("immediate")
        shutil.rmtree(server.directory)


def measure_requests(home: Path, options: argparse.Namespace) -> None:
    primary, standby = Postgres(home), Postgres(home)
    users = options.users[0]
    primary.create(*SETTINGS)
    with running(primary):
        make_users(primary, users)
        standby.copy(primary.url(), "cluster_name=one", *SETTINGS)
        with running(standby):
            run(primary, "ALTER SYSTEM SET synchronous_standby_names = 'one'")
            run(primary, "ALTER SYSTEM SET synchronous_commit = remote_apply")
            run(primary, "SELECT pg_reload_conf()")
            wait_for_standby(primary, standby)
            alone, split = costs(primary, standby, users, options)
            opened = connections(primary, standby, users)
            waiting = price_of_waiting(primary, options.rounds)
    print(f"ms of CPU for a request, among {users:,} users:")
    for name, found in (("one server", alone), ("reads on the standby", split)):
        print(f"\n| {name} | service | primary | standby |\n|---|---|---|---|")
        for task in TASKS:
            print(f"| {task} | " + " | ".join(f"{ms:.2f}" for ms in found[task]) + " |")
    print("\nconnections of a worker to the primary and to the standby:", *opened)
    print("\ntime of a create, one client at a time, by synchronous_commit:")
    print({setting: round(ratio, 2) for setting, ratio in waiting.items()})
    show_plan(alone, split)


def measure_sizes(home: Path, options: argparse.Namespace) -> None:
    server = Postgres(home)
    server.create(*SETTINGS)
    with running(server):
        make_users(server, 0)
        found = sizes(server, options.users)
    show_sizes(found, 10 * options.users[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000_000, 10_000_000])
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)
    try:
        measure_requests(home, options)
        measure_sizes(home, options)
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
