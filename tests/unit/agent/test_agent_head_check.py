# SPDX-License-Identifier: Apache-2.0
"""A frontend's head that somebody else wrote is found by the comparison, named, and written again; one of ours is left alone."""

from __future__ import annotations

import pytest

from agent.datapath.layout import ServiceFlag, ServiceValue
from agent.datapath.memory import memory_maps
from agent.loadbalancer.frontend_shadow import slot_key
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.tables import Frontend, FrontendKey, Target
from meshmodel.names import ServiceName

KEY = FrontendKey("10.96.0.1", 80, "TCP")
HEAD = slot_key(KEY, 0)
ROW = Frontend(
    KEY, ServiceName("test", "echo"), "ClusterIP", "", tuple(Target(f"10.1.0.{n}", 80, "TCP", 1) for n in (1, 2))
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"count": 1},
        {"service_id": 4_321},
        {"backend_id": 30},
        {"flags": int(ServiceFlag.AFFINITY)},
        {"backend_id": 30, "flags": int(ServiceFlag.AFFINITY)},
    ],
    ids=str,
)
def test_a_head_is_named_and_written_again_exactly_if_somebody_changed_it(change: dict[str, int]) -> None:
    maps = memory_maps()
    target = LoadBalancerTarget(maps, lambda: 0.0)
    assert not target.update([ROW])
    written = maps.services.get(HEAD)
    assert isinstance(written, ServiceValue)
    maps.services.update([(HEAD, written._replace(**change))])
    target.doubt()
    named = [key for step in target.prune({KEY: ROW}) for key in step]
    assert named == ([KEY] if change else [])
    assert not target.update([ROW])
    assert maps.services.get(HEAD) == written
