"""Pseudonyms: what stands for a message in anonymized hits, until the day key is destroyed.

Invariant: without the key of the token's issue day nothing connects a pseudonym to a message, and the same message has
unrelated pseudonyms in different mailings and spaces.
"""

import hashlib
import os

DAY_KEY_BYTES = 32
PSEUDONYM_BYTES = 16


def new_day_key() -> bytes:
    """A random key for one UTC day, 32 bytes."""
    return os.urandom(DAY_KEY_BYTES)


def pseudonym(day_key: bytes, space: int, mailing: int, nonce: bytes) -> bytes:
    """16 bytes: keyed BLAKE2b (RFC 7693) of the nonce, personalised by space (32 bits) and mailing (48 bits)."""
    person = space.to_bytes(4) + mailing.to_bytes(6)
    return hashlib.blake2b(nonce, digest_size=PSEUDONYM_BYTES, key=day_key, person=person).digest()
