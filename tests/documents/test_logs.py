"""docs/logging.json: each line has its time, its level and the id of the request."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from commands import OPERATIONS, block
from helpers import ADA, BODY, JSON, add, append, logged
from nginx import NGINX, Proxy
from service import Service, StartService

pytestmark = pytest.mark.slow

OPTIONS = ["--log-config", "docs/logging.json", "--no-access-log"]
LINE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (INFO|WARNING|ERROR) \[(\S+)\] (.*)"
AWAY = "The database does not answer: "


def ids(service: Service, text: str) -> list[str]:
    """Return the ids of the lines that begin with this text."""
    lines = re.findall(f"^{LINE}$", logged(service.log, text), re.M)
    return [number for _, number, message in lines if message.startswith(text)]


def test_every_line_has_its_time_and_its_level(start: StartService, tmp_path: Path) -> None:
    assert re.fullmatch(LINE, block(OPERATIONS, "log").strip())

    service = start(f"sqlite:///{tmp_path}/users.db", *OPTIONS)
    with service.wait() as client:
        add(client, ADA)
    service.stop()

    lines = service.log.read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(LINE, line)] == []
    assert any("Application startup complete" in line for line in lines)


def test_an_outage_is_logged_when_it_begins_with_the_request_and_when_it_is_over(
    start: StartService, tmp_path: Path
) -> None:
    file = tmp_path / "users.db"
    service = start(f"sqlite:///{file}", *OPTIONS)
    with service.wait() as client:
        add(client, ADA)

        for outage in (1, 2):
            file.rename(tmp_path / "away.db")
            answers = [client.get("/users") for _ in range(3)]
            (tmp_path / "away.db").rename(file)
            assert [answer.status_code for answer in answers] == [503] * 3
            assert client.get("/users").status_code == 200

            over = logged(service.log, "The database answers again", times=outage)
            assert over.count("The database answers again") == outage
            assert len(ids(service, AWAY)) == outage
            assert ids(service, AWAY)[-1] == answers[0].headers["x-request-id"]


def test_an_id_that_a_client_sends_comes_back_with_whatever_answer(
    _start: StartService,  # noqa: PT019 - it lets a service print a traceback
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    append(
        project / "main.py", "\n\n@app.get('/broken')\ndef broken() -> float:\n    return 1 / 0\n"
    )
    service = _start(f"sqlite:///{project}/users.db", *OPTIONS, cwd=project)
    token = {"Authorization": "Bearer secret"}
    with service.wait() as client:
        requests: dict[int, Callable[[dict[str, str]], httpx.Response]] = {
            401: lambda headers: client.get("/users", headers=headers),
            201: lambda headers: client.post(
                "/users", content=BODY, headers=headers | JSON | token
            ),
            404: lambda headers: client.get("/users/7", headers=headers | token),
            413: lambda headers: client.post(
                "/users", content="a" * 70_000, headers=headers | token
            ),
            500: lambda headers: client.get("/broken", headers=headers | token),
        }
        for status, ask in requests.items():
            number = f"{status:032}"
            answer = ask({"X-Request-ID": number})
            assert (answer.status_code, answer.headers["x-request-id"]) == (status, number)

            generated = ask({}).headers["x-request-id"]
            assert re.fullmatch("[0-9a-f]{32}", generated)

    assert ids(service, "Exception in ASGI application")[0] == f"{500:032}"


def test_the_log_of_nginx_has_the_id_of_the_answer(
    start: StartService, tmp_path: Path, postgres_directory: Path
) -> None:
    if not (NGINX and shutil.which("openssl")) and not os.environ.get("CI"):
        pytest.skip("needs nginx and openssl: apt-get install nginx openssl")
    service = start(f"sqlite:///{tmp_path}/users.db", *OPTIONS, "--root-path", "/api")
    service.wait().close()
    # Started by root, nginx works as www-data, who may not enter the directories of pytest.
    directory = Path(tempfile.mkdtemp(dir=postgres_directory))
    directory.chmod(0o755)
    proxy = Proxy(directory, {}, service)
    try:
        proxy.wait()
        with proxy.client() as client:
            answer = client.get("/users", headers={"X-Request-ID": "a" * 32})
    finally:
        proxy.stop()

    assert answer.status_code == 200
    number = answer.headers["x-request-id"]
    assert number != "a" * 32
    assert f" {number}\n" in (directory / "access.log").read_text()
