"""The documents, taken at their word: their commands are run, and what they quote is there."""

import http.server
import re
import shlex
import shutil
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import psycopg
import pytest

from commands import (
    BACKUPS,
    FIGURES,
    FRENCH,
    LESSONS,
    OPERATIONS,
    README,
    RECIPE,
    TEXT,
    assert_printed,
    block,
    blocks,
    command,
    commands,
    run,
    running,
    sections,
)
from helpers import ADA, GRACE, TOKEN, add, sql
from postgres import Postgres
from production.settings import LOCK_TIMEOUT
from production.sql.errors import REFERRED, TAKEN
from service import ROOT, StartService

# Where the commands are that the tests below run, and those that something else runs.
RUN_HERE = {
    (README, "Run it"),
    (README, "Try it"),
    (README, "Addresses"),
    (LESSONS, "How to try them"),
    (OPERATIONS, "Settings"),
    (OPERATIONS, "Upgrade of the tables"),
    (OPERATIONS, "Container"),
    (OPERATIONS, "What to watch"),
    (RECIPE, "4. The step to the new table"),
    (RECIPE, "Try it"),
}
RUN_ELSEWHERE = {
    (README, "With a token"): "by test_setup.py",
    (README, "Test it"): "by .ci/run, which reads it from there",
    (BACKUPS, "SQLite"): "by test_backups.py",
    (BACKUPS, "PostgreSQL"): "by test_backups.py",
    (BACKUPS, "From SQLite to PostgreSQL"): "by test_backups.py",
    (FIGURES, "Measure it yourself"): "by hand: it takes half an hour",
    (FIGURES, "Numbers for planning"): "by hand: it takes ten minutes",
}


def edits(document: str, before: str = "") -> list[tuple[str, str, str]]:
    """Return what to replace, by what and in which file, in the sentences that say so."""
    words = ("remplace", "par", "dans") if document == FRENCH else ("replace", "by", "in")
    sentence = r"{} `([^`]+)` {} `([^`]+)` {} `([^`]+)`".format(*words)
    return re.findall(before + sentence, " ".join(TEXT[document].split()))


def edit(project: Path, replaced: str, replacement: str, file: str) -> None:
    code = (project / file).read_text()
    assert replaced in code
    (project / file).write_text(code.replace(replaced, replacement))


def as_postcards(recipe: str) -> str:
    """Use another word, since somebody who followed the recipe has photos already."""
    return recipe.replace("hoto", "ostcard")


def shown(section: str) -> str:
    """Return the only block of what is seen in the terminal."""
    (found,) = blocks(section, "text")
    return found


POSTCARDS = as_postcards(TEXT[RECIPE])
BREAKS = edits(LESSONS, before=r"\*\*Break it:\*\* ")
START = block(README, "start")


@pytest.fixture
def installed(project: Path) -> Path:
    """A copy of the project after the command of "Test it" in it."""
    (project / ".venv").symlink_to(sys.prefix)
    return project


def test_every_command_is_run() -> None:
    found = {
        (document, heading)
        for document in TEXT
        for heading, text in sections(document).items()
        if document != FRENCH and blocks(text)
    }

    assert found == RUN_HERE | RUN_ELSEWHERE.keys()
    assert "```sh test$" in (ROOT / ".ci/run").read_text()
    assert block(README, "test") in commands(README, "Test it")


def test_the_french_course_has_the_commands_and_quotes_of_the_english_one() -> None:
    for language in ("sh", "powershell", "json", "text", "python"):
        english = [*blocks(TEXT[README], language), *blocks(TEXT[LESSONS], language)]
        assert Counter(blocks(TEXT[FRENCH], language)) == Counter(english)
    assert edits(FRENCH) == edits(LESSONS)


