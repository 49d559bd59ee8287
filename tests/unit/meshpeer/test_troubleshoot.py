# SPDX-License-Identifier: Apache-2.0
"""What troubleshooting reads of a peer's store, step by step, and which step is red."""

from __future__ import annotations

import pytest

from meshkit.clock import ManualClock
from meshmodel.keys import Kind
from meshpeer.troubleshoot import Trial, try_store
from tests.unit.meshpeer.peer_store import PeerStore


async def tried(peer: PeerStore) -> tuple[bool, str]:
    lines: list[str] = []
    is_ok = await try_store(peer.client, peer.name, Trial(5.0, lines.append, lambda _host: None))
    return is_ok, "".join(lines)


@pytest.mark.runbook("peer-syncing")
async def test_a_kind_that_the_peer_has_not_published_yet_is_red_and_named() -> None:
    peer = PeerStore("south", 2, ManualClock())
    is_ok, said = await tried(peer)
    assert (is_ok, "heartbeat not found" in said, "no configuration of cluster south" in said) == (False, True, True)
    await peer.beat()
    await peer.config()
    await peer.canaries(Kind.NODES, Kind.IDENTITIES, Kind.SERVICES)
    is_ok, said = await tried(peer)
    assert (is_ok, "heartbeat found" in said) == (False, True)
    (line,) = [line for line in said.splitlines() if "not published yet" in line]
    assert ("ip" in line, "nodes" in line, "services" in line) == (True, False, False)
    await peer.canaries()
    is_ok, said = await tried(peer)
    assert (is_ok, "canaries of nodes" in said, "not published" in said) == (True, True, False)
