# SPDX-License-Identifier: Apache-2.0
"""Law: while a policy map is rewritten, after every single write each packet gets the old or the new policy's verdict."""

from __future__ import annotations

import tracemalloc
from collections.abc import Collection, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.datapath.layout import AddressKey, EndpointFlag, PolicyKey, PolicyValue
from agent.datapath.memory import memory_maps
from agent.policy.fit import fit
from agent.policy.ops import EndpointTarget
from agent.tables import Endpoint, EndpointVerdicts
from meshmodel.identity import NumericIdentity
from meshmodel.labels import Label
from meshpolicy import Direction, EndpointPolicy, Engine, PolicyContext, PolicyRef, parse_policy
from meshpolicy.endpoint_policy import DirectionPolicy
from meshpolicy.http_rule import EVERY_REQUEST
from meshpolicy.proxy_ports import ProxyPorts
from tests.support.effort import examples

APPS = ("a", "b", "c")
SUBJECT = NumericIdentity(1 << 16 | 1)
PEERS = {app: NumericIdentity(1 << 16 | (10 + n)) for n, app in enumerate(APPS)}
PORTS = (79, 80, 81, 443)

HTTP = -1
"""Instead of the end of a range: only some requests, by a proxy."""
PROXY_PORTS = ProxyPorts()

ports = st.sampled_from(
    [
        None,
        [("80", None)],
        [("80", HTTP)],
        [("443", None), ("80", HTTP)],
        [("80", 81)],
        [("0", None)],
        [("79", None), ("443", None)],
    ]
)
rule = st.tuples(
    st.sampled_from(["ingress", "ingressDeny", "egress", "egressDeny"]),
    st.sampled_from([*APPS, "all", "any"]),
    ports,
)
policies = st.lists(st.lists(rule, min_size=1, max_size=3), max_size=3)


def document(number: int, rules: list[tuple[str, str, list[tuple[str, int | None]] | None]]) -> dict[str, object]:
    spec: dict[str, object] = {"endpointSelector": {"matchLabels": {"app": "subject"}}}
    for section, peer, found in rules:
        side = "from" if section.startswith("ingress") else "to"
        entry: dict[str, object] = {}
        if peer in APPS:
            entry[f"{side}Endpoints"] = [{"matchLabels": {"app": peer}}]
        elif peer == "all":
            entry[f"{side}Entities"] = ["all"]
        if found is not None:
            entry["toPorts"] = [_port_rule(p, e, "Deny" in section) for p, e in found]
        spec.setdefault(section, []).append(entry)  # type: ignore[attr-defined]
    meta = {"name": f"p{number}", "namespace": "test"}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": meta, "spec": spec}


def _port_rule(port: str, end: int | None, denies: bool) -> dict[str, object]:
    listed: dict[str, object] = {"port": port, "protocol": "TCP"}
    if end != HTTP:
        return {"ports": [listed | ({"endPort": end} if end else {})]}
    return {"ports": [listed]} if denies else {"ports": [listed], "rules": {"http": [{"method": "GET"}]}}


def compiled(found: list[list[tuple[str, str, list[tuple[str, int | None]] | None]]]) -> EndpointPolicy:
    context = PolicyContext("north", False, proxy_ports=PROXY_PORTS)
    engine = Engine(context)
    place = (Label("k8s", "io.cilium.k8s.policy.cluster", "north"), Label("k8s", "io.kubernetes.pod.namespace", "test"))
    engine.set_identity(SUBJECT, (Label("k8s", "app", "subject"), *place))
    for app, number in PEERS.items():
        engine.set_identity(number, (Label("k8s", "app", app), *place))
    for number, rules in enumerate(found):
        engine.set_policy(parse_policy(document(number, rules), context))
    return engine.endpoint_policy(SUBJECT)


DENIED, PLAIN = -1, 0


def openness(judged: int) -> int:
    """Nothing, some requests, everything."""
    listener = PROXY_PORTS.listener(judged)
    return 0 if judged == DENIED else 1 if listener is not None and EVERY_REQUEST not in listener.rules else 2


class Kernel:
    """The lookup of the kernel program, over the maps as they are at this moment."""

    def __init__(self, room: int = 1000, share: int = 1000) -> None:
        self.maps = memory_maps({"mesh_policy": room})
        self.target = EndpointTarget(self.maps, self, share)
        self.links: set[int] = set()

    def attach(self, ifindex: int) -> None:
        self.links.add(ifindex)

    def detach(self, ifindex: int) -> None:
        self.links.discard(ifindex)

    def attached(self) -> set[int]:
        return set(self.links)

    def unattached(self, ifindexes: Collection[int]) -> set[int]:
        return set(ifindexes) - self.links

    def judge(self, direction: Direction, peer: int, port: int) -> int:
        """DENIED, PLAIN, or the port of the proxy."""
        endpoint = self.maps.endpoints_by_address.get(AddressKey("10.1.0.9"))
        flag = EndpointFlag.ENFORCE_INGRESS if direction is Direction.INGRESS else EndpointFlag.ENFORCE_EGRESS
        if endpoint is None or not endpoint.flags & flag:
            return PLAIN
        hits: list[PolicyValue] = []
        for identity in (peer, 0):
            value = self.maps.policy.get(PolicyKey(5, direction, identity, 6, port, 16))
            if value is not None:
                hits.append(value)
        best = max(hits, key=lambda v: v.precedence, default=None)
        return DENIED if best is None or best.deny else best.proxy_port or PLAIN


