# SPDX-License-Identifier: Apache-2.0
"""The probe goes the pods' way: what stops their packets between two nodes stops it, and what does not does not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from agent.datapath.flow_layout import ProbeSize
from agent.datapath.overlay_probe import OverlayProbe
from tests.integration.datapath.datapath_topology import UNDERLAY_MTU, Node, Topology
from tests.packet.datapath_host import inside, run

pytestmark = pytest.mark.root
BOTH = frozenset(ProbeSize)
ROUNDS = itertools.count(1)


@pytest.fixture
def asker(clean: Topology) -> Iterator[OverlayProbe]:
    """The first node of cluster 1."""
    node = clean.nodes[0]
    with inside(node.namespace):
        probe = node.datapath.overlay_probe(node.maps.probes)
    try:
        yield probe
    finally:
        probe.close()


def answers(probe: OverlayProbe, asked: list[str], expected: dict[str, frozenset[ProbeSize]]) -> None:
    """The nodes answer this and nothing more within a while."""
    number = next(ROUNDS)
    probe.ask(asked, number)
    deadline = time.monotonic() + 3
    while (found := sizes_of(probe, number)) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    if not expected:
        time.sleep(0.3)  # long enough for an answer on this machine's own links
        found = sizes_of(probe, number)
    assert found == expected
    assert all(0 < rtt_s < 3 for sizes in probe.answers(number).values() for rtt_s in sizes.values())


def sizes_of(probe: OverlayProbe, number: int) -> dict[str, frozenset[ProbeSize]]:
    return {node: frozenset(sizes) for node, sizes in probe.answers(number).items()}


def in_namespace(node: Node, *words: str) -> None:
    run("ip", "netns", "exec", node.namespace, *words)


def test_nodes_of_the_other_cluster_answer_small_and_full_questions(clean: Topology, asker: OverlayProbe) -> None:
    others = [node.address for node in clean.nodes if node.cluster == 2]
    answers(asker, others, dict.fromkeys(others, BOTH))
    assert set(others) <= asker.known()
    asker.forget(others[:1])
    assert set(others) - asker.known() == set(others[:1])


def test_a_dropped_vxlan_port_silences_the_node_while_its_other_ports_answer(
    clean: Topology, asker: OverlayProbe
) -> None:
    target, other = (node for node in clean.nodes if node.cluster == 2)
    rule = "add rule inet cut in udp dport 8472 drop"
    for words in (
        "add table inet cut",
        "add chain inet cut in { type filter hook input priority 0 ; }",
        rule,
    ):
        in_namespace(target, "nft", words)
    try:
        answers(asker, [target.address, other.address], {other.address: BOTH})
        in_namespace(clean.nodes[0], "ping", "-c", "1", "-W", "1", target.address)
    finally:
        in_namespace(target, "nft", "delete table inet cut")
    answers(asker, [target.address], {target.address: BOTH})


def test_a_smaller_mtu_on_the_way_leaves_the_small_answer_only(clean: Topology, asker: OverlayProbe) -> None:
    target = next(node for node in clean.nodes if node.cluster == 2)
    asking = clean.nodes[0]
    in_namespace(asking, "ip", "link", "set", "eth0", "mtu", "1400")
    try:
        answers(asker, [target.address], {target.address: frozenset({ProbeSize.SMALL})})
    finally:
        in_namespace(asking, "ip", "link", "set", "eth0", "mtu", str(UNDERLAY_MTU))
    answers(asker, [target.address], {target.address: BOTH})


def test_a_node_whose_overlay_program_is_gone_is_silent(clean: Topology, asker: OverlayProbe) -> None:
    target = clean.nodes[-1]
    in_namespace(target, "ip", "link", "set", "mesh0", "down")
    try:
        answers(asker, [target.address], {})
    finally:
        in_namespace(target, "ip", "link", "set", "mesh0", "up")
    answers(asker, [target.address], {target.address: BOTH})
