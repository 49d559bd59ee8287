# SPDX-License-Identifier: Apache-2.0
"""Rules that name Services: egress to whoever their backends are now, in every cluster; nobody where that is not known."""

from __future__ import annotations

from typing import Any

import pytest

from agent.policy.compiler import PolicyCompiler
from agent.policy.rows import service_rows
from agent.tables import (
    AgentDB,
    Backend,
    BackendSet,
    ClaimOrigin,
    Endpoint,
    Identity,
    LabelledService,
    PeerHealth,
    Prefix,
)
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpolicy import Direction, PolicyContext, PolicyRef

NORTH, SOUTH = ClusterName("north"), ClusterName("south")
CLIENT, WEB, WEB_SOUTH, OTHER, NODE = 300, 301, 131_372, 302, 6
ADDRESSES = {CLIENT: "10.1.0.1", WEB: "10.1.0.2", WEB_SOUTH: "10.2.0.2", OTHER: "10.1.0.3", NODE: "172.18.0.3"}
OUTSIDE = "192.0.2.9"
SHOP = ServiceName("shop", "web")


class Node:
    """The policy compiler of a node with one pod, the client, and the tables it reads."""

    def __init__(self) -> None:
        self.db = AgentDB(NORTH, ClusterId(1))
        self.prefixes: dict[str, int] = {}
        self.compiler = PolicyCompiler(self.db, PolicyContext(NORTH), self._take_prefixes)
        with self.db.write():
            self.db.peers.put(PeerHealth(SOUTH, ClusterId(2)))
            for number, address in ADDRESSES.items():
                cluster = SOUTH if number == WEB_SOUTH else NORTH
                if number != NODE:
                    labels = pod_labels({"app": str(number)}, "shop", {}, "default", cluster)
                    self.db.identities.put(Identity(number, cluster, labels))
                self.claim(address, number)
            self.db.endpoints.put(Endpoint(ADDRESSES[CLIENT], 1, 1, "", "", CLIENT, "shop", "client"))

    def _take_prefixes(self, found: Any) -> None:
        self.prefixes = {str(prefix): int(number) for prefix, number in found.items()}

    def claim(self, address: str, number: int, *, is_known: bool = True) -> None:
        origin = ClaimOrigin.NODE if number == NODE else ClaimOrigin.POD
        row = Prefix(f"{address}/32", number, "", NORTH, ClusterId(1), origin, is_known=is_known)
        self.db.prefixes.put(row)

    def service(self, *, labels: str = "web", is_global: bool = False, name: ServiceName = SHOP) -> None:
        self.db.labelled_services.put(LabelledService(name, (("app", labels),), is_global))

    def backends(self, *addresses: str, cluster: ClusterName = NORTH, name: ServiceName = SHOP) -> None:
        rows = tuple(Backend(address, 8080, "TCP") for address in addresses)
        self.db.backends.put(BackendSet(name, cluster, ClusterId(1), rows))

    def policy(self, *peers: dict[str, Any], section: str = "egress", ports: bool = False) -> None:
        rule: dict[str, Any] = {"toServices": list(peers)}
        if ports:
            rule["toPorts"] = [{"ports": [{"port": "8080", "protocol": "TCP"}]}]
        spec = {"endpointSelector": {}, section: [rule]}
        if section == "egressDeny":
            spec["egress"] = [{"toEntities": ["all"]}]
        meta = {"name": "p", "namespace": "shop"}
        document = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": meta, "spec": spec}
        row = self.compiler.set_document(document, PolicyRef("CiliumNetworkPolicy", "shop", "p"))
        assert row.is_valid
        assert row.problems == ()

    def allowed(self, port: int = 8080) -> set[int]:
        """Which of the others the client reaches, as the kernel's entries say; -1 is the address outside."""
        self.compiler.step()
        row = self.db.verdicts.get(ADDRESSES[CLIENT])
        assert row is not None
        others = {number: number for number in ADDRESSES if number != CLIENT}
        others[-1] = self.prefixes.get(f"{OUTSIDE}/32", 2)
        policy = row.policy
        return {n for n, identity in others.items() if policy.verdict(Direction.EGRESS, identity, 6, port).allowed}


BY_NAME = {"k8sService": {"serviceName": "web", "namespace": "shop"}}
BY_LABEL = {"k8sServiceSelector": {"selector": {"matchLabels": {"app": "web"}}, "namespace": "shop"}}


