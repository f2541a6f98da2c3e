"""The door: what happens to every request before and after its endpoint."""

import os
import re
import secrets
from asyncio import CancelledError
from fnmatch import fnmatchcase

from opentelemetry.trace import get_current_span
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from production.failures import RETRY, NotReadyError, outage, refused
from production.turns import Turn

# What needs no token. Whoever mounts pages with a login of their own adds them.
OPEN = [
    "/",
    "/health",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/openapi.json",
    "/static-offline-docs/*",
]
BEARER = {"WWW-Authenticate": "Bearer"}
API_TOKEN = os.environ.get("API_TOKEN", "")
MAX_BODY = 64 * 1024  # bytes; the longest valid user is far below

if not re.fullmatch("[!-~]*", API_TOKEN):
    unsendable = "API_TOKEN has a character that no client can send"
    raise ValueError(f"{unsendable}: use ASCII, no blanks")


class Door:
    """Middleware that every request passes, whatever made its route."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before the app."""
        self.app = app
        self.counting = RequestBodyLimitMiddleware(app, MAX_BODY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request before its body is read, or give it a turn.

        HEAD is answered as GET is (RFC 9110, 9.3.2); the server drops the body.
        """
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if refusal := refuse(scope, headers):
            await refusal(scope, receive, send)
            return
        if scope["type"] == "websocket":
            scope["turn"] = Turn()
            await self.app(scope, receive, send)
            return
        if scope["query_string"]:  # in which an e-mail may be
            get_current_span().set_attribute("url.query", "REDACTED")
        answer = Answer(scope, receive, send)
        app = self.app if says_length(scope, headers) else self.counting
        if answer.head:
            scope = {**scope, "method": "GET"}
        scope["turn"] = answer.turn
        try:
            await app(scope, receive, answer.send)
        except CancelledError as stop:
            if "shutdown" not in str(stop):  # a time limit of somebody's own
                raise
            answer.turn.sessions.clear()  # closed by now, or its thread still connects
            if not answer.begun:  # uvicorn would log a traceback
                await answer.replace(refused(503, "The service stops", RETRY))
        finally:
            await answer.turn.end()


class Answer:
    """An answer, held back until the turn of its request has ended."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take what the server gave for the request."""
        self.server = scope, receive, send
        self.pass_on = send
        self.head = scope["method"] == "HEAD"
        reads = self.head or scope["method"] == "GET"
        self.turn = Turn("read" if reads else "write")
        self.start: Message = {}
        self.length: int | None = None
        self.begun = self.over = False

    async def send(self, message: Message) -> None:
        """Pass a message on, as soon as it is known whether this is a stream."""
        if self.over:
            return
        if message["type"] == "http.response.start":
            self.start, self.length = message, length_of(message)
            if self.length is None:
                await self.begin(whole=False)
            return
        if not self.begun:
            rest = (self.length or 0) - len(message.get("body", b""))
            await self.begin(whole=rest <= 0 or not message.get("more_body"))
        if not self.over:
            await self.pass_on(message)

    async def begin(self, whole: bool) -> None:
        """End the turn, so that a client that reads slowly holds nothing.

        A stream goes on with its sessions, but without a turn.
        """
        self.begun = True
        try:
            await (self.turn.end() if whole else self.turn.stream())
        except NotReadyError as error:
            await self.replace(refused(503, outage(error).detail, RETRY))
            return
        await self.pass_on(self.start)
        if self.head and not whole:  # nobody wants what the stream would send
            self.over = True
            await self.pass_on({"type": "http.response.body"})

    async def replace(self, response: Response) -> None:
        """Send another answer, and drop what the app still sends."""
        self.over = True
        await response(*self.server)


def refuse(scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
    """Return the answer to a request that may not come in, or None."""
    length = int(headers.get(b"content-length", 0))
    if b"upgrade" in headers and (length or b"transfer-encoding" in headers):
        # The server would not read the body, or read it as another request.
        sentence = "A body cannot come with Upgrade: send it as HTTP/1.1 alone"
        return refused(400, sentence, {"Connection": "close"})
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if API_TOKEN and not is_open(path):
        scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
        if not sent or scheme.lower() != b"bearer":
            return refused(401, "Not authenticated", BEARER)
        if not secrets.compare_digest(sent.strip(), API_TOKEN.encode()):
            return refused(401, "The token is not valid", BEARER)
    if path.endswith("\n"):  # which the pattern of a route overlooks
        return refused(404, "Not Found")
    if length > MAX_BODY:
        return refused(413, "Content Too Large")
    return None


def says_length(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Tell whether the headers say how long the body is, none included.

    Counting takes 5 % of a read's CPU, and only these bodies need it.
    """
    chunked = b"transfer-encoding" in headers
    return not chunked and scope["http_version"] in ("1.0", "1.1")


def is_open(path: str) -> bool:
    """Tell whether a path needs no token."""
    return any(fnmatchcase(path, pattern) for pattern in OPEN)


def length_of(start: Message) -> int | None:
    """Return the length of the body in bytes, or None for a stream."""
    if start["status"] in (204, 304):
        return 0
    length = dict(start.get("headers", ())).get(b"content-length")
    return None if length is None else int(length)
