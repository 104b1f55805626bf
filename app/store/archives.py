"""Archived events and mailings: lists leave them out, their links work and are recorded as before."""

from datetime import UTC, datetime

from .pool import Row


def archived_at(row: Row, archived: bool | None) -> datetime | None:
    """Since when a row is archived after a change; None leaves it as it is, and who is archived keeps the time."""
    if archived is None or (archived and row["archived_at"] is not None):
        moment: datetime | None = row["archived_at"]
        return moment
    return datetime.now(UTC) if archived else None
