"""Preconditions of a request: If-Match and If-None-Match (RFC 9110, 13)."""

import re

from fastapi import HTTPException, Request

TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
CHANGED = "It has changed since you read it"
MALFORMED = "If-Match is malformed: send the ETag as it came"
WEAK = "A weak tag, W/..., never matches: a proxy has weakened the ETag"


def etag(version: int) -> str:
    """Return the entity tag of a version (8.8.3)."""
    return f'"{version}"'


def read_tags(lines: list[str]) -> list[str]:
    """Return the tags of If-Match or If-None-Match: `["*"]`, or `[]` if malformed.

    Several header lines are one list, which may have empty elements (5.3, 5.6.1).
    """
    value = ",".join(lines).strip(" \t")
    well_formed = rf"\*|[ \t,]*(?:{TAG}[ \t]*(?:,[ \t,]*|$))*"
    if not re.fullmatch(well_formed, value):
        return []
    return re.findall(rf"{TAG}|\*", value)


class Preconditions:
    """What a client knows of a resource, and asks to be so still."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.if_match = request.headers.getlist("if-match")
        self.if_none_match = request.headers.getlist("if-none-match")

    def check(self, version: int) -> None:
        """Go on only if the resource is as the client asks (13.2.2).

        Raises 412, and 304 if a client that reads has this version already.
        """
        tag = etag(version)
        if self.if_match and (refusal := refuse(tag, read_tags(self.if_match))):
            self.fail(412, refusal)
        if self.if_none_match:
            known = read_tags(self.if_none_match)
            # The comparison is weak here: W/"1" is "1", too.
            if not {"*", tag, f"W/{tag}"}.isdisjoint(known):
                reads = self.request.method == "GET"
                self.fail(304 if reads else 412, CHANGED, {"ETag": tag})

    def fail(
        self, status: int, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        """Raise the answer, once the lock of the resource is given back."""
        if use := self.request.scope.get("database use"):
            use.roll_back()
        raise HTTPException(status, detail, headers)


def refuse(tag: str, if_match: list[str]) -> str | None:
    """Say why If-Match does not have the tag, or return None."""
    if "*" in if_match or tag in if_match:
        return None
    if not if_match:
        return MALFORMED
    return WEAK if any(each.startswith("W/") for each in if_match) else CHANGED


async def preconditions(request: Request) -> Preconditions:
    """Read the two headers. `async`: FastAPI sends a plain function to a thread."""
    return Preconditions(request)
