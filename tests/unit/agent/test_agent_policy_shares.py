# SPDX-License-Identifier: Apache-2.0
"""The policies of a namespace name so many address ranges; those that do not fit are closed, and other namespaces go on."""

from __future__ import annotations

from typing import Any

import pytest

from agent.policy.compiler import PolicyCompiler
from agent.policy.ranges import WriteProgress
from agent.tables import AgentDB, Endpoint, Identity, PolicyRow
from meshmodel.identity import NumericIdentity
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import Direction, PolicyContext, PolicyRef, ServicePeers, parse_policy
from meshpolicy.prefix import parse_prefix
from meshpolicy.range_shares import RangeShares, ShareLimits
from meshpolicy.staged import STAGED_ANNOTATION

NORTH = ClusterName("north")
CONTEXT = PolicyContext(NORTH)
LIMITS = ShareLimits(of_namespace=4, of_namespaces=10, of_cluster=9)
CNP, CCNP, GROUP = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "CiliumCIDRGroup"


def ranges(first: int, count: int) -> list[str]:
    return [f"192.0.2.{n}/32" for n in range(first, first + count)]


def document(name: str, rule: dict[str, Any], namespace: str = "shop", section: str = "ingress") -> dict[str, Any]:
    spec = {"endpointSelector": {"matchLabels": {"app": name}}, section: [rule]}
    return {"kind": CNP, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


class Node:
    """Pods a, b and c of the namespaces shop and home, and a compiler that lets a namespace name four ranges."""

    def __init__(self, progress: WriteProgress | None = None, limits: ShareLimits = LIMITS) -> None:
        self.db = AgentDB(NORTH, ClusterId(1))
        self.prefixes: set[str] = set()
        self.compiler = PolicyCompiler(self.db, CONTEXT, self._set_prefixes, progress=progress, range_limits=limits)
        with self.db.write():
            for number, namespace, app in ((n * 10 + m, ns, app) for n, ns in ((30, "shop"), (31, "home"))
                                           for m, app in enumerate("abc")):  # fmt: skip
                known = pod_labels({"app": app}, namespace, {}, "default", NORTH)
                self.db.identities.put(Identity(number, NORTH, known))
                address = f"10.1.0.{number - 299}"
                self.db.endpoints.put(Endpoint(address, number, 9, "", "", number, namespace, app))
        self.compiler.step()

    def _set_prefixes(self, found: Any) -> None:
        self.prefixes = set(found)

    def write(self, name: str, *texts: str, namespace: str = "shop", section: str = "ingress") -> PolicyRow:
        word = "fromCIDR" if section.startswith("in") else "toCIDR"
        return self.set(document(name, {word: list(texts)}, namespace, section))

    def set(self, written: dict[str, Any]) -> PolicyRow:
        meta = written["metadata"]
        row = self.compiler.set_document(written, PolicyRef(written["kind"], meta.get("namespace", ""), meta["name"]))
        self.compiler.step()
        return row

    def remove(self, name: str, namespace: str = "shop") -> None:
        self.compiler.remove_document(PolicyRef(CNP, namespace, name))
        self.compiler.step()

    def lets_in(self, name: str, text: str, namespace: str = "shop", direction: Direction = Direction.INGRESS) -> bool:
        """Whether the pod accepts packets of this address."""
        found = {(e.namespace, e.pod): e.address for e in self.db.endpoints.rows()}
        row = self.db.verdicts.get(found[namespace, name])
        assert row is not None
        peer = int(self.compiler.engine.prefixes().get(text, NumericIdentity(2)))
        return row.policy.verdict(direction, peer, 6, 80).allowed

    def closed(self) -> set[str]:
        return {row.name for row in self.db.policies.rows() if not row.is_valid}


def test_the_policy_that_does_not_fit_is_closed_and_says_so_and_the_others_go_on() -> None:
    node = Node()
    assert node.write("a", *ranges(0, 2)).is_valid
    assert node.write("b", *ranges(10, 1), namespace="home").is_valid
    row = node.write("b", *ranges(2, 5))
    assert not row.is_valid
    assert row.message.startswith("kept closed: it names 5 address ranges, and the policies of a namespace may name 4")
    assert node.prefixes == {*ranges(0, 2), *ranges(10, 1)}
    assert node.lets_in("a", "192.0.2.1/32")
    assert not node.lets_in("b", "192.0.2.2/32")
    assert node.lets_in("b", "192.0.2.10/32", "home")


def test_the_largest_are_closed_whichever_came_first_and_open_again_when_there_is_room() -> None:
    node = Node()
    assert node.write("a", *ranges(0, 3)).is_valid
    assert node.write("b", *ranges(10, 2)).is_valid
    assert node.closed() == {"a"}
    assert not node.lets_in("a", "192.0.2.1/32")
    node.remove("b")
    assert node.closed() == set()
    assert node.lets_in("a", "192.0.2.1/32")


def test_ranges_that_several_policies_name_count_once() -> None:
    node = Node()
    for name in "abc":
        assert node.write(name, *ranges(0, 4)).is_valid
    assert node.closed() == set()


def test_a_policy_that_denies_denies_everything_while_it_is_closed() -> None:
    node = Node()
    node.write("a", *ranges(0, 5), section="egressDeny")
    assert not node.lets_in("a", "198.51.100.1/32", direction=Direction.EGRESS)
    node.write("a", *ranges(0, 4), section="egressDeny")
    row = node.db.verdicts.get("10.1.0.1")
    assert row is not None
    assert node.closed() == set()


def group(name: str, *texts: str) -> dict[str, Any]:
    return {"kind": GROUP, "metadata": {"name": name, "labels": {"of": name}}, "spec": {"externalCIDRs": list(texts)}}


def wide(name: str, *texts: str) -> dict[str, Any]:
    spec = {"endpointSelector": {}, "egress": [{"toCIDR": list(texts)}]}
    return {"kind": CCNP, "metadata": {"name": name}, "spec": spec}


def naming(name: str, of_group: str, **more: Any) -> dict[str, Any]:
    return document(name, {"fromCIDRSet": [{"cidrGroupRef": of_group, **more}]})


def test_exceptions_count_and_ranges_of_groups_and_of_the_cluster_are_no_namespace_s() -> None:
    node = Node()
    assert node.set(group("g", *ranges(0, 5))).is_valid
    assert node.set(naming("a", "g")).is_valid
    assert node.set(wide("w", *ranges(20, 4))).is_valid
    holes = [f"10.{n}.0.0/16" for n in range(4)]
    assert not node.set(document("b", {"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": holes}]})).is_valid
    assert node.set(naming("c", "g", **{"except": holes})).is_valid


