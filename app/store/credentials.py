"""Secrets that programs hold: 256 random bits each, so that a plain SHA-256 of one tells nothing."""

import hashlib
import secrets


def new_secret() -> str:
    """43 characters that are safe in URLs, headers and cookies."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> bytes:
    """What is kept of a secret; of any text, also one that is none of ours."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