@pytest.mark.parametrize("peer", [BY_NAME, BY_LABEL], ids=["by name", "by label"])
def test_egress_follows_the_backends(peer: dict[str, Any]) -> None:
    node = Node()
    node.policy(peer, ports=True)
    assert node.allowed() == set(), "no such service: nobody, not everybody on the port"
    with node.db.write():
        node.service()
        node.backends(ADDRESSES[WEB])
    assert node.allowed() == {WEB}
    assert node.allowed(80) == set()
    with node.db.write():
        node.backends(ADDRESSES[WEB], ADDRESSES[OTHER])
    assert node.allowed() == {WEB, OTHER}
    with node.db.write():
        node.backends(ADDRESSES[OTHER])
    assert node.allowed() == {OTHER}
    with node.db.write():
        node.claim(ADDRESSES[OTHER], WEB)
    assert node.allowed() == {WEB}, "the address is another pod's now"
    with node.db.write():
        node.db.labelled_services.delete(SHOP)
    assert node.allowed() == set()


def test_a_service_without_selector_means_addresses_outside() -> None:
    node = Node()
    node.policy(BY_NAME)
    with node.db.write():
        node.service()
        node.backends(OUTSIDE)
    assert node.allowed() == {-1}
    assert f"{OUTSIDE}/32" in node.prefixes
    with node.db.write():
        node.backends()
    assert node.allowed() == set()
    assert node.prefixes == {}


def test_a_global_service_means_the_backends_of_peers_too() -> None:
    node = Node()
    node.policy(BY_NAME)
    with node.db.write():
        node.service()
        node.backends(ADDRESSES[WEB])
        node.backends(ADDRESSES[WEB_SOUTH], cluster=SOUTH)
    assert node.allowed() == {WEB}, "what is not global is this cluster's alone"
    with node.db.write():
        node.service(is_global=True)
    assert node.allowed() == {WEB, WEB_SOUTH}
    with node.db.write():
        node.service(is_global=False)
    assert node.allowed() == {WEB}


def test_labels_of_the_service_count_and_not_of_its_pods() -> None:
    node = Node()
    node.policy(BY_LABEL)
    with node.db.write():
        node.service(labels="other")
        node.backends(ADDRESSES[WEB])
    assert node.allowed() == set()
    with node.db.write():
        node.service(labels="web")
    assert node.allowed() == {WEB}


def test_a_backend_in_a_node_s_network_opens_no_node_and_closes_them_all() -> None:
    """Its identity stands for every node: an allow rule leaves it out, a deny rule does not."""
    node = Node()
    with node.db.write():
        node.service()
        node.backends(ADDRESSES[NODE], ADDRESSES[WEB])
    node.policy(BY_NAME)
    assert node.allowed() == {WEB}
    node.policy(BY_NAME, section="egressDeny")
    assert node.allowed() == {WEB_SOUTH, OTHER, -1}


def test_a_backend_whose_identity_is_not_known_is_not_allowed_yet() -> None:
    node = Node()
    node.policy(BY_NAME)
    with node.db.write():
        node.service()
        node.backends(ADDRESSES[WEB])
        node.claim(ADDRESSES[WEB], WEB, is_known=False)
    assert node.allowed() == set()
    with node.db.write():
        node.claim(ADDRESSES[WEB], WEB)
    assert node.allowed() == {WEB}


def test_without_a_namespace_allow_rules_mean_their_own_and_deny_rules_every() -> None:
    node = Node()
    elsewhere = ServiceName("elsewhere", "web")
    with node.db.write():
        node.service(name=elsewhere)
        node.backends(ADDRESSES[WEB], name=elsewhere)
    node.policy({"k8sService": {"serviceName": "web"}})
    assert node.allowed() == set()
    node.policy({"k8sService": {"serviceName": "web"}}, section="egressDeny")
    assert WEB not in node.allowed()


def test_who_asks_for_services_is_told_all_of_a_namespace_though_no_rule_names_one() -> None:
    node = Node()
    with node.db.write():
        node.service(is_global=True)
        node.service(name=ServiceName("other", "db"))
        node.backends(ADDRESSES[WEB], OUTSIDE)
        node.backends(ADDRESSES[WEB_SOUTH], cluster=SOUTH)
    found = service_rows(node.db, "shop")
    assert [(row.name, row.labels, row.identities, row.addresses) for row in found] == [
        ("web", {"app": "web"}, [WEB, WEB_SOUTH], [f"{OUTSIDE}/32"])
    ]
    assert [row.name for row in service_rows(node.db, "")] == ["db", "web"]
    assert service_rows(node.db, "nobody") == []
