"""What happens to every request before and after its endpoint."""

from asyncio import CancelledError
from logging import getLogger

from asgi_correlation_id import CorrelationIdFilter, CorrelationIdMiddleware
from opentelemetry.trace import get_current_span
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from production.http.access import refuse, refused
from production.sql.errors import RETRY, NotReadyError, outage
from production.sql.session import UNCOMMITTED, DatabaseUse

logger = getLogger("uvicorn.error")
MAX_BODY = 64 * 1024  # bytes; the longest valid user is far below
QUERIES = {"url.query", "url.full", "http.url", "http.target"}
NO_CACHE = (b"cache-control", b"no-cache")


class ServiceMiddleware:
    """Middleware that every request passes, whatever made its route."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # A route of its own may take more: `max_body_size` of FastAPI.
        self.limited = RequestBodyLimitMiddleware(app, MAX_BODY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request before its body is read, or let it in."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope.get("root_path", "").endswith("/"):
            scope = without_slash(scope)
        if scope["query_string"]:  # in which an e-mail may be
            hide_query()
        headers = dict(scope["headers"])
        if refusal := refuse(scope, headers):
            await refusal(scope, receive, send)
            return
        if scope["type"] == "websocket":
            scope["database use"] = DatabaseUse()
            await self.app(scope, receive, send)
            return
        answer = HeldAnswer(scope, receive, send)
        scope["database use"] = answer.use
        if answer.head:
            scope = {**scope, "method": "GET"}
        # To count the bytes of a body takes 5 % of a request's CPU.
        app = self.limited if may_be_too_long(scope, headers) else self.app
        await self.serve(app, scope, receive, answer)

    async def serve(
        self, app: ASGIApp, scope: Scope, receive: Receive, answer: "HeldAnswer"
    ) -> None:
        """Call the app, and end what it leaves of its use of the database."""
        try:
            await app(scope, receive, answer.send)
        except (NobodyReadsError, ClientDisconnect, ExceptionGroup):
            if not (answer.head and answer.over):  # which is without a body
                raise
        except CancelledError as error:
            if not is_stop_of_uvicorn(error):  # a time limit of somebody's own
                raise
            answer.use.sessions.clear()  # closed by now, or its thread still connects
            if not answer.begun:  # uvicorn would log a traceback
                await answer.replace(refused(503, "The service stops", RETRY))
        finally:
            await answer.use.end()


class NobodyReadsError(OSError):
    """HEAD is answered: the app need not make the body, as if the client had gone."""


class HeldAnswer:
    """An answer, held back until its request has ended its use of the database."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.server = scope, receive, send
        self.pass_on = send
        self.head = scope["method"] == "HEAD"
        self.reads = self.head or scope["method"] == "GET"
        self.use = DatabaseUse("read" if self.reads else "write")
        self.start: Message = {}
        self.length: int | None = None
        self.begun = self.over = False

    async def send(self, message: Message) -> None:
        """Pass a message on, as soon as it is known whether this is a stream."""
        if self.over:
            return
        if message["type"] == "http.response.start":
            self.start, self.length = message, length_of(message)
            self.name_caching()
            if is_too_long(message):
                await self.use.end()
                await self.replace(refused(413, "Content Too Large"))
            elif self.length is None:
                await self.begin(whole=False)
            return
        if not self.begun:
            rest = (self.length or 0) - len(message.get("body", b""))
            await self.begin(whole=rest <= 0 or not message.get("more_body"))
        elif not message.get("more_body"):
            self.note_unstored()  # by a stream
        if not self.over:
            await self.pass_on(message)

    def note_unstored(self) -> bool:
        """Tell whether a success leaves something that was not stored; log it."""
        unstored = self.is_success() and self.use.has_unstored()
        if unstored:
            scope, _, _ = self.server
            logger.error(UNCOMMITTED, f"{scope['method']} {scope['path']}")
        return unstored

    async def begin(self, whole: bool) -> None:
        """End the use of the database: a client that reads slowly holds nothing.

        A stream goes on with its sessions, but without a permit.
        """
        self.begun = True
        if self.note_unstored() and whole and not self.reads:
            await self.use.end()
            await self.replace(refused(500, "Internal Server Error"))
            return
        try:
            await (self.use.end() if whole else self.use.begin_stream())
        except NotReadyError as error:
            await self.replace(refused(503, outage(error, self.use.kind).detail, RETRY))
            return
        await self.pass_on(self.start)
        if self.head:
            self.over = True
            await self.pass_on({"type": "http.response.body"})
            if not whole:
                raise NobodyReadsError

    async def replace(self, response: Response) -> None:
        """Send another answer, and drop what the app still sends."""
        self.over = True
        await response(*self.server)

    def is_success(self) -> bool:
        """Tell whether the client takes the answer for a yes."""
        return bool(self.start["status"] < 400)

    def name_caching(self) -> None:
        """Let caches ask before they use an answer again (RFC 9111, 5.2.2.4)."""
        headers = self.start.setdefault("headers", [])
        if not any(name == b"cache-control" for name, _ in headers):
            self.start["headers"] = [*headers, NO_CACHE]


def without_slash(scope: Scope) -> Scope:
    """Read `--root-path /api/` as `/api`: a path that begins with // is a host."""
    prefix = scope["root_path"].rstrip("/")
    path = scope["path"].removeprefix(scope["root_path"])
    return {**scope, "root_path": prefix, "path": f"{prefix}/{path.lstrip('/')}"}


def hide_query() -> None:
    """Keep the query of a request out of its trace, whoever writes that."""
    span = get_current_span()
    for name in QUERIES & (getattr(span, "attributes", None) or {}).keys():
        span.set_attribute(name, "REDACTED")


def may_be_too_long(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Tell whether a body is too long, or of a length that the headers do not say."""
    if length := headers.get(b"content-length"):
        return int(length) > MAX_BODY
    # Before HTTP/2, a body without a length comes in chunks.
    return b"transfer-encoding" in headers or scope["http_version"] > "1.1"


def is_stop_of_uvicorn(error: CancelledError) -> bool:
    """Tell whether uvicorn stops, and no longer waits for its requests."""
    return "shutdown" in str(error)


def is_too_long(start: Message) -> bool:
    """Tell whether this is Starlette's refusal of a body, which is plain text."""
    plain = (b"content-type", b"text/plain; charset=utf-8")
    return start["status"] == 413 and plain in start["headers"]


def length_of(start: Message) -> int | None:
    """Return the length of the body in bytes, or None for a stream."""
    if start["status"] in (204, 304):
        return 0
    length = dict(start.get("headers", ())).get(b"content-length")
    return None if length is None else int(length)


def log_has_ids() -> bool:
    """Tell whether the log names requests, as `docs/logging.json` lets it."""
    filters = [each for one in getLogger().handlers for each in one.filters]
    return any(isinstance(each, CorrelationIdFilter) for each in filters)


MIDDLEWARE = [Middleware(ServiceMiddleware)]
if log_has_ids():  # to give each request its id takes 3 % of a read's CPU
    MIDDLEWARE.insert(0, Middleware(CorrelationIdMiddleware))
