# SPDX-License-Identifier: Apache-2.0
"""Questions made from a program's OpenAPI document, good and bad ones, asked of the running program; answers are compared
with the document: no fault, a documented code, the documented media type, a body that conforms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.effort import examples

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ENDLESS: Final = ("text/event-stream", "application/x-ndjson")


def probe_schema(socket: Path, *, count: int = 15, left_out: Collection[str] = ()) -> set[str]:
    """Ask every path `count` good and `count` bad questions, but those that never end; the paths that were asked.

    Raises: schemathesis.FailureGroup naming the question and what is wrong with its answer.
    """
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, base_url="http://program", timeout=10.0, trust_env=False) as http:
        document = http.get("/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        asked = set()
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path in left_out or _is_endless(document["paths"][operation.path]):
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _ask(http, operation, mode, count)
            asked.add(operation.path)
    return asked


def _is_endless(item: Mapping[str, Any]) -> bool:
    (operation,) = item.values()
    return any(media in ENDLESS for media in operation["responses"]["200"].get("content", {}))


def _ask(http: httpx.Client, operation: Any, mode: GenerationMode, count: int) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples(count),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        request = http.build_request(
            case.method, case.formatted_path, params=case.query or None, headers=dict(case.headers or {})
        )
        answer = http.send(request)
        case.validate_response(schemathesis.Response.from_httpx(answer, verify=False), checks=CHECKS)

    with suppress(Unsatisfiable):  # a path without parameters has no bad questions
        ask()