def test_policies_of_the_cluster_and_named_groups_have_a_share_of_their_own() -> None:
    node = Node()
    assert node.set(group("large", *ranges(0, 6))).is_valid
    assert node.set(group("unused", *ranges(100, 9))).is_valid
    assert node.set(wide("w", *ranges(20, 4))).is_valid
    assert node.lets_in("a", "192.0.2.20/32", direction=Direction.EGRESS)
    row = node.set(naming("a", "large"))
    assert row.message.startswith("kept closed: it names CiliumCIDRGroup large, for which there is no room")
    assert node.closed() == {"a", "large"}
    assert not node.lets_in("a", "192.0.2.1/32")
    assert node.prefixes == set(ranges(20, 4))
    node.set(wide("w", *ranges(20, 3)))
    assert node.closed() == set()
    assert node.lets_in("a", "192.0.2.1/32")
    assert node.prefixes == {*ranges(20, 3), *ranges(0, 6)}


def test_a_group_that_grows_beyond_its_room_closes_who_names_it_and_opens_them_as_it_is_then() -> None:
    node = Node()
    node.set(group("g", *ranges(0, 2)))
    node.set(naming("a", "g"))
    node.set(document("b", {"fromCIDRSet": [{"cidrGroupSelector": {"matchLabels": {"of": "g"}}}]}))
    assert node.lets_in("b", "192.0.2.1/32")
    node.set(group("g", *ranges(0, 10)))
    assert node.closed() == {"a", "b", "g"}
    assert node.prefixes == set()
    assert not any(node.lets_in(name, "192.0.2.1/32") for name in "ab")
    node.set(group("g", *ranges(1, 1)))
    assert node.closed() == set()
    assert node.prefixes == {"192.0.2.1/32"}
    assert node.lets_in("a", "192.0.2.1/32")


def test_a_policy_that_comes_to_mean_a_group_without_room_is_closed() -> None:
    node = Node()
    node.set(group("g", *ranges(0, 10)))
    node.set(document("a", {"fromCIDRSet": [{"cidrGroupSelector": {"matchLabels": {"of": "h"}}}]}))
    assert node.closed() == set()
    relabelled = group("g", *ranges(0, 10))
    relabelled["metadata"]["labels"] = {"of": "h"}
    node.set(relabelled)
    assert node.closed() == {"a", "g"}
    node.compiler.remove_document(PolicyRef(GROUP, "", "g"))
    assert {row.name for row in node.db.policies.rows() if row.is_valid} == {"a"}


