# SPDX-License-Identifier: Apache-2.0
"""Manifests as well-known applications bring them: applied strictly, applied again, listed, removed without a rest."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.devkube.harness import Kubectl, Served, eventually

APPLICATIONS = sorted(Path(__file__).with_name("applications").glob("*.yaml"))
TEXTS = {file.stem: file.read_text() for file in APPLICATIONS}
ROWS = {
    "boutique": {
        "hpa": "Deployment/checkout   cpu: <unknown>/70%   2         10        0",
        "pdb": "checkout   N/A             1                 0",
    },
    "guestbook": {"sts": "redis   0/3"},
    "wordpress": {
        "pvc": "mysql   Pending                                      standard       <unset>",
        "ing": "wordpress   nginx   blog.example.com             80, 443",
        "cj": "backup   30 2 * * *   Etc/UTC    False     0        <none>",
    },
    "ingress-controller": {"job": "ingress-admission-create   Running   0/1", "pc": "edge   1000000   false"},
    "metrics-server": {
        "sc": "standard-small (default)   rancher.io/local-path   Delete          WaitForFirstConsumer   true"
    },
}


async def wanted(kubectl: Kubectl, text: str) -> list[Any]:
    """The stored objects of these manifests without what their controllers write."""
    items = json.loads(await kubectl.ok("get", "-f", "-", "-o", "json", stdin=text))["items"]
    for obj in items:
        obj.pop("status", None)
        obj["metadata"].pop("resourceVersion")
    return list(items)


@pytest.fixture
async def space(kubectl: Kubectl, served: Served) -> AsyncIterator[Kubectl]:
    """kubectl in a namespace that is gone afterwards, with everything in it."""
    if kubectl.version == "1.20":
        pytest.skip("it validates by OpenAPI v2, and knows no autoscaling/v2")
    served.cluster.create("namespaces", {"metadata": {"name": "application"}})
    yield replace(kubectl, namespace="application")
    served.cluster.delete("namespaces", "application")
    await eventually(lambda: served.cluster.get("namespaces", "application") is None)


@pytest.mark.parametrize("file", APPLICATIONS, ids=lambda file: str(file.stem))
async def test_an_application_is_applied_kept_and_removed(file: Path, space: Kubectl) -> None:
    text = TEXTS[file.stem]
    count = len(list(yaml.safe_load_all(text)))
    made = await space.ok("apply", "-f", "-", stdin=text)
    assert made.count(" created\n") == count, made
    before = await wanted(space, text)
    await space.ok("apply", "-f", "-", stdin=text)
    assert await wanted(space, text) == before
    assert await space.ok("diff", "-f", "-", stdin=text) == ""
    for kind, row in ROWS[file.stem].items():
        assert row in await space.ok("get", kind)
    gone = await space.ok("delete", "--wait=false", "-f", "-", stdin=text)
    assert gone.count(" deleted") == count


async def test_an_unknown_field_of_a_kept_kind_is_refused(space: Kubectl) -> None:
    text = TEXTS["wordpress"].replace("timeZone:", "timezone:")
    refused = await space("apply", "-f", "-", stdin=text)
    assert refused.code != 0
    assert 'unknown field "spec.timezone"' in refused.err