PACKETS = [(d, int(peer), port) for d in Direction for peer in (*PEERS.values(), 2) for port in PORTS]
ENDPOINT = Endpoint("10.1.0.9", 5, 7, "02:00:00:00:00:01", "02:00:00:00:00:02", int(SUBJECT), "test", "p")


Judged = dict[tuple[Direction, int, int], int]


def expected(policy: EndpointPolicy) -> Judged:
    found: Judged = {}
    for d, p, port in PACKETS:
        verdict = policy.verdict(d, p, 6, port)
        through = verdict.entry.proxy_port if verdict.entry is not None else 0
        found[d, p, port] = (through or PLAIN) if verdict.allowed else DENIED
    return found


@settings(max_examples=examples(120))
@given(policies, policies)
def test_every_packet_is_judged_by_the_old_or_the_new_policy(
    before: list[list[tuple[str, str, list[tuple[str, int | None]] | None]]],
    after: list[list[tuple[str, str, list[tuple[str, int | None]] | None]]],
) -> None:
    old, new = compiled(before), compiled(after)
    kernel = Kernel()
    assert not kernel.target.update([EndpointVerdicts(ENDPOINT, old)])
    was, will = expected(old), expected(new)
    for packet in PACKETS:
        assert kernel.judge(*packet) == was[packet], packet

    def check(_key: object) -> None:
        for packet in PACKETS:
            assert kernel.judge(*packet) in (was[packet], will[packet]), packet

    for name in ("policy", "endpoints_by_address", "endpoints_by_ifindex"):
        getattr(kernel.maps, name).on_write = check
    assert not kernel.target.update([EndpointVerdicts(ENDPOINT, new)])
    for packet in PACKETS:
        assert kernel.judge(*packet) == will[packet], packet


@settings(max_examples=examples(120))
@given(policies, policies, st.integers(0, 12), st.sampled_from(["policy", "endpoints_by_address"]))
def test_a_failed_write_is_made_good_by_the_next_attempt(
    before: list[list[tuple[str, str, list[tuple[str, int | None]] | None]]],
    after: list[list[tuple[str, str, list[tuple[str, int | None]] | None]]],
    writes: int,
    name: str,
) -> None:
    old, new = compiled(before), compiled(after)
    kernel = Kernel()
    kernel.target.update([EndpointVerdicts(ENDPOINT, old)])
    getattr(kernel.maps, name).fail_after(writes)
    for _ in range(2):
        failures = kernel.target.update([EndpointVerdicts(ENDPOINT, new)])
    assert not failures
    will = expected(new)
    for packet in PACKETS:
        assert kernel.judge(*packet) == will[packet], packet
    held = {tuple(key)[1:] for key, _ in kernel.maps.policy.items()}
    assert held == {tuple(map(int, key)) for key in new.entries}


@settings(max_examples=examples(150))
@given(policies, policies, st.integers(1, 12), st.integers(1, 12))
def test_a_policy_without_room_allows_nothing_that_it_does_not_say_and_says_so(
    before: list[list[tuple[str, str, list[tuple[str, int | None]] | None]]],
    after: list[list[tuple[str, str, list[tuple[str, int | None]] | None]]],
    room: int,
    share: int,
) -> None:
    """Whatever fits: the pod is attached and enforced, what is denied stays denied, and only a pod that fits is well."""
    old, new = compiled(before), compiled(after)
    kernel = Kernel(room, share)
    was, will = expected(old), expected(new)
    for policy, may, had in ((old, was, {}), (new, will, was), (new, will, will)):

        def check(_key: object, may: Judged = may, had: Mapping[Any, int] = had) -> None:
            if kernel.links:
                for packet in PACKETS:
                    most = max(openness(may[packet]), openness(had.get(packet, DENIED)))
                    assert openness(kernel.judge(*packet)) <= most, packet

        for name in ("policy", "endpoints_by_address", "endpoints_by_ifindex"):
            getattr(kernel.maps, name).on_write = check
        failures = kernel.target.update([EndpointVerdicts(ENDPOINT, policy)])
        assert kernel.links == {ENDPOINT.ifindex}
        for packet in PACKETS:
            assert openness(kernel.judge(*packet)) <= openness(may[packet]), packet
        fits = len(policy.entries) <= min(room, share)
        assert set(failures) == set(kernel.target.failures) == (set() if fits else {ENDPOINT.address})
        if fits:
            assert {packet: kernel.judge(*packet) for packet in PACKETS} == may
    if len(new.entries) <= share:  # and as soon as there is room all is well again
        kernel.maps.policy._max_entries = 1000  # type: ignore[attr-defined]
        assert not kernel.target.update([EndpointVerdicts(ENDPOINT, new)])
        assert {packet: kernel.judge(*packet) for packet in PACKETS} == will


