"""Connections to PostgreSQL, and their type."""

from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    # asyncpg's class takes no type argument at run time.
    Connection = asyncpg.Connection
