# SPDX-License-Identifier: Apache-2.0
"""What troubleshooting reads of a peer's store, step by step, and which step is red."""

from __future__ import annotations

import pytest

from meshapi.trial import EndpointTrial, PeerTrial, TrialFinding, TrialOutcome, TrialStep
from meshkit.clock import ManualClock
from meshmodel.keys import Kind
from meshpeer.trial_text import peer_lines
from meshpeer.troubleshoot import try_store
from tests.unit.meshpeer.peer_store import PeerStore


async def tried(peer: PeerStore) -> dict[TrialStep, tuple[TrialOutcome, str]]:
    return {found.step: (found.outcome, found.detail) for found in await try_store(peer.client, peer.name, 5.0)}


@pytest.mark.runbook("peer-syncing")
async def test_a_kind_that_the_peer_has_not_published_yet_is_red_and_named() -> None:
    peer = PeerStore("south", 2, ManualClock())
    assert await tried(peer) == {
        TrialStep.HEARTBEAT: (TrialOutcome.FAIL, "heartbeat not found: its publisher does not run"),
        TrialStep.CONFIGURATION: (
            TrialOutcome.FAIL, "no configuration of cluster south: the name differs, or it is not published yet",
        ),
    }  # fmt: skip
    await peer.beat()
    await peer.config()
    await peer.canaries(Kind.NODES, Kind.IDENTITIES, Kind.SERVICES)
    found = await tried(peer)
    outcome, said = found[TrialStep.CANARIES]
    assert (found[TrialStep.HEARTBEAT], outcome) == ((TrialOutcome.OK, "heartbeat found"), TrialOutcome.FAIL)
    assert said.startswith("not published yet: ")
    assert ("ip" in said, "nodes" in said, "services" in said) == (True, False, False)
    await peer.canaries()
    found = await tried(peer)
    assert {outcome for outcome, _ in found.values()} == {TrialOutcome.OK}
    assert found[TrialStep.CANARIES][1].startswith("canaries of nodes")


def test_nothing_of_a_peer_commands_the_terminal_or_makes_a_line() -> None:
    name = "CN=\x1b[2J\nOK all is well"
    server = TrialFinding(TrialStep.SERVER_CERTIFICATE, TrialOutcome.INFO, name)
    trial = PeerTrial(name="south", path="/peers/south", endpoints=[EndpointTrial("https://[::1]:1", [server])])
    (line,) = [line for line in peer_lines(trial) if "CN=" in line]
    assert line == "     (i) server certificate: CN=\\u001b[2J\\nOK all is well"
