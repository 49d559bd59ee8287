# SPDX-License-Identifier: Apache-2.0
"""`verdict_changes` tells every packet that two engines judge differently, and no other."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_strategies import NORTH, WHO, documents
from test_policy_twin import FLOWS, NUMBERS, add_everybody, is_pod, unique

from meshpolicy import Direction, Engine, PolicyContext, parse_policy
from meshpolicy.port import PROTOCOL_NUMBERS
from meshpolicy.verdict_changes import verdict_changes
from tests.support.effort import examples


def build(found: list[dict[str, Any]]) -> Engine:
    engine = Engine(PolicyContext(NORTH))
    add_everybody(engine)
    for document in unique(found):
        engine.set_policy(parse_policy(document, engine.context))
    return engine


def holds(text: str, protocol: int, port: int) -> bool:
    """Whether the packet is among those that a text such as 80-81/TCP means."""
    ports, slash, name = text.rpartition("/")
    if text == "everything":
        return True
    if name == "other protocols":
        return protocol not in PROTOCOL_NUMBERS.values()
    if PROTOCOL_NUMBERS.get(name, -1) != protocol:
        return False
    first, _, last = ports.partition("-")
    return not slash or int(first) <= port <= int(last or first)


@settings(max_examples=examples(20))
@given(st.lists(documents(), max_size=3), st.lists(documents(), max_size=3))
def test_every_changed_packet_is_told_and_no_other(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    before, after = build(old), build(new)
    subjects = [NUMBERS[name] for name, who in WHO.items() if is_pod(who)]
    ports = {NUMBERS[name]: dict(who.ports) for name, who in WHO.items()}
    told = verdict_changes(before, after, subjects, ports)
    for subject in subjects:
        policies = [engine.endpoint_policy(subject, ports[subject]) for engine in (before, after)]
        for direction in Direction:
            for name, peer in NUMBERS.items():
                both = (
                    int(peer),
                    int(peer),
                )  # what is told of a range that was, or becomes, part of the world is not of it
                mine = [
                    c
                    for c in told
                    if (c.direction, c.subject) == (direction, subject) and (c.peer.before, c.peer.after) == both
                ]
                for protocol, port in FLOWS:
                    if protocol in (2, 47, 58):
                        continue  # named one by one only where a rule names them
                    verdicts = [policy.verdict(direction, int(peer), protocol, port).allowed for policy in policies]
                    is_told = any(holds(text, protocol, port) for change in mine for text in change.packets)
                    assert is_told == (verdicts[0] != verdicts[1]), (
                        f"{direction.word} {subject} {name} {protocol}/{port}"
                    )
