# SPDX-License-Identifier: Apache-2.0
"""An agent that is killed after any write of a change lets no packet through that neither the old nor the new policies allow.

The next agent finishes the change. A pod's first packet is judged by its policies or dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from agent.datapath.layout import AddressKey, IfindexKey
from agent.datapath.reasons import Reason
from agent.ipcache.ops import IpcacheTarget
from agent.policy.ops import EndpointTarget
from agent.policy.ranges import WriteProgress
from agent.policy.takeover import take_over_ranges
from meshmodel.identity import is_of_range
from meshmodel.labels import Labels
from meshpolicy.evaluate import ALLOWED, DENIED
from tests.packet.packet_node import POD, PacketNode
from tests.packet.test_packet_documents import DENIALS, DocumentWorld, flows, outcome, said
from tests.packet.test_packet_nodes import _Attachments

pytestmark = pytest.mark.root
CHANGES = [
    ("a port", "empty rules"),
    ("empty rules", "deny over allow"),
    ("deny over allow", "own cluster"),
    ("CIDR but", "deny addresses"),
    ("a group denied", "a name of the pod's own"),
    ("a name of each peer", "nodes denied"),
    ("nodes denied", "a group"),
    ("Admin accepts", "Baseline denies"),
    ("empty rules", "deny addresses"),
    ("deny addresses", "CIDR but"),
    ("deny addresses", "a group denied"),
    ("a group", "one of the excepted"),
]
ROUNDS = 8
BETWEEN = (*DENIALS, Reason.UNKNOWN_IDENTITY)


class Killed(BaseException):
    """The agent ends here; nothing catches it."""


class _Mortal:
    """A map that takes so many changes of all maps together, one by one, and then nothing any more."""

    def __init__(self, real: Any, left: list[int]) -> None:
        self._real, self._left = real, left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def update(self, items: Sequence[Any]) -> None:
        held = dict(self._real.items())  # to ask a prefix map for a key would give the shorter one's value
        for key, value in items:
            if held.get(key) != value:
                self._spend()
                self._real.update([(key, value)])

    def delete(self, keys: Sequence[Any]) -> None:
        for key in keys:
            self._spend()
            self._real.delete([key])

    def _spend(self) -> None:
        if not self._left[0]:
            raise Killed
        self._left[0] -= 1


class _Rows:
    def __init__(self, rows: Mapping[str, Any]) -> None:
        self._rows = rows

    def keys(self) -> Any:
        return self._rows.keys()

    def get(self, key: str) -> Any:
        return self._rows.get(key)


class Agent:
    """An agent over the maps of the packet node, which says after each step that everything is written."""

    def __init__(self, node: PacketNode, name: str, *, is_pod_known: bool = True) -> None:
        self._left, self._has_begun = [1 << 30], False
        names = ("ipcache", "policy", "endpoints_by_address", "endpoints_by_ifindex")
        self._maps = dataclasses.replace(node.maps, **{n: _Mortal(getattr(node.maps, n), self._left) for n in names})
        self._world = DocumentWorld(node, WriteProgress(lambda: self._has_begun, lambda: True, lambda: True))
        self._target, self._addresses = EndpointTarget(self._maps, _Attachments()), IpcacheTarget(self._maps.ipcache)
        if is_pod_known:
            self._target.restore()
        ranges = [key.prefix for key, value in node.maps.ipcache.items() if is_of_range(value.identity)]
        self._world.compiler.restore_prefixes(ranges)
        self.set_documents(name)

    def set_documents(self, name: str) -> None:
        self._world.set_documents(name)

    def renumber_neighbour(self, identity: int, labels: Labels) -> None:
        """The neighbour has other labels from now on."""
        self._world.renumber_neighbour(identity, labels)

    def renumber_subject(self, identity: int, labels: Labels) -> None:
        """The pod itself has other labels from now on."""
        self._world.renumber_subject(identity, labels)

    def die_after(self, writes: int) -> None:
        self._left[0] = writes

    def work(self) -> None:
        """Until nothing changes any more. Verdicts are written before addresses, at the first write after them."""
        for _ in range(ROUNDS):
            self._world.compiler.step()
            if not self._has_begun:
                take_over_ranges(self._target, self._maps.ipcache, self._world.db.prefixes.rows())
                self._write_addresses()
            self._write_verdicts()
            self._write_addresses()
            self._has_begun = True

    def _write_verdicts(self) -> None:
        verdicts = {row.endpoint.address: row for row in self._world.db.verdicts.rows()}
        list(self._target.prune(_Rows(verdicts)))
        assert not self._target.update(list(verdicts.values()))

    def _write_addresses(self) -> None:
        prefixes = {row.prefix: row for row in self._world.db.prefixes.rows()}
        list(self._addresses.prune(_Rows(prefixes)))
        assert not self._addresses.update(list(prefixes.values()))


def killed_after_each_write(node: PacketNode, old: str, new: str) -> Iterator[None]:
    """The node with the old documents, its agent killed after no write of the change to the new ones, after one, ..."""
    writes = 0
    while True:
        node.reset()
        agent = Agent(node, old)
        agent.work()
        agent.set_documents(new)
        agent.die_after(writes)
        try:
            agent.work()
        except Killed:
            yield
            writes += 1
        else:
            return


def passed(node: PacketNode, reasons: Sequence[Reason], first: int = 0) -> dict[tuple[Any, ...], str]:
    """What becomes of new connections; `first` tells them from those before."""
    return {tuple(flow): outcome(node, first + n, *flow, reasons=reasons) for n, flow in enumerate(flows())}


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_kill_in_the_middle_of_a_change_opens_nothing_and_the_next_agent_finishes_it(
    node: PacketNode, old: str, new: str
) -> None:
    before, after = said(old), said(new)
    kills = 0
    for _ in killed_after_each_write(node, old, new):
        for flow, result in passed(node, BETWEEN).items():
            assert result == DENIED or ALLOWED in (before[flow], after[flow]), (kills, flow)
        Agent(node, new).work()
        assert passed(node, DENIALS, 500) == after, kills
        kills += 1
    assert kills > 2


@pytest.mark.parametrize("new", ["a port", "a group denied", "nodes"])
def test_the_first_packets_of_a_pod_are_judged_by_its_policies_or_dropped(node: PacketNode, new: str) -> None:
    """The pod has just got its interface; the node knows policies and addresses."""
    after, kills = said(new), 0
    while True:
        node.reset()
        agent = Agent(node, new)
        agent.work()
        value = node.maps.endpoints_by_address.get(AddressKey(POD))
        assert value is not None
        agent = Agent(node, new, is_pod_known=False)
        node.maps.endpoints_by_address.delete([AddressKey(POD)])
        node.maps.endpoints_by_ifindex.delete([IfindexKey(value.ifindex)])
        node.maps.policy.delete([key for key, _ in node.maps.policy.items()])
        agent.die_after(kills)
        try:
            agent.work()
        except Killed:
            kills += 1
        else:
            break
        for flow, result in passed(node, tuple(Reason)).items():
            assert result == DENIED or after[flow] == ALLOWED, (kills, flow)
    assert kills > 2
    assert passed(node, DENIALS, 500) == after
