# SPDX-License-Identifier: Apache-2.0
"""What the OpenAPI document of a program must say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

REFUSAL = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}


def check_typed(document: Mapping[str, Any]) -> None:
    """Every path of ours says what it answers and how it refuses, by schemas that exist in the document."""
    paths = {path: item for path, item in document["paths"].items() if path.startswith("/v1/")}
    assert paths
    for path, item in paths.items():
        (operation,) = item.values()
        answers = dict(operation["responses"])
        (content,) = answers.pop("200")["content"].values()
        assert content["schema"], path
        assert "400" in answers, path
        assert {code: answer["content"] for code, answer in answers.items()} == dict.fromkeys(answers, REFUSAL), path
        assert operation["description"], path
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(_references(document)) <= known


def _references(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
