"""The OpenAPI document: what FastAPI knows of the routes, and the problems that each kind of request can have."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from .problems import MEDIA_TYPE, Kind, Problem

_ALWAYS = (Kind.UNAUTHORIZED, Kind.NOT_ALLOWED, Kind.NOT_FOUND, Kind.INVALID, Kind.FAULT, Kind.UNAVAILABLE)
_OF_CHANGES = (Kind.MALFORMED, Kind.PROTECTED, Kind.TOO_LARGE, Kind.MEDIA_TYPE)
_OF_CONDITIONS = (Kind.CHANGED_MEANWHILE, Kind.IF_MATCH_MISSING)
_REFERENCE = "#/components/schemas/{model}"


def described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What makes the application's document, once."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _add_problems(describe())
        assert app.openapi_schema is not None
        return app.openapi_schema

    return openapi


def _add_problems(document: dict[str, Any]) -> None:
    _, definitions = models_json_schema([(Problem, "serialization")], ref_template=_REFERENCE)
    schemas = document["components"]["schemas"]
    schemas.update(definitions["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path in document["paths"].values():
        for method, operation in path.items():
            headers = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "header"}
            kinds = (
                _ALWAYS + (_OF_CHANGES if method != "get" else ()) + (_OF_CONDITIONS if "if-match" in headers else ())
            )
            answers = operation["responses"]
            answers.update({str(kind.status): _problem(kind) for kind in kinds})
            if "if-none-match" in headers:
                answers["304"] = {"description": "It is what you have"}


def _problem(kind: Kind) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}}}
    return {"description": kind.title, "content": content}