@pytest.mark.parametrize(
    ("document", "heading"),
    [
        (README, "Run it"),
        (README, "With a token"),
        (README, "Test it"),
        (LESSONS, "How to try them"),
    ],
)
def test_powershell_is_told_the_same_as_sh(document: str, heading: str) -> None:
    translated = [each for each in commands(document, heading) if not each.startswith("curl")]
    for sh, other in (("python3", "py"), (" &&", ";"), (".venv/bin/", ".venv\\Scripts\\")):
        translated = [each.replace(sh, other) for each in translated]

    powershell = blocks(sections(document)[heading], "powershell")
    assert [each for each in powershell if not each.startswith("Invoke-")] == translated
    assert translated


def test_powershell_sends_the_same_requests_as_curl() -> None:
    def options(lines: list[str], *names: str) -> list[list[str]]:
        """Return the address and the options of each line, by those names."""
        found = []
        for line in "".join(lines).splitlines():
            words = [word.removeprefix("http://") for word in shlex.split(line)]
            (address,) = [word for word in words if word.startswith("localhost")]
            pairs = dict(pairwise(words))
            found.append([address, *(pairs.get(name, "") for name in names)])
        return found

    curl = options(commands(README, "Try it"), "-X", "-d", "-H")
    for request in curl:
        request[1] = (request[1] or ("POST" if request[2] else "")).capitalize()
        request[3] = request[3].removeprefix("Content-Type: ")
    powershell = blocks(sections(README)["Try it"], "powershell")

    assert options(powershell, "-Method", "-Body", "-ContentType") == curl


def test_powershell_sends_the_same_token_and_the_same_hundred_users_as_curl() -> None:
    (_, curl), (_, powershell) = (
        blocks(sections(README)["With a token"], language) for language in ("sh", "powershell")
    )
    header = re.findall(r'-H "(\w+): (.*)"', curl)
    assert re.findall(r'@\{(\w+) = "(.*)"\}', powershell) == header != []

    curl = command(README, "Addresses").replace("'$n'", "$_")
    (powershell,) = blocks(sections(README)["Addresses"], "powershell")
    bodies = re.findall(r"-d '(.*?)'", curl)
    assert re.findall(r'-Body "(.*)"', powershell.replace("`", "")) == bodies != []
    assert ("seq 100" in curl, "1..100 |" in powershell) == (True, True)


def test_the_readme_is_short() -> None:
    assert len(TEXT[README].splitlines()) <= 200


@pytest.mark.parametrize("document", TEXT)
def test_no_cell_of_a_table_is_a_paragraph(document: str) -> None:
    rows = re.findall(r"^\|(.*)\|$", TEXT[document], re.M)
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]

    assert [cell for cell in cells if len(cell) > 200] == []


@pytest.mark.parametrize("document", TEXT)
def test_links_lead_to_files_and_headings_that_exist(document: str) -> None:
    text = re.sub(r"^```.*?^```", "", TEXT[document], flags=re.M | re.S)
    for link in re.findall(r'(?:\]\(|src=")([^)"]+)', text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), link
        if anchor:
            headings = sections(str(file.resolve().relative_to(ROOT)))
            assert anchor in [re.sub(r"[^\w -]", "", h).replace(" ", "-").lower() for h in headings]


def test_the_table_of_addresses_says_the_same_as_openapi(client: httpx.Client) -> None:
    text = sections(README)["Addresses"]
    everywhere = set(re.findall(r"\*\*(\d{3})\*\*", text))
    promised = {
        (path, method.lower()): everywhere | set(re.findall(r"\b[2-4]\d\d\b", answers))
        for method, path, answers in re.findall(r"^\| `(\w+) (/\S+)` \| (.*) \|$", text, re.M)
    }

    documented = {
        (path, method): set(operation["responses"])
        for path, operations in client.get("/openapi.json").json()["paths"].items()
        for method, operation in operations.items()
    }

    assert promised == {address: documented[address] for address in promised}


