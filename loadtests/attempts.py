"""Requests that are sent once, whatever becomes of them: a second attempt would be a hit that nobody asked for.

Invariant: a request whose connection ends without an answer fails; it is never repeated.
"""

from geventhttpclient.client import HTTPClient, HTTPClientPool
from geventhttpclient.url import URL


class OneAttempt(HTTPClientPool):
    """Hands out clients that do not repeat a GET or HEAD by themselves, as geventhttpclient's usually do."""

    def get_client(self, url: str | URL) -> HTTPClient:
        client = super().get_client(url)
        # It tries once more than its pool has places, which were counted out when the pool was made.
        client._connection_pool.size = -1
        return client
