"""What bodies have in common: unknown names are refused, values are of exactly their type, answers are JSON once.

Invariant: what is left out of a change stays as it is; null is never taken for left out.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo
from starlette.responses import Response

from ...tracking.settings import Notice, notice


def left_out(description: str) -> Any:
    """The default of what may be left out of a change: None, which nobody can send for a value that is never null."""
    return Field(default_factory=lambda: None, description=description)


def words(*allowed: str) -> FieldInfo:
    """Documents the words of a text; which one may stand there, and why not, the settings' rules say."""
    field: FieldInfo = Field(json_schema_extra={"enum": list(allowed)})
    return field


class Body(BaseModel):
    """What is sent to be changed."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Acknowledging(Body):
    """A change that may have consequences."""

    acknowledge: list[Annotated[str, words(*(each.value for each in Notice))]] = Field(
        default=[], max_length=10, description="Notices that whoever makes the change has read."
    )

    @property
    def acknowledged(self) -> list[Notice]:
        return [notice(word) for word in self.acknowledge]


def json_answer(shown: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answers with a model, written once."""
    return Response(shown.model_dump_json(), status, dict(headers or {}), "application/json")