def test_one_pods_large_policy_takes_no_room_from_another_pod() -> None:
    large = compiled([[("ingress", app, [(str(port), None) for port in PORTS]) for app in APPS]])
    small = compiled([[("ingress", "a", None)]])
    other = Endpoint("10.1.0.8", 4, 6, ENDPOINT.mac, ENDPOINT.node_mac, int(SUBJECT), "test", "q")
    kernel = Kernel(room=8, share=5)
    failures = kernel.target.update([EndpointVerdicts(ENDPOINT, large), EndpointVerdicts(other, small)])
    assert set(failures) == {ENDPOINT.address}
    assert "5 is the most for one pod" in kernel.target.failures[ENDPOINT.address]
    held = [key.endpoint_id for key, _ in kernel.maps.policy.items()]
    assert (held.count(5), held.count(4)) == (5, len(small.entries))
    assert not kernel.target.update([EndpointVerdicts(ENDPOINT, small)])
    assert kernel.target.failures == {}


def test_what_fits_of_a_policy_of_millions_of_entries_is_found_without_making_them() -> None:
    small = compiled([[("ingress", "a", [(str(port), None) for port in range(1, 1001)])]])
    peers, group = range(1 << 16, (1 << 16) + 3_000), small.ingress.groups[int(PEERS["a"])]
    large = EndpointPolicy(DirectionPolicy(enforced=True, groups=dict.fromkeys(peers, group)))
    tracemalloc.start()
    try:
        found = fit(large, 1_500)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (large.size, found.size) == (3_000_000, 1_500)
    assert peak_bytes < 10_000_000
    assert [(key.identity, key.port) for key in found.entries] == [
        (peer, port) for peer in peers[:2] for port in range(1, 1001)
    ][:1_500]


def test_a_changed_policy_has_a_new_revision_and_an_unchanged_one_keeps_it() -> None:
    kernel = Kernel()
    one = compiled([[("ingress", "a", None)]])
    kernel.target.update([EndpointVerdicts(ENDPOINT, one)])
    first = kernel.target.revision(ENDPOINT.address)
    kernel.target.update([EndpointVerdicts(ENDPOINT, one)])
    assert kernel.target.revision(ENDPOINT.address) == first
    kernel.target.update([EndpointVerdicts(ENDPOINT, compiled([[("ingress", "b", None)]]))])
    assert kernel.target.revision(ENDPOINT.address) != first


def test_a_restarted_agent_uses_no_revision_again_that_either_map_of_endpoints_holds() -> None:
    """A write that was cut short leaves the newer revision in one of the two maps."""
    kernel = Kernel()
    kernel.target.update([EndpointVerdicts(ENDPOINT, compiled([[("ingress", "a", None)]]))])
    for name in ("endpoints_by_address", "endpoints_by_ifindex"):
        written = getattr(kernel.maps, name)
        (key, value), *_ = written.items()
        written.update([(key, value._replace(policy_revision=value.policy_revision + 5))])
        newest = value.policy_revision + 5
        again = EndpointTarget(kernel.maps, kernel)
        again.restore()
        again.update([EndpointVerdicts(ENDPOINT, compiled([[("ingress", "b", None)]]))])
        revision = again.revision(ENDPOINT.address)
        assert revision is not None
        assert revision > newest


def test_a_restarted_agent_prunes_pods_that_are_gone_and_keeps_the_others() -> None:
    kernel = Kernel()
    gone = Endpoint("10.1.0.8", 4, 6, ENDPOINT.mac, ENDPOINT.node_mac, int(SUBJECT), "test", "q")
    policy = compiled([[("ingress", "a", None)]])
    kernel.target.update([EndpointVerdicts(ENDPOINT, policy), EndpointVerdicts(gone, policy)])
    again = EndpointTarget(kernel.maps, kernel)
    assert again.restore() == {"10.1.0.9": 5, "10.1.0.8": 4}
    again.update([EndpointVerdicts(ENDPOINT, policy)])
    list(again.prune({ENDPOINT.address: EndpointVerdicts(ENDPOINT, policy)}))
    assert kernel.links == {7}
    assert {key.endpoint_id for key, _ in kernel.maps.policy.items()} == {5}
    assert [key.address for key, _ in kernel.maps.endpoints_by_address.items()] == ["10.1.0.9"]


def test_the_documents_used_here_are_policies() -> None:
    ref = PolicyRef("CiliumNetworkPolicy", "test", "p0")
    assert parse_policy(document(0, [("ingress", "a", None)]), PolicyContext("north")).key == ref
