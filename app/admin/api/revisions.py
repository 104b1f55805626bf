"""Revisions in HTTP: ETag, If-Match and If-None-Match, so that no editor undoes what another has just done.

    etag: "7-5a1f0c99be21"      revision 7, and a digest of all that is shown

Invariants: what is changed is compared by its revision alone, so that a heartbeat between reading and saving refuses
nobody; what is read is compared as a whole, so that 304 is never said of something that looks different by now.
"""

import re
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel
from starlette.responses import Response

from ...store.pool import Row
from .problems import Kind, Refusal

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_REVISION = re.compile(r'"([0-9]{1,18})(?:-[0-9a-f]{12})?"')

IfMatch = Annotated[
    str | None, Header(description="The ETag of what you have read; * for whatever is there.", examples=["*"])
]
IfNoneMatch = Annotated[str | None, Header(description="The ETag of what you have; 304 if it is the same.")]


def etag_of(shown: BaseModel, revision: int) -> str:
    """The strong ETag of something at a revision, as it is shown."""
    return f'"{revision}-{blake2b(shown.model_dump_json().encode(), digest_size=6).hexdigest()}"'


def unless_known(shown: BaseModel, revision: int, if_none_match: str | None) -> Response:
    """Answers with it, or with 304 to who has it already."""
    tag = etag_of(shown, revision)
    known = (if_none_match or "").strip()
    if known == "*" or tag in (each.removeprefix("W/") for each in _TAG.findall(known)):
        return Response(status_code=304, headers={"etag": tag})
    return Response(shown.model_dump_json(), headers={"etag": tag}, media_type="application/json")


async def expected_revision(if_match: str | None, read: Callable[[], Awaitable[Row]]) -> int | None:
    """The revision that a change expects, None for any; `read` gives what is there if several are named."""
    if if_match is None:
        raise Refusal(
            Kind.IF_MATCH_MISSING, "send the ETag of what you have read as if-match, or * to change whatever is there"
        )
    if if_match.strip() == "*":
        return None
    named = {int(found[1]) for tag in _TAG.findall(if_match) if (found := _REVISION.fullmatch(tag))}
    if not named:
        raise Refusal(Kind.CHANGED_MEANWHILE, "if-match names no revision; send the ETag as you have read it")
    if len(named) > 1 and (there := (await read())["revision"]) in named:
        return int(there)
    return named.pop()
