"""Reads the numbers that the processes publish, over HTTP as an operator's monitoring does."""

import http.client
import re

from tests.integration.service import Service


def value(service: Service, name: str, label: str = "") -> float:
    """One metric's value; with a `label`, of the sample that has this label value, 0 if it is not there."""
    words = service.get("/metrics").body.decode()
    assert f"# HELP mailtrail_{name} " in words, f"there is no metric {name}"
    found = [
        float(number)
        for labels, number in re.findall(rf"^mailtrail_{name}(?:{{(.*)}})? (\S+)$", words, re.MULTILINE)
        if not label or f'"{label}"' in labels
    ]
    return sum(found)


def readiness(service: Service) -> tuple[int, str]:
    """Status and words of /readyz; status 0 while nobody answers."""
    try:
        answer = service.get("/readyz")
    except (OSError, http.client.HTTPException):
        return 0, ""
    return answer.status, answer.body.decode()
