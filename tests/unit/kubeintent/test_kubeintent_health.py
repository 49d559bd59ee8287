# SPDX-License-Identifier: Apache-2.0
"""What an agent's Lease says of failing pods; what cannot be read says that nothing fails."""

from __future__ import annotations

import pytest

from kubeintent.confirmation import read_agent_lease
from kubeintent.health import read_health
from kubeintent.rows import ConfirmationIntent, HealthIntent
from meshapi.installed import FAILING_PODS, HEALTH_LEASE_PREFIX, LEASE_PREFIX
from meshmodel.names import ServiceName


def lease(name: str, text: str | None = None) -> dict[str, object]:
    annotations = {} if text is None else {FAILING_PODS: text}
    return {"metadata": {"namespace": "kube-system", "name": name, "annotations": annotations}}


@pytest.mark.parametrize(
    ("text", "expected", "is_told"),
    [
        (None, (), False),
        ("{}", (), False),
        ('{"a/b":["10.1.0.2","10.1.0.1"]}', ((ServiceName("a", "b"), ("10.1.0.1", "10.1.0.2")),), False),
        ('{"a/b":["10.1.0.1"],"nonsense":["10.1.0.1"]}', ((ServiceName("a", "b"), ("10.1.0.1",)),), True),
        ('{"a/b":["ten"]}', (), True),
        ('{"a/b":"10.1.0.1"}', (), True),
        ('["a/b"]', (), True),
        ("nonsense", (), True),
        ('{"a/b":[' + ",".join(f'"10.1.{n // 250}.{n % 250}"' for n in range(1001)) + "]}", (), True),
    ],
)
def test_what_a_lease_says(text: str | None, expected: object, is_told: bool) -> None:
    found = read_health(lease(HEALTH_LEASE_PREFIX + "n1", text))
    assert found.row == HealthIntent("n1", expected)  # type: ignore[arg-type]
    assert bool(found.problems) is is_told


def test_each_lease_of_an_agent_is_read_as_what_its_name_says() -> None:
    assert isinstance(read_agent_lease(lease(LEASE_PREFIX + "n1")).row, ConfirmationIntent)
    assert isinstance(read_agent_lease(lease(HEALTH_LEASE_PREFIX + "n1")).row, HealthIntent)
    assert read_agent_lease(lease("kube-scheduler")).row is None
    assert read_health(lease(HEALTH_LEASE_PREFIX)).row is None
