"""A client generated from the OpenAPI document, by a program that has nothing to go by but that."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ADA, GRACE
from service import StartService

pytestmark = pytest.mark.slow


def test_a_generated_client_can_do_what_the_service_offers(
    start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start(f"sqlite:///{tmp_path}/users.db")
    service.wait().close()
    programs = Path(sys.executable).parent  # the generator tidies up with ruff, if it finds it
    generated = subprocess.run(
        [
            *(programs / "openapi-python-client", "generate", "--meta", "none"),
            *("--url", f"{service.url}/openapi.json", "--output-path", "users_client"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert generated.stdout == "Generating users_client\n"  # no warning, no error
    assert generated.returncode == 0
    monkeypatch.syspath_prepend(tmp_path)
    client = importlib.import_module("users_client")
    models = importlib.import_module("users_client.models")
    create, list_, read, change, delete = (
        importlib.import_module(f"users_client.api.users.{operation}").sync_detailed
        for operation in ("create_user", "read_users", "read_user", "update_user", "delete_user")
    )

    # An answer whose status the document does not declare is an error.
    with client.Client(service.url, raise_on_unexpected_status=True) as service_client:
        ada, grace = (
            create(client=service_client, body=models.UserCreate(**user)) for user in (ADA, GRACE)
        )
        assert (ada.parsed.name, grace.parsed.email) == (ADA["name"], GRACE["email"])
        taken = create(client=service_client, body=models.UserCreate(**ADA))
        assert (taken.status_code, taken.parsed.detail) == (409, "This e-mail is taken")

        first = list_(client=service_client, limit=1)
        assert first.parsed == [ada.parsed]
        link = re.fullmatch(r'<\?limit=(\d+)&after=(\d+)>; rel="next"', first.headers["link"])
        assert link
        second = list_(client=service_client, limit=int(link[1]), after=int(link[2]))
        assert second.parsed == [grace.parsed]
        assert "link" not in second.headers

        address, tag = ada.parsed.id, ada.headers["etag"]
        assert read(address, client=service_client).parsed == ada.parsed
        unchanged = read(address, client=service_client, if_none_match=tag)
        assert unchanged.status_code == 304
        new = models.UserUpdate(name="Ada King")
        changed = change(address, client=service_client, body=new, if_match=tag)
        assert (changed.status_code, changed.parsed.name) == (200, "Ada King")
        late = change(address, client=service_client, body=new, if_match=tag)
        assert (late.status_code, type(late.parsed)) == (412, models.Problem)

        assert delete(address, client=service_client).status_code == 204
        gone = read(address, client=service_client)
        assert (gone.status_code, type(gone.parsed)) == (404, models.Problem)