def test_namespaces_together_leave_room_for_pods_and_those_with_few_ranges_keep_theirs() -> None:
    shares = RangeShares(LIMITS)
    written = [("one", 1), ("two", 3), ("three", 4), ("four", 4)]
    keys = {}
    for place, (namespace, count) in enumerate(written):
        texts = ranges(10 * place, count)
        found = parse_policy(document("a", {"fromCIDR": texts}, namespace), CONTEXT)
        keys[namespace] = found.key
        shares.set_policy(found)
    assert {name for name, key in keys.items() if shares.excess(key)} == {"three", "four"}
    assert "of the 10 of all namespaces this one has 3, since others name as many" in shares.excess(keys["four"])
    assert shares.remove(keys["two"]) == {keys["three"], keys["four"]}
    assert not any(shares.excess(key) for key in keys.values())


def test_staged_policies_close_no_other_and_are_judged_as_they_would_be() -> None:
    node = Node()
    node.write("a", *ranges(0, 3))
    staged = document("a", {"fromCIDR": ranges(10, 2)})
    staged["metadata"] |= {"name": "s", "annotations": {STAGED_ANNOTATION: "true"}}
    assert node.set(staged).message.startswith("kept closed: it names 2 address ranges")
    assert node.closed() == {"s"}
    endpoint = node.db.endpoints.get("10.1.0.1")
    assert endpoint is not None
    judged = node.compiler.staged.judge(endpoint, Direction.INGRESS, (2, "192.0.2.10"), (6, 80))
    assert judged is not None
    assert not judged.is_allowed
    assert node.lets_in("a", "192.0.2.1/32")
    node.write("a", *ranges(0, 2))
    assert node.closed() == set()


def test_while_many_ranges_are_on_their_way_documents_wait_for_theirs_one_by_one() -> None:
    """Whoever edits again and again would fill the map with what is on its way, otherwise."""
    written = False
    progress = WriteProgress(lambda: True, lambda: True, lambda: written)
    node = Node(progress, ShareLimits(of_namespace=4, of_namespaces=2, of_cluster=0, spare=0))
    for place in range(4):
        assert node.write("a", *ranges(place, 1)).is_valid
    assert len(node.compiler.engine.known_prefixes()) == 2
    written, most = True, 0
    while node.compiler.waits_for_addresses:
        node.compiler.step()
        most = max(most, len(node.compiler.engine.known_prefixes()))
    assert most <= 4, "what the last one named leaves meanwhile"
    assert node.prefixes == {"192.0.2.3/32"}
    assert node.lets_in("a", "192.0.2.3/32")


def test_backends_of_services_outside_the_mesh_count_and_fewer_of_them_open_the_policy_again() -> None:
    shares = RangeShares(LIMITS)
    written = document("a", {"toServices": [{"k8sService": {"serviceName": "s"}}]}, section="egress")
    policy = parse_policy({**written, "spec": {**written["spec"]}}, CONTEXT)
    for count, is_closed in ((4, False), (5, True), (2, False)):
        service = ServicePeers("shop", "s", addresses=frozenset(map(parse_prefix, ranges(0, count))))
        shares.set_policy(policy, [service])
        assert bool(shares.excess(policy.key)) is is_closed
        assert shares.with_services() == [policy]


def test_a_refused_edit_leaves_the_last_valid_form_and_its_ranges() -> None:
    node = Node()
    node.write("a", *ranges(0, 3))
    assert not node.write("a", "nonsense").is_valid
    assert node.lets_in("a", "192.0.2.1/32")
    assert not node.write("b", *ranges(10, 4)).is_valid
    assert node.closed() == {"a", "b"}
    row = node.db.policies.get((CNP, "shop", "a"))
    assert row is not None
    assert row.message.endswith("the last valid form stays in force")


def test_a_policy_that_waits_for_addresses_is_closed_at_once_and_does_not_open_when_they_are_written() -> None:
    written = False
    node = Node(WriteProgress(lambda: True, lambda: True, lambda: written))
    node.write("a", *ranges(0, 3))
    assert node.compiler.waits_for_addresses
    node.write("a", *ranges(0, 5))
    assert not node.lets_in("a", "192.0.2.1/32")
    written = True
    for _ in range(6):
        node.compiler.step()
    assert not node.compiler.waits_for_addresses
    assert not node.lets_in("a", "192.0.2.1/32")
    assert node.prefixes == set()


@pytest.mark.parametrize("is_reversed", [False, True])
def test_which_are_closed_does_not_depend_on_the_order_in_which_they_came(*, is_reversed: bool) -> None:
    node = Node()
    written = [("a", ranges(0, 1)), ("b", ranges(1, 3)), ("c", ranges(4, 3))]
    for name, texts in reversed(written) if is_reversed else written:
        node.write(name, *texts)
    assert node.closed() == {"c"}
    assert node.prefixes == {*ranges(0, 4)}
