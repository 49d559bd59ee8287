# SPDX-License-Identifier: Apache-2.0
"""docs/services.md says what becomes of every field of Services and EndpointSlices, and names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kubernetes.client import models

from meshapi.installed import OWN_PREFIX
from meshmodel import steering
from meshmodel.algorithm import LB_ALGORITHM
from meshmodel.export_scope import EXPORT_TO
from meshmodel.health_probe import HEALTH_PROBE

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/services.md").read_text()
WORDS = {"honoured", "told", "proxy", "irrelevant"}
FIELDS, ANNOTATIONS = TEXT.split("## Annotations")
SERVICE, SLICE = FIELDS.split("## EndpointSlice")
ROWS = [
    row for part in (SERVICE, SLICE) for row in part.splitlines() if row.startswith(("| `", "| label", "| `status"))
]
NAMED = sorted(set(re.findall(r"`((?:tests|e2e)/[^`]+)`", TEXT)))
SLICE_MODELS = ("V1EndpointSlice", "V1Endpoint", "V1EndpointConditions", "V1EndpointHints", "DiscoveryV1EndpointPort")
OBJECT_FIELDS = {"apiVersion", "kind", "metadata"}


def fields(name: str) -> set[str]:
    return set(getattr(models, name).attribute_map.values())


def listed(text: str) -> set[str]:
    """Names between backticks in the first cell of every row."""
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_field_is_listed() -> None:
    assert fields("V1ServiceSpec") <= listed(SERVICE)
    assert {f"ports.{name}" for name in fields("V1ServicePort")} <= listed(SERVICE)
    assert fields("V1LoadBalancerIngress") <= listed(SERVICE)
    assert {name for model in SLICE_MODELS for name in fields(model)} - OBJECT_FIELDS <= listed(SLICE)


def test_every_row_says_what_becomes_of_it() -> None:
    assert len(ROWS) > 25
    for row in ROWS:
        what = row.split("|")[2].strip()
        assert what in WORDS, row
        assert what not in ("honoured", "told") or re.search(r"`(?:tests|e2e)/", row), row


def test_every_annotation_of_ours_is_listed_with_a_test() -> None:
    rows = {row.split("`")[1]: row for row in ANNOTATIONS.splitlines() if row.startswith("| `")}
    assert {f"{OWN_PREFIX}{name}" for name in rows} == {*steering.ALL, EXPORT_TO, LB_ALGORITHM, HEALTH_PROBE}
    assert all(re.search(r"`(?:tests|e2e)/", row) for row in rows.values())


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    source = (ROOT / path).read_text()
    assert not function or re.search(rf"^(async )?def {function}\(", source, re.MULTILINE)
