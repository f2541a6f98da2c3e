"""What is refused before its body is read."""

import secrets
from fnmatch import fnmatchcase

from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from production.settings import settings

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
MAX_HEADERS = 16 * 1024  # bytes, names included
# RFC 9110, 8.4
COMPRESSED = "The body must not be compressed: leave Content-Encoding out"
UPGRADE = "A body cannot come with Upgrade: send it as HTTP/1.1 alone"


def refused(
    status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a refusal in the shape of FastAPI's, which no cache may keep."""
    headers = {"Cache-Control": "no-cache"} | (headers or {})
    return JSONResponse({"detail": detail}, status, headers)


def refuse(scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
    """Return the answer to a request that may not come in, or None."""
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
        return refused(431, "The headers are over 16 KiB", {"Connection": "close"})
    length = headers.get(b"content-length", b"0")
    if b"upgrade" in headers and (length != b"0" or b"transfer-encoding" in headers):
        # The server would not read the body, or read it as another request.
        return refused(400, UPGRADE, {"Connection": "close"})
    path = path_of(scope)
    closed = settings.tokens and not is_open(path)
    if closed and (refusal := refuse_token(headers.get(b"authorization", b""))):
        return refusal
    if path.endswith("\n"):  # which the pattern of a route overlooks
        return refused(404, "Not Found")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return refused(415, COMPRESSED, {"Accept-Encoding": "identity"})  # 12.5.3
    return None


def refuse_token(authorization: bytes) -> Response | None:
    """Return 401 unless the header has one of the tokens (RFC 6750, 2.1)."""
    scheme, _, sent = authorization.partition(b" ")
    if not sent or scheme.lower() != b"bearer":
        return refused(401, "Not authenticated", BEARER)
    sent = sent.strip()
    # Each in constant time, and all of them.
    known = [secrets.compare_digest(sent, token) for token in settings.tokens]
    return None if any(known) else refused(401, "The token is not valid", BEARER)


def path_of(scope: Scope) -> str:
    """Return the path of a request, without the prefix of a proxy."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_open(path: str) -> bool:
    """Tell whether a path needs no token."""
    return any(fnmatchcase(path, pattern) for pattern in OPEN)
