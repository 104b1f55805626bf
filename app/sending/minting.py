"""The URLs of one message: its tracked links and its pixel, and how such URLs are recognised again.

Pure: with an export of its key a sender mints without any database. Invariant: under the ceiling aggregate no URL
differs between recipients, so what could be personalised is refused there.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import DestinationRefused, TokenRefused
from ..tracking.destinations import normalise, with_parameters
from ..tracking.links import pattern_of
from ..tracking.modes import Mode
from ..tracking.tokens import KeyRing, Kind, Link, Message, key_id_of, pack_link

_CLICK_URL = re.compile(r"[^?#]+/c/([A-Za-z0-9_-]+)(?:[?#].*)?", re.S)
_PIXEL_URL = re.compile(rb"/o/([A-Za-z0-9_-]+)\.gif")


@dataclass(frozen=True, slots=True)
class Minter:
    """Mints with the message's space's minting key; `base` is what tracked links start with."""

    ring: KeyRing
    message: Message
    base: str
    parameters: str = ""
    """Of the mailing; sealed with the destinations that do not have them."""

    @property
    def message_id(self) -> str:
        """With it another process mints further links of the same mail."""
        return self.ring.message_id(self.message)

    def pixel_url(self) -> str:
        return f"{self.base}/o/{self.ring.mint_open(self.message)}.gif"

    def click_url(self, destination: str, pattern: str, number: int, *, registered: bool = True) -> str:
        """The tracked URL of a normalised destination; `pattern` is its description, made knowing the recipient.

        DestinationRefused: too_long, or personalised under the ceiling aggregate. One mail does not show which of a
        destination's values other recipients share, so there only a destination without any is tracked.
        """
        return self.click_urls([(destination, pattern, number)], registered=registered)[0]

    def click_urls(self, links: Iterable[tuple[str, str, int]], *, registered: bool = True) -> list[str]:
        """Those of several links: destination, pattern and number of each; raises for the first that is refused."""
        packed = [
            pack_link(Link(number, self._sealed(destination, pattern), registered))
            for destination, pattern, number in links
        ]
        return [f"{self.base}/c/{token}" for token in self.ring.mint_packed(self.message, packed)]

    def _sealed(self, destination: str, pattern: str) -> str:
        if self.message.ceiling is Mode.AGGREGATE and pattern != destination:
            raise DestinationRefused(
                "personalised",
                "under the ceiling aggregate a link with parameters' values, a fragment or an id in its path stays"
                " untracked: they could be one recipient's; leave it as it is",
            )
        return with_parameters(destination, self.parameters)

    def mint_unregistered(
        self, url: str, number: int, recipient: str | None = None, app_schemes: frozenset[str] = frozenset()
    ) -> str:
        """The tracked URL of a link whose number no database knows; DestinationRefused for what cannot be tracked."""
        destination = normalise(url, app_schemes=app_schemes)
        refuse_tracked(self.ring, destination)
        return self.click_url(destination, pattern_of(destination, recipient), number, registered=False)


# --- recognised again ------------------------------------------------------------------------------------------------


def click_token(destination: str) -> str | None:
    """The token in a URL of a tracked link's form, whoever minted it."""
    found = _CLICK_URL.fullmatch(destination) if "/c/" in destination else None
    return found[1] if found else None


def pixel_tokens(html: Iterable[bytes]) -> Iterator[str]:
    """The tokens in HTML that stand where a pixel has its own; in UTF-16 they are the bytes between the zeros."""
    for document in html:
        for token in _PIXEL_URL.findall(document.replace(b"\0", b"")):
            yield token.decode()


def key_ids(tokens: Iterable[str]) -> set[int]:
    """The keys that sealed them, if they are tokens at all."""
    found = set()
    for token in tokens:
        try:
            found.add(key_id_of(token))
        except TokenRefused:
            continue
    return found


def opened(ring: KeyRing, token: str | None, kind: Kind) -> Message | None:
    """The message that a token is of; None unless one of the ring's keys sealed it, for this use."""
    try:
        return None if token is None else ring.open(token, kind).message
    except TokenRefused:
        return None


def refuse_tracked(ring: KeyRing, destination: str) -> None:
    """DestinationRefused for a link that is tracked already: a click would be counted twice."""
    if opened(ring, click_token(destination), Kind.CLICK):
        raise DestinationRefused("already_tracked", "this link is tracked already; use it as it is")
