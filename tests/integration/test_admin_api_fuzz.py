"""The API as its documents describe it: the examples of docs/api.md, and whatever OpenAPI allows and does not allow.

Whatever comes, the answer is one of those that the OpenAPI document names, in its form, and never a fault.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.store import api_keys, events, pool
from app.store import settings as store
from tests.integration.service import Service, free_port, until

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLES = 40
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDS_WHAT_IS_FUZZED = {"DELETE /spaces/{space}", "DELETE /api-keys/{key}"}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["Shop", "news", "granted", "<p>"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["space", "event", "mailing", "html", "fields", "recipient", "permission", "values", "payload"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)
LINES = st.lists(VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20), max_size=4).map(
    b"\n".join
)
schemathesis.openapi.media_type("application/x-ndjson", LINES)


@dataclass(frozen=True)
class Served:
    """The running API, a key that may everything, and ids of things that are there."""

    url: str
    secret: str
    ids: dict[str, str]


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Served]:
    port = free_port()
    service.settings["MAILTRAIL_ADMIN_PORT"] = str(port)
    secret, ids = asyncio.run(_furnish(service.database_url))
    service.start("admin")
    private = Service(service.directory, service.database_url, port)
    until(lambda: _is_alive(private), "the API answers", log=service.log)
    yield Served(f"{private.base}/api/v1", secret, ids)
    assert "Traceback" not in service.log.read_text()


async def _furnish(url: str) -> tuple[str, dict[str, str]]:
    async with pool.connected(url) as connection:
        space = (await store.create_space(connection, "test", "Shop"))["id"]
        event = (await events.create_event(connection, "test", space, "news"))["id"]
        mailing = (await store.create_mailing(connection, "test", space, event, "May"))["id"]
        dispatch = (await events.start_dispatch(connection, "test", space, event))["id"]
        await connection.execute(
            "insert into mailtrail.links (mailing_id, number, fingerprint, occurrence, host, pattern, label)"
            " values ($1, 1, decode(repeat('00', 16), 'hex'), 1, 'https://a.example', 'https://a.example/', '')",
            mailing,
        )
        _, secret = await api_keys.create_api_key(connection, "test", "fuzz", api_keys.SCOPES)
    short = {"space": f"{space:08x}", "event": f"{event:08x}"}
    return secret, short | {"mailing": f"{mailing:012x}", "dispatch": f"{dispatch:012x}", "number": "1"}


def _is_alive(private: Service) -> bool:
    try:
        return private.get("/livez").status == 200
    except OSError:
        return False


def cases(operation: APIOperation, ids: dict[str, str]) -> st.SearchStrategy[Case]:
    """Requests that fit the document and ones that do not, about what is there and what is not."""
    modes = [GenerationMode.POSITIVE]
    takes_something = operation.body or operation.query or operation.headers
    if takes_something:
        modes.append(GenerationMode.NEGATIVE)
    found = [operation.as_strategy(mode) for mode in modes]
    names = [parameter.name for parameter in operation.path_parameters]
    if operation.label not in ENDS_WHAT_IS_FUZZED and names and ids.keys() >= set(names):
        found += [operation.as_strategy(mode, path_parameters={name: ids[name] for name in names}) for mode in modes]
    return st.one_of(found)


def test_every_answer_is_one_that_the_document_names(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    schema.config.update(base_url=served.url)
    seen: set[int] = set()
    labels = []
    for result in schema.get_all_operations():
        operation = result.ok()
        labels.append(operation.label)

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases(operation, served.ids))
        def ask(case: Case) -> None:
            answer = case.call_and_validate(
                headers={"authorization": f"Bearer {served.secret}", "if-match": "*"}, checks=CHECKS, timeout=20
            )
            seen.add(answer.status_code)

        ask()
    assert len(labels) == 36
    assert {200, 201, 400, 404, 422} <= seen, seen


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="the examples need curl and jq")
def test_the_examples_of_the_documentation_work(served: Served) -> None:
    script = "".join(re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=os.environ | {"API": served.url, "KEY": served.secret},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"otherwise": "anonymized", "granted": "person_based"}.items() <= _first_json(done.stdout)["mode"].items()
    lines = done.stdout.splitlines()
    assert "Web shop" in lines
    assert "id,at,who,action,space,space_name,object,old,new" in lines
    assert '{"recipient":"4711","permission":"granted","mode":"person_based","rule":"permission"}' in lines
    assert {
        '{"line":2,"ceiling":"person_based","untouched":{}}',
        '{"line":3,"ceiling":"person_based","untouched":{}}',
        '{"done":2,"refused":1}',
    } <= set(lines)
    assert ["values.name"] == [json.loads(line)["problem"]["field"] for line in lines if '"problem"' in line]


def _first_json(text: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.JSONDecoder().raw_decode(text)[0]
    return found
