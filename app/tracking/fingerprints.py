"""Fingerprints: what the table `links` holds of a link until enough recipients have had it.

A name in a path or a text cannot be told from any other word, but what five people got is about none of them. That
holds under every ceiling: the table has no retention, and tomorrow's setting may anonymize the next hit of a link.
Invariant: until then no word of a link's path, parameters or text is stored or sent to the store, and without the key
a fingerprint says nothing, not even whether two mailings have the same link.
"""

import hashlib
from dataclasses import dataclass, field

from .links import LinkEntry, host_of

SHOWN_RECIPIENTS = 5
"""So many different recipients must have had a link before its text is kept; the schema's rules say it too."""
FINGERPRINT_BYTES = 16
MARK_BYTES = 1


@dataclass(frozen=True, slots=True)
class Described:
    """A link of one mail: what the store may keep at once, and its text, which it may keep once it is shown."""

    fingerprint: bytes
    occurrence: int
    host: str
    label_fingerprint: bytes
    pattern: str = field(repr=False)
    label: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Those of one mailing: keyed BLAKE2b (RFC 7693) under the link key, personalised by the mailing (48 bits)."""

    key: bytes = field(repr=False)
    mailing: int

    def describe(self, entry: LinkEntry, label: str = "") -> Described:
        """A link by its (pattern, occurrence) and its label, both without what looks personal."""
        pattern, occurrence = entry
        return Described(
            self._hash(b"link", pattern), occurrence, host_of(pattern), self._hash(b"label", label), pattern, label
        )

    def mark(self, recipient: str | None) -> bytes:
        """Which of 256 groups a recipient is in; empty for nobody, who is not counted.

        Two groups are two recipients for sure. One byte tells five apart 96 times of 100, else a sixth is needed, and
        points at nobody: it is kept also where recipients may not be known.
        """
        return b"" if recipient is None else self._hash(b"recipient", recipient.strip().casefold(), MARK_BYTES)

    def _hash(self, use: bytes, text: str, size: int = FINGERPRINT_BYTES) -> bytes:
        person = self.mailing.to_bytes(6)
        data = text.encode(errors="replace")
        return hashlib.blake2b(data, digest_size=size, key=self.key, salt=use, person=person).digest()
