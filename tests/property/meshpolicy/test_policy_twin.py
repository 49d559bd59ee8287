# SPDX-License-Identifier: Apache-2.0
"""The engine decides every packet as the dumb twin does, and its maps decide as the engine does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st
from policy_strategies import NORTH, WHO, documents, dual_stack

from meshmodel.identity import NumericIdentity, Reserved, world_of
from meshmodel.labels import CLUSTER_LABEL, Label, Labels, parse_label, sort_labels
from meshpolicy import Direction, Engine, EntryKey, PolicyContext, PolicyEntry, lookup, parse_policy
from meshpolicy.node_peer import completed_labels
from meshpolicy.prefix import label_key, parse_address, parse_prefix
from tests.support.effort import examples
from tests.support.policy_twin import Packet, Twin, Who

_RESERVED = {"host": 1, "world": 2, "health": 4, "init": 5, "node": 6, "api": 7, "world4": 9, "world6": 10}
NUMBERS = {name: NumericIdentity(_RESERVED.get(name, 300 + index)) for index, name in enumerate(WHO)}
FLOWS = [(6, 80), (6, 81), (6, 8080), (17, 53), (132, 53), (6, 65535), (1, 8), (1, 3), (58, 128), (47, 0), (2, 0)]


def labels_of(who: Who) -> Labels:
    labels = [parse_label(text) for text in who.labels]
    if who.address:
        labels.append(Label("cidr", label_key(parse_address(who.address)), ""))
    return completed_labels(sort_labels(labels), NORTH, ("app", "tier", "absent", CLUSTER_LABEL))


def is_pod(who: Who) -> bool:
    return any(text.startswith("k8s:") for text in who.labels)


def add_everybody(engine: Engine) -> None:
    for name, who in WHO.items():
        engine.set_identity(NUMBERS[name], labels_of(dual_stack(who) if engine.context.dual_stack else who))
        if is_pod(who):
            engine.set_pod_ports(name, NUMBERS[name], dict(who.ports))


def numbers_of(engine: Engine, name: str) -> set[int]:
    """By which identities a peer may be known: outsiders by an own one, and by that of the longest range that policies name."""
    found, address = {int(NUMBERS[name])}, WHO[name].address
    if address:
        ranges = [p for p in map(parse_prefix, engine.prefixes()) if p.covers(parse_address(address))]
        unnamed = Reserved.WORLD_IPV4 if engine.context.dual_stack and ":" not in address else world_of(address)
        longest = max(ranges, key=lambda prefix: prefix.bits, default=None)
        found.add(int(unnamed if longest is None else engine.prefixes()[str(longest)]))
    return found


def trie_lookup(
    entries: Mapping[EntryKey, PolicyEntry], direction: Direction, peer: int, protocol: int, port: int
) -> EntryKey | None:
    """The kernel, written from its description: scan for the longest prefix twice, compare, deny by default.

    Returns the entry that decides: of equal precedence the longer one, then the one that names the peer.
    """

    def longest(identity: int) -> tuple[int, EntryKey] | None:
        best: tuple[int, EntryKey] | None = None
        for key in entries:
            if key.direction != direction or key.identity != identity:
                continue
            if key.protocol == 0:
                length = 0
            elif key.protocol == protocol and key.port == port & (0xFFFF << (16 - key.port_bits)):
                length = 8 + key.port_bits
            else:
                continue
            if best is None or length > best[0]:
                best = (length, key)
        return best

    hits = [hit for hit in (longest(peer), longest(0)) if hit is not None]
    if not hits:
        return None
    return max((entries[key].precedence, length, key.identity != 0, key) for length, key in hits)[3]


NAMED_AND_NUMBERED: Final = {
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "p", "namespace": "one"},
    "spec": {
        "endpointSelector": {},
        "egressDeny": [
            {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
            {"toPorts": [{"ports": [{"port": "http"}]}]},
        ],
    },
}
"""Of two rules for everybody the one that names the port by what the peer calls it is about the peer, and decides."""


def unique(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of documents with one key the last counts, as in a cluster."""
    return list({(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d for d in found}.values())


@example([NAMED_AND_NUMBERED], False, "one family")
@settings(max_examples=examples(30))
@given(st.lists(documents(), max_size=4), st.booleans(), st.sampled_from(["one family", "both", "dual stack"]))
def test_engine_and_twin_agree_on_every_packet(found: list[dict[str, Any]], local: bool, families: str) -> None:
    """For all policies, identities and flows: compiled map = lookup = direct evaluation of the documents.

    Also which rule decided: `explain`, flow records and the policy map of an endpoint name it.
    """
    kept, is_dual = unique(found), families == "dual stack"
    engine = Engine(PolicyContext(NORTH, local, dual_stack=is_dual, ipv6=families == "both"))
    add_everybody(engine)
    for document in kept:
        engine.set_policy(parse_policy(document, engine.context))
    everybody = {name: dual_stack(who) if is_dual else who for name, who in WHO.items()}
    pods = [who for who in everybody.values() if is_pod(who)]
    twin = Twin(NORTH, NORTH if local else "", kept, pods, is_dual, families == "both")
    numbers = {name: numbers_of(engine, name) for name in everybody}
    for name, subject in everybody.items():
        policy = engine.endpoint_policy(NUMBERS[name], dict(subject.ports))
        for direction in Direction:
            enforced = policy.side(direction).enforced
            for peer_name, peer in everybody.items():
                for protocol, port in FLOWS:
                    expected = twin.decide(Packet(direction.word, subject, peer, protocol, port))
                    for number in numbers[peer_name]:
                        verdict = policy.verdict(direction, number, protocol, port)
                        where = f"{direction.word} of {name} with {peer_name} on {protocol}/{port}: {verdict}"
                        assert verdict.allowed == expected.allowed, where
                        rule = None if verdict.entry is None else tuple(verdict.entry.rule)
                        assert rule == expected.rule, f"{where}\nexpected {expected.rule}"
                        if enforced:
                            assert lookup(policy.entries, direction, number, protocol, port) == verdict, where


@settings(max_examples=examples(15))
@given(st.lists(documents(), max_size=3))
def test_a_trie_scan_finds_what_lookup_finds(found: list[dict[str, Any]]) -> None:
    """The Python lookup is the kernel's: longest prefix per identity, then precedence, length and identity."""
    engine = Engine(PolicyContext(NORTH))
    add_everybody(engine)
    for document in unique(found):
        engine.set_policy(parse_policy(document, engine.context))
    for name in ("a1", "b1", "a2"):
        policy = engine.endpoint_policy(NUMBERS[name], dict(WHO[name].ports))
        for direction in Direction:
            if not policy.side(direction).enforced:
                continue
            for number in NUMBERS.values():
                for protocol, port in FLOWS:
                    expected = trie_lookup(policy.entries, direction, int(number), protocol, port)
                    verdict = lookup(policy.entries, direction, int(number), protocol, port)
                    assert verdict.key == expected
                    assert verdict.entry == (None if expected is None else policy.entries[expected])
                    assert verdict.allowed == (verdict.entry is not None and not verdict.entry.deny)


def state_of(engine: Engine) -> dict[str, object]:
    return {
        name: (policy.ingress_enforced, policy.egress_enforced, dict(policy.entries))
        for name in WHO
        for policy in (engine.endpoint_policy(NUMBERS[name], dict(WHO[name].ports)),)
    }


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Changes of every kind, interleaved with questions."""
    steps: list[tuple[str, Any]] = []
    for _ in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(["policy", "policy", "drop", "identity", "forget", "ports", "ask"]))
        if kind == "policy":
            steps.append((kind, draw(documents())))
        elif kind == "drop":
            steps.append((kind, draw(st.integers(0, 5))))
        else:
            steps.append((kind, draw(st.sampled_from(sorted(name for name in WHO if name not in _RESERVED)))))
    return steps


def apply(engine: Engine, step: tuple[str, Any], held: dict[Any, Any]) -> frozenset[NumericIdentity]:
    kind, value = step
    if kind == "policy":
        policy = parse_policy(value, engine.context)
        held[policy.key] = policy
        return engine.set_policy(policy).affected
    if kind == "drop":
        key = sorted(held)[value % len(held)] if held else None
        return engine.remove_policy(key).affected if key and held.pop(key) else frozenset()
    if kind == "identity":
        return engine.set_identity(NUMBERS[value], labels_of(WHO[value])).affected
    if kind == "forget":
        return engine.remove_identity(NUMBERS[value]).affected
    if kind == "ports":
        return engine.set_pod_ports(value, NUMBERS[value], {"http": (8080 + len(value), 6)}).affected
    engine.endpoint_policy(NUMBERS[value], dict(WHO[value].ports))
    return frozenset()


@settings(max_examples=examples(50))
@given(histories())
def test_any_history_ends_like_a_fresh_build(steps: list[tuple[str, Any]]) -> None:
    """Same inputs, any order, any interruption: same maps; and every endpoint that changed was announced."""
    engine = Engine(PolicyContext(NORTH))
    add_everybody(engine)
    held: dict[Any, Any] = {}
    gone: set[str] = set()
    ports: dict[str, Any] = {}
    before = state_of(engine)
    for step in steps:
        affected = apply(engine, step, held)
        gone = gone - {step[1]} if step[0] == "identity" else gone | ({step[1]} if step[0] == "forget" else set())
        if step[0] == "ports":
            ports[step[1]] = {"http": (8080 + len(step[1]), 6)}
        after = state_of(engine)
        changed = {NUMBERS[name] for name in WHO if before[name] != after[name]}
        assert changed <= affected, step
        before = after
    fresh = Engine(PolicyContext(NORTH))
    for key in sorted(held, reverse=True):
        fresh.set_policy(held[key])
    for name, who in WHO.items():
        if name not in gone:
            fresh.set_identity(NUMBERS[name], labels_of(who))
        if is_pod(who):
            fresh.set_pod_ports(name, NUMBERS[name], ports.get(name, dict(who.ports)))
    for name, defined in ports.items():
        fresh.set_pod_ports(name, NUMBERS[name], defined)
    assert state_of(fresh) == before


@settings(max_examples=examples(30))
@given(st.lists(documents(), min_size=1, max_size=4))
def test_diffs_turn_one_map_into_the_next(found: list[dict[str, Any]]) -> None:
    """Applying each diff to a copy of the map gives the whole map; nothing equal is written again."""
    engine = Engine(PolicyContext(NORTH))
    add_everybody(engine)
    number = NUMBERS["a1"]
    previous = engine.endpoint_policy(number)
    held = dict(previous.entries)
    for document in found:
        engine.set_policy(parse_policy(document, engine.context))
        policy = engine.endpoint_policy(number)
        diff = policy.diff(previous)
        for key in diff.deletes:
            del held[key]
        for key, entry in diff.updates.items():
            assert held.get(key) != entry
            held[key] = entry
        assert held == policy.entries
        previous = policy
