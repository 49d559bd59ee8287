# SPDX-License-Identifier: Apache-2.0
"""Pods of one namespace leave the others their room in the policy map of the node, whoever comes first (ADR 60)."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from agent.bootstrap import Facts
from agent.core import open_core
from agent.machine import MemoryHost
from agent.namespace_shares import NamespaceShares
from agent.policy.feature import PolicyFeature
from agent.settings import AgentSettings
from agent.tables import Endpoint, Identity
from meshkit.clock import ManualClock
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import PolicyRef
from tests.support.policy_neighbours import neighbours

NORTH = ClusterName("north")
PER_POD, ENTRIES = 64, 200
wishes = st.dictionaries(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), st.integers(0, 2 * PER_POD), min_size=1, max_size=30
)


@given(wishes, st.integers(0, 100), st.randoms(use_true_random=False))
def test_all_have_room_together_and_who_wants_little_has_it_in_any_order(
    wanted: dict[tuple[str, int], int], of_node: int, rng: random.Random
) -> None:
    def settled(pods: list[tuple[tuple[str, int], int]]) -> NamespaceShares[str]:
        shares: NamespaceShares[str] = NamespaceShares(ENTRIES, PER_POD)
        for (namespace, number), size in pods:
            shares.want(f"{namespace}{number}", namespace, PER_POD - size % PER_POD)
            shares.settle(of_node // 2)
            shares.want(f"{namespace}{number}", namespace, size)
        shares.settle(of_node)
        return shares

    pods = list(wanted.items())
    shares = settled(pods)
    rng.shuffle(pods)
    again = settled(pods)
    has = {pod: min(size, shares.most(f"{pod[0]}{pod[1]}")) for pod, size in wanted.items()}
    assert has == {pod: min(size, again.most(f"{pod[0]}{pod[1]}")) for pod, size in wanted.items()}
    room, namespaces = ENTRIES - min(of_node, PER_POD), {namespace for namespace, _ in wanted}
    for namespace in namespaces:
        want = sum(min(size, PER_POD) for pod, size in wanted.items() if pod[0] == namespace)
        if want <= room // len(namespaces):
            assert sum(size for pod, size in has.items() if pod[0] == namespace) == want
    assert sum(has.values()) <= room
    for pod, size in wanted.items():  # where somebody has less, nobody of the namespace has more
        if has[pod] < min(size, PER_POD):
            assert has[pod] == max(n for other, n in has.items() if other[0] == pod[0])


def test_whose_share_changes_is_told_once() -> None:
    shares: NamespaceShares[str] = NamespaceShares(100, PER_POD)
    for number in range(3):
        shares.want(f"a{number}", "a", 50)
    assert shares.settle(0) == {"a0", "a1", "a2"}
    assert shares.most("a0") == 33
    assert shares.settle(0) == set()
    shares.want("b0", "b", 10)
    assert shares.settle(0) == {"a0", "a1", "a2"}
    assert (shares.most("a0"), shares.most("b0")) == (30, PER_POD)
    shares.want("a2", "", 0)
    shares.want("a1", "", 0)
    assert shares.settle(0) == {"a0"}
    assert shares.most("a0") == PER_POD


async def test_pods_that_come_later_are_enforced_as_their_policies_say_whatever_another_namespace_wants() -> None:
    settings = AgentSettings(local_etcd="none", policy_entries=64, policy_entries_per_pod=40)
    facts = Facts(NORTH, ClusterId(1), 255, "n1", "172.18.0.2", ("10.1.0.0/24",))
    host = MemoryHost()
    core = await open_core(settings, facts, None, host, ManualClock())
    policy = PolicyFeature(core, neighbours(core.db))
    (reconciling,) = policy.reconcilers()

    def add(namespace: str, identity: int, pods: range, ranges: int) -> None:
        kind, spec = "CiliumNetworkPolicy", {"fromCIDR": [f"203.0.{identity}.{n}/32" for n in range(ranges)]}
        document = {
            "kind": kind,
            "metadata": {"name": "in", "namespace": namespace},
            "spec": {"endpointSelector": {}, "ingress": [spec]},
        }
        policy.compiler.set_document(document, PolicyRef(kind, namespace, "in"))
        labels = pod_labels({"app": "a"}, namespace, {}, "default", NORTH)
        with core.db.write():
            core.db.identities.put(Identity(identity, NORTH, labels))
            for n in pods:
                core.db.endpoints.put(
                    Endpoint(
                        f"10.1.0.{n}", n, 10 + n, "0a:00:00:00:00:01", "0a:00:00:00:00:02", identity, namespace, f"p{n}"
                    )
                )

    def settle() -> None:
        policy.compiler.step()
        for round_s in range(0, 600, 60):
            reconciling.reconciler.run_once(float(round_s))

    def entries(number: int) -> int:
        return sum(key.endpoint_id == number for key, _ in core.maps.policy.items())

    add("greedy", 7, range(1, 5), 30)
    settle()
    assert len(list(core.maps.policy.items())) <= 64
    assert set(policy.target.failures) == {f"10.1.0.{n}" for n in range(1, 5)}
    assert "is the most for a pod of its namespace while the policy map is full" in policy.target.failures["10.1.0.1"]
    add("modest", 9, range(5, 7), 5)
    settle()
    row = core.db.verdicts.get("10.1.0.5")
    assert row is not None
    assert row.policy.size == entries(5) == entries(6) > 4
    assert set(policy.target.failures) == {f"10.1.0.{n}" for n in range(1, 5)}
    assert 0 < entries(1) == entries(4) <= (64 - 2 * entries(5)) // 4
    with core.db.write():
        for n in range(2, 5):
            core.db.endpoints.delete(f"10.1.0.{n}")
    settle()
    assert policy.target.failures == {}
    whole = core.db.verdicts.get("10.1.0.1")
    assert whole is not None
    assert entries(1) == whole.policy.size
