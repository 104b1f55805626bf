"""Reads the numbers that the processes publish, over HTTP as an operator's monitoring does."""

import re

from tests.integration.service import Service


def value(service: Service, name: str, label: str = "") -> float:
    """One metric's value; with a `label`, of the sample that has this label value. 0 if it is not there."""
    words = service.get("/metrics").body.decode()
    found = [
        float(number)
        for labels, number in re.findall(rf"^mailtrail_{name}(?:{{(.*)}})? (\S+)$", words, re.MULTILINE)
        if not label or f'"{label}"' in labels
    ]
    return sum(found)


def readiness(service: Service) -> tuple[int, str]:
    """Status and words of /readyz."""
    answer = service.get("/readyz")
    return answer.status, answer.body.decode()