@pytest.mark.slow
def test_the_first_command_sets_up_and_starts_what_the_next_ones_use(project: Path) -> None:
    shutil.rmtree(project / "tests")
    install, again = commands(README, "Run it")
    assert install.endswith(f" && {again}")
    replies = blocks(sections(README)["Try it"], "json")

    with running(install, project) as (client, log):
        port = str(client.base_url.port)
        said = [run(curl.replace("8000", port), project) for curl in commands(README, "Try it")]
        assert_printed(shown(sections(README)["Run it"]).replace("8000", port), log)

        hundred = command(README, "Addresses")
        run(hundred.replace("8000", port), project)
        (page,) = re.findall(r"`(curl -i [^`]+)`", sections(README)["Addresses"])
        assert '\nlink: <?limit=3&after=3>; rel="next"\n' in run(
            page.replace("8000", port), project
        )
        assert len(client.get("/users?limit=1000").json()) == 101

    assert said == replies


@pytest.mark.parametrize("document", [LESSONS, FRENCH])
def test_the_lessons_quote_lines_that_are_in_the_code(document: str) -> None:
    quotes = re.findall(
        r"\[([\w/]+\.py)\]\([./\w]+\) ?:\n\n```python\n(.*?)^```", TEXT[document], re.M | re.S
    )

    assert [quote for _, quote in quotes] == blocks(TEXT[document], "python")
    for file, quote in quotes:
        code = (ROOT / file).read_text()
        end = -1
        for part in re.split(r"^ *\.\.\.\n", quote, flags=re.M):  # ... for lines left out
            start = code.find(part, end + 1)
            assert start > end, part
            end = start + len(part)


@pytest.mark.parametrize(("document", "undo"), [(LESSONS, "Undo "), (FRENCH, "Annule ")])
def test_what_is_changed_to_see_something_is_to_be_undone(document: str, undo: str) -> None:
    text = " ".join(TEXT[document].split())

    for change in ('`"echo": True`', "db.hash_key)`"):
        assert undo in text.partition(change)[2][:450]


@pytest.mark.slow
def test_what_the_lessons_show_is_seen(installed: Path) -> None:
    lesson = {heading[0]: text for heading, text in sections(LESSONS).items()}
    echo = edits(LESSONS)[0]
    count, title = edits(LESSONS, before=r"\*\*See it:\*\* ")
    edit(installed, *echo)

    with running(START, installed) as (client, log):
        added = add(client, ADA)
        assert_printed(shown(lesson["3"]), log)

        del log[:]
        assert client.post("/users", json=ADA).status_code == 409
        assert_printed(shown(lesson["4"]), log)

        del log[:]
        assert client.get("/users").json() == [added.json()]
        assert_printed(shown(lesson["5"]), log)

        grace = add(client, GRACE).json()
        page = client.get("/users", params={"limit": 1})
        assert f"`link: {page.headers['link']}`" in lesson["6"]
        assert f"<http://localhost:8000/users{page.links['next']['url']}>" in lesson["6"]
        assert client.get("/users" + page.links["next"]["url"]).json() == [grace]

        for name, status in (("Ada King", 200), ("Ada Byron", 412)):
            assert f'`{{"name": "{name}"}}`' in lesson["2"]
            changed = client.patch("/users/1", json={"name": name}, headers={"If-Match": '"1"'})
            assert changed.status_code == status

        (installed / "users.db").rename(installed / "away.db")
        assert client.get("/users").status_code == 503
        (installed / "away.db").rename(installed / "users.db")
        assert len(client.get("/users").json()) == 2

        del log[:]
        edit(installed, echo[1], echo[0], echo[2])  # undone, as the lessons say
        assert_printed("Application startup complete", log)
        for change in (count, title):
            del log[:]
            edit(installed, *change)
            assert_printed("Application startup complete", log)
            assert "Reloading..." in "".join(log)
            if change == count:
                client.get("/users")
                client.get("/users")
                assert_printed(shown(lesson["7"]), log)
        assert client.get("/openapi.json").json()["info"]["title"] == "My users"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 9))
