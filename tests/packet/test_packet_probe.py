# SPDX-License-Identifier: Apache-2.0
"""The overlay answers questions of other nodes without the stack, and writes down answers to its own."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import ProbeKey, ProbeSize
from agent.datapath.overlay_probe import OVERLAY_PROBE_PORT, question_bytes
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import UDP, Packet
from tests.packet.packet_node import NODE, POD, REDIRECT, REMOTE_ID, REMOTE_NODE, REMOTE_POD, SHOT, STRANGER, PacketNode

pytestmark = pytest.mark.root
NODE_IDENTITY = 6
NONCE = 0x1122334455667788


def answer(size: ProbeSize, nonce: int = NONCE) -> Packet:
    """The other node's program sent our question back."""
    return Packet(REMOTE_NODE, NODE, UDP, OVERLAY_PROBE_PORT, 1, payload=struct.pack("<QII", nonce, size, 0))


def test_a_question_goes_back_to_the_node_it_came_from_with_addresses_and_ports_swapped(node: PacketNode) -> None:
    out = node.overlay(Packet(REMOTE_NODE, NODE, UDP, 1, OVERLAY_PROBE_PORT, payload=b"x" * 16), NODE_IDENTITY)
    assert out.verdict == REDIRECT
    assert (out.packet.source, out.packet.destination) == (NODE, REMOTE_NODE)
    assert (out.packet.source_port, out.packet.destination_port) == (OVERLAY_PROBE_PORT, 1)
    assert out.packet.payload == b"x" * 16
    assert out.events == []


@pytest.mark.parametrize("size", ProbeSize)
def test_the_agents_question_is_understood_and_its_answer_written_down(node: PacketNode, size: ProbeSize) -> None:
    frame = question_bytes(REMOTE_NODE, NODE, NONCE, size, 1450)
    assert node.overlay(frame, NODE_IDENTITY).verdict == REDIRECT
    assert node.overlay(answer(size), NODE_IDENTITY).verdict == SHOT
    value = node.maps.probes.get(ProbeKey(REMOTE_NODE, size))
    assert value is not None
    assert value.nonce == NONCE
    assert value.answered_ns > 0


def test_the_newest_answer_counts_and_no_answer_is_answered(node: PacketNode) -> None:
    for nonce in (1, 2):
        out = node.overlay(answer(ProbeSize.SMALL, nonce), NODE_IDENTITY)
        assert out.verdict == SHOT
        assert out.events == []
    value = node.maps.probes.get(ProbeKey(REMOTE_NODE, ProbeSize.SMALL))
    assert value is not None
    assert value.nonce == 2


def test_a_datagram_between_two_probe_ports_is_taken_for_an_answer_and_ends(node: PacketNode) -> None:
    both = replace(answer(ProbeSize.SMALL), destination_port=OVERLAY_PROBE_PORT)
    assert node.overlay(both, NODE_IDENTITY).verdict == SHOT


@pytest.mark.parametrize(
    ("identity", "packet"),
    [
        (REMOTE_ID, Packet(REMOTE_POD, NODE, UDP, 1, OVERLAY_PROBE_PORT, payload=b"x" * 16)),
        (NODE_IDENTITY, Packet(REMOTE_NODE, POD, UDP, 1, 53, payload=b"x" * 16)),
        (NODE_IDENTITY, Packet(REMOTE_NODE, NODE, UDP, 1, 53, payload=b"x" * 16)),
    ],
    ids=["a pod asks", "for a pod", "another port"],
)
def test_nothing_else_is_answered(node: PacketNode, identity: int, packet: Packet) -> None:
    out = node.overlay(packet, identity)
    assert out.packet.source != NODE
    assert list(node.maps.probes.items()) == []


def test_a_stranger_is_not_answered(node: PacketNode) -> None:
    question = Packet(STRANGER, NODE, UDP, 1, OVERLAY_PROBE_PORT, payload=b"x" * 16)
    assert node.overlay(question, NODE_IDENTITY, outer=STRANGER).drop is Reason.UNKNOWN_SENDER


def test_an_answer_without_its_bytes_is_not_written_down(node: PacketNode) -> None:
    short = replace(answer(ProbeSize.SMALL), payload=b"")
    assert node.overlay(short, NODE_IDENTITY).verdict == SHOT
    assert list(node.maps.probes.items()) == []
