# SPDX-License-Identifier: Apache-2.0
"""A request's body is read or refused as a bad request; none of them costs memory beyond its length."""

from __future__ import annotations

import pytest

from lab.devkube.api.error import ApiError
from lab.devkube.api.http import Request

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{last}'] * 9)}]\n" for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def request(body: str | bytes, kind: str) -> Request:
    encoded = body.encode() if isinstance(body, str) else body
    return Request("POST", "/api/v1/namespaces", {}, {"content-type": kind}, encoded)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (f"{BOMB}kind: *i", "application/yaml"),
        ("[" * 100_000, "application/yaml"),
        ("[" * 100_000, "application/json"),
        ('{"a":' * 100_000, "application/json"),
        ("kind: Pod\nkind: Node", "application/yaml"),
        (b"\xff\xfe", "application/yaml"),
        (b"\xff\xfe", "application/json"),
    ],
    ids=["aliases", "yaml brackets", "json brackets", "json maps", "a key twice", "no text", "no json"],
)
def test_a_hostile_body_is_a_bad_request(body: str | bytes, kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        request(body, kind).object()
    assert caught.value.code == 400
    assert len(str(caught.value)) < 1_000


def test_a_yaml_body_is_read() -> None:
    assert request("kind: Pod\nmetadata: {name: a}", "application/yaml").object() == {
        "kind": "Pod",
        "metadata": {"name": "a"},
    }