def test_a_broken_lesson_is_seen_by_its_test(installed: Path, number: int) -> None:
    assert len(BREAKS) == 8
    test = command(LESSONS, "How to try them")
    edit(installed, *BREAKS[number - 1])

    test = test.replace("lesson_3", f"lesson_{number}")
    # No further than the first failure, and without plugins, which take a while to import.
    quick = {"PYTEST_ADDOPTS": "--exitfirst", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    said = run(test, installed, status=1, **quick)

    failed = rf"^FAILED tests/lessons/test_lessons.py::test_lesson_{number}_"
    assert re.search(failed, said, re.M), said


@pytest.mark.slow
def test_the_production_command_serves_from_postgresql(installed: Path, postgres: Postgres) -> None:
    serve = command(OPERATIONS, "Settings")
    check = command(OPERATIONS, "Container")
    assert "postgresql://users:secret@localhost/users" in serve
    serve = serve.replace("postgresql://users:secret@localhost/users", postgres.url())

    with running(serve, installed) as (client, _):
        check = check.replace("8000", str(client.base_url.port))
        add(client, ADA)
        assert client.get("/users").json() == [{"id": 1, **ADA}]
        run(check, installed)
        postgres.stop()
        run(check, installed, status=1)


def test_a_role_gets_the_limits_of_time_that_a_pooler_cannot_keep(
    shared_postgres: Postgres,
) -> None:
    (statements,) = blocks(sections(OPERATIONS)["Poolers"], "sql")
    with psycopg.connect(shared_postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE users LOGIN")
        connection.execute(statements.encode())

    with psycopg.connect(shared_postgres.url(), user="users") as connection:
        limits = [
            connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("lock_timeout", "statement_timeout")
        ]

    assert limits == [(f"{LOCK_TIMEOUT}s",), (f"{LOCK_TIMEOUT + 1}s",)]


@contextmanager
def collector() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Collect traces and metrics: give the command that serves with them, and what came."""
    received: dict[str, bytes] = {}

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received[self.path] = received.get(self.path, b"") + body
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        serve = block(OPERATIONS, "serve-with-traces")
        serve = serve.replace("localhost:4318", f"localhost:{server.server_port}")
        try:
            yield f"OTEL_EXPORTER_OTLP_COMPRESSION=none {serve}", received
        finally:
            server.shutdown()


def assert_nobody_is_in(received: dict[str, bytes]) -> None:
    """See that a collector has got no name and no e-mail."""
    everything = b"".join(received.values()).lower()
    for part in (b"ada@", b"lovelace"):
        assert part not in everything, everything


@pytest.mark.slow
def test_traces_and_metrics_reach_a_collector(installed: Path) -> None:
    install = block(OPERATIONS, "install-exporter")
    assert install.split()[-1] in (ROOT / "tests/requirements.txt").read_text()
    with collector() as (serve, received), running(serve, installed) as (client, _):
        client.get(add(client, ADA).headers["location"])
        client.get("/users", params={"email": ADA["email"]})

    assert b"/users/{user_id}" in received["/v1/traces"]
    assert b"http.server.request.duration" in received["/v1/metrics"]
    assert_nobody_is_in(received)


@pytest.mark.slow
def test_no_email_is_in_the_traces_of_a_request_that_is_refused(installed: Path) -> None:
    query = "?email=ada@example.com"
    upgrade = {"Connection": "Upgrade", "Upgrade": "h2c"}
    with (
        collector() as (serve, received),
        running(serve, installed, API_TOKEN=TOKEN) as (client, _),
    ):
        answers = {401: [client.get(f"/users{query}"), client.get(f"/nothing{query}")]}
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        answers |= {
            400: [client.request("GET", f"/users{query}", content=b"x", headers=upgrade)],
            404: [client.get(f"/users%0A{query}"), client.get(f"/nothing{query}")],
            405: [client.delete(f"/users{query}")],
            413: [client.post(f"/users{query}", content=b"x" * 70_000)],
            422: [client.get(f"/users{query}&limit=0")],
            431: [client.get(f"/users{query}", headers={"X-Long": "x" * 17 * 1024})],
        }

    assert b"/users" in received["/v1/traces"]
    assert_nobody_is_in(received)
    for status, refused in answers.items():
        assert [answer.status_code for answer in refused] == [status] * len(refused)


@pytest.mark.slow
def test_a_schema_change_is_a_step_that_a_running_service_waits_for(
    start: StartService, installed: Path
) -> None:
    upgrade = block(OPERATIONS, "upgrade")
    with start("", cwd=installed).wait() as client:
        ada = add(client, ADA)
    with (installed / "models.py").open("a") as models:
        models.write("    nick: Mapped[str] = mapped_column(server_default='')\n")
    run(block(OPERATIONS, "revision"), installed)
    (step,) = (installed / "migrations/versions").glob("*what_changes.py")
    assert "nick" in step.read_text()

    service = start("", cwd=installed)
    with service.wait() as client:
        assert client.get("/users").status_code == 503
        assert f"run `{upgrade.strip().removeprefix('.venv/bin/')}`" in service.log.read_text()
        assert f"Database: {installed}/users.db" in run(f"{upgrade.strip()} 2>&1", installed)
        assert client.get("/users").json() == [ada.json()]
        assert client.get("/users/1").headers["etag"] == ada.headers["etag"]
        add(client, GRACE)


@pytest.mark.slow
def test_alembic_upgrades_the_database_of_the_file_that_the_service_reads(installed: Path) -> None:
    (installed / ".env").write_text(f"DATABASE_URL=sqlite:///{installed}/another.db\n")

    said = run(f"unset DATABASE_URL; {block(OPERATIONS, 'upgrade').strip()} 2>&1", installed)

    assert f"Database: {installed}/another.db" in said
    assert (installed / "another.db").exists()
    assert not (installed / "users.db").exists()
    # An empty variable of the environment goes before the file.
    said = run(f"{block(OPERATIONS, 'upgrade').strip()} 2>&1", installed, DATABASE_URL="")
    assert f"Database: {installed}/users.db" in said


@pytest.mark.slow
def test_a_role_that_only_reads_and_writes_serves_the_tables_of_their_owner(
    start: StartService, installed: Path, postgres: Postgres
) -> None:
    owner = block(OPERATIONS, "role-of-the-owner")
    service = block(OPERATIONS, "role-of-the-service")
    upgrade = block(OPERATIONS, "upgrade")
    database = postgres.url("users")
    sql(postgres.url(), *owner.splitlines())

    run(upgrade, installed, DATABASE_URL=database.replace("postgres@", "users:secret@"))
    sql(database, *service.splitlines())

    with start(database.replace("postgres@", "users_service:another@")).wait() as client:
        ada = add(client, ADA).headers["location"]
        assert client.patch(ada, json={"name": "Ada King"}).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.delete(ada).status_code == 204


@pytest.mark.slow
def test_two_applications_with_alembic_share_a_database_in_schemas_of_their_own(
    start: StartService, postgres: Postgres
) -> None:
    database = postgres.url("users")
    sql(postgres.url(), *block(OPERATIONS, "role-of-the-owner").splitlines())
    sql(
        database,
        "CREATE TABLE alembic_version (version_num text)",
        "INSERT INTO alembic_version VALUES ('theirs')",
        "CREATE TABLE users (name text)",
        "INSERT INTO users VALUES ('theirs')",
        *block(OPERATIONS, "schema-of-its-own").splitlines(),
    )

    with start(database.replace("postgres@", "users:secret@")).wait() as client:
        add(client, ADA)
        assert client.get("/users").json() == [{"id": 1, **ADA}]

    for table in ("alembic_version", "users"):
        assert sql(database, f"SELECT * FROM public.{table}") == [("theirs",)]


@pytest.mark.slow
def test_a_table_that_alembic_did_not_make_is_served_once_it_is_told(
    start: StartService, installed: Path
) -> None:
    upgrade = block(OPERATIONS, "upgrade")
    run(upgrade.replace("head", "0001"), installed)
    with closing(sqlite3.connect(installed / "users.db")) as other:
        other.execute("DROP TABLE alembic_version")

    with start("", cwd=installed).wait() as client:
        assert client.get("/users").status_code == 503
        run(block(OPERATIONS, "stamp"), installed)
        run(upgrade, installed)  # for the steps after the first, if there are any
        assert client.get("/users").json() == []


def follow_the_recipe(project: Path, url: str) -> None:
    """Do all that the recipe says before "Try it"."""
    places = r"\b(Below the first line|At the end|In the new file)(?: of)? `(\w+\.py)`"
    for place, file, code in re.findall(
        places + r".*?:\n\n```python\n(.*?)^```", POSTCARDS, re.M | re.S
    ):
        first, rest = "", ""
        if place != "In the new file":
            first, rest = (project / file).read_text().split("\n", 1)
        if place == "Below the first line":
            (project / file).write_text(f"{first}\n{code}{rest}")
        elif place == "At the end":
            (project / file).write_text(f"{first}\n{rest}\n\n{code}")
        else:
            (project / file).write_text(code)
    for step in commands(RECIPE, "4. The step to the new table"):
        run(as_postcards(step), project, DATABASE_URL=url)


@pytest.mark.slow
def test_another_resource_is_made_in_four_steps(
    start: StartService, installed: Path, new_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow_the_recipe(installed, new_database)

    (step,) = (installed / "migrations/versions").glob("*postcards.py")
    assert {*re.findall(r'_table\(\s*"(\w+)"', step.read_text())} == {"postcards"}
    curls = as_postcards(block(RECIPE, "requests"))
    (answers,) = blocks(POSTCARDS, "json")
    with running(block(RECIPE, "serve"), installed, DATABASE_URL=new_database) as (client, _):
        curls = curls.replace("8000", str(client.base_url.port))
        said = [run(curl, installed) for curl in curls.splitlines()]
        assert said == answers.splitlines()
        postcard = {"user_id": 1, "title": "Another", "taken": "1850-01-01", "public": True}
        nobody = client.post("/postcards", json=postcard | {"user_id": 2})
        assert (nobody.status_code, nobody.json()["detail"]) == (409, REFERRED)
        taken = client.post("/postcards", json=postcard | {"title": "A portrait"})
        assert (taken.status_code, taken.json()["detail"]) == (409, TAKEN)
        assert client.post("/postcards", json=postcard | {"title": ""}).status_code == 422
        another = client.post("/postcards", json=postcard).json()
        assert another == {"id": another["id"], **postcard}
        assert client.get("/postcards?public=true").json() == [another]
        documented = client.get("/openapi.json").json()["paths"]["/postcards"]
        for operation, summary in (("get", "List postcards"), ("post", "Add a postcard")):
            assert documented[operation]["summary"] == summary
            assert documented[operation]["tags"] == ["postcards"]
        assert "409" in documented["post"]["responses"]
        assert client.delete("/users/1").status_code == 204
        assert client.get("/postcards").json() == []
    monkeypatch.setenv("API_TOKEN", "secret")
    with start(new_database, cwd=installed).wait() as client:
        assert client.get("/postcards").status_code == 401
        client.headers["Authorization"] = "Bearer secret"
        assert client.get("/postcards").json() == []


@pytest.mark.slow
def test_another_resource_leaves_the_gate_green(installed: Path) -> None:
    follow_the_recipe(installed, url="")

    contract = "pytest -x -k 'not postgresql' tests/api/test_users.py tests/api/test_docs.py"
    types = "mypy . --exclude ^tests/"  # which the recipe does not change
    for check in ("ruff check .", "ruff format --check .", types, contract):
        run(f".venv/bin/{check}", installed)
