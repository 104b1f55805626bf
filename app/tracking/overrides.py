"""Overrides: where a corrected link goes, with the original's personal parameters where a pattern names them.

    https://shop.example/new?customer={cid}      {cid}: the original destination's query parameter `cid`

Invariants: a pattern's scheme and host are fixed, no parameter ever changes them; whatever a parameter holds, the
result is printable ASCII and can stand in a `Location` header.
"""

import re
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ..errors import DestinationRefused
from .destinations import normalise

_PLACEHOLDER = re.compile(r"\{([^{}/?#&=\s]{1,100})\}")
_MAX_PATTERNS = 4_096
# Stands for placeholders while the pattern is normalised: nothing in it is ever encoded or changed.
_MARKER = "mailtrailplaceholder"


def check_override(pattern: str) -> None:
    """Raises DestinationRefused for what cannot replace a destination, or has a placeholder where none may be."""
    if "\0" in pattern:  # no store keeps it as it is
        raise DestinationRefused("invalid", "the URL has a NUL character; remove it")
    _parts(pattern)


def corrected(pattern: str, destination: str) -> str:
    """Where a link to `destination` goes now; a parameter that the destination does not have becomes empty."""
    literals, names = _parts(pattern)
    if not names:
        return literals[0]
    parameters = _query_parameters(destination)
    filled = [literals[0]]
    for name, literal in zip(names, literals[1:], strict=True):
        filled += (parameters.get(name, ""), literal)
    return "".join(filled)


@lru_cache(_MAX_PATTERNS)
def _parts(pattern: str) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
    """The normalised text around the placeholders, and their names."""
    names = tuple(name.encode("utf-8", "replace") for name in _PLACEHOLDER.findall(pattern))
    marked = _PLACEHOLDER.sub(_MARKER, pattern)
    if "{" in marked or "}" in marked:
        raise DestinationRefused("invalid", "a placeholder is the name of a parameter in braces, e.g. {cid}")
    literals = tuple(normalise(marked).split(_MARKER))
    if len(literals) != len(names) + 1 or _authority_is_open(literals[0]):
        raise DestinationRefused("invalid", "placeholders may stand in the path, query or fragment only")
    return literals, names


def _authority_is_open(start: str) -> bool:
    """Whether scheme and host are not yet over at the first placeholder."""
    return "/" not in start.partition("://")[2]


def _query_parameters(url: str) -> dict[bytes, str]:
    """The first value of each parameter, percent-encoded so that it fits anywhere; names as bytes of any encoding."""
    query = url.partition("#")[0].partition("?")[2]
    parameters: dict[bytes, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        # As a whole segment of a path these would climb out of it.
        decoded = _decoded(value)
        parameters.setdefault(_decoded(name), "" if decoded in (b".", b"..") else quote_from_bytes(decoded, safe=""))
    return parameters


def _decoded(text: str) -> bytes:
    return unquote_to_bytes(text.replace("+", " "))
