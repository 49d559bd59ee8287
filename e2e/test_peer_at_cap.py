# SPDX-License-Identifier: Apache-2.0
"""A peer that publishes more than it may: what is beyond is named, and changes of everybody else go their way meanwhile."""

from __future__ import annotations

from typing import Final

from e2e.mesh import Mesh
from e2e.peers import hoth, peer_file, peer_seen
from e2e.pulse import Pulse
from e2e.traffic import undisturbed
from meshmodel.keys import Kind
from meshpeer.caps import RECORDS

SURPLUS: Final = 500
LATEST_S: Final = 10.0
HOTH_FIRST: Final = 3 << 16
CONFIG: Final = {"cilium/cluster-config/hoth": {"id": 3, "capabilities": {"maxConnectedClusters": 255}}}
# as fast as its store takes them: a hundred records in each transaction, by etcd's HTTP gateway
FILL: Final = """
import base64, json, sys, urllib.request
first, count, value = int(sys.argv[1]), int(sys.argv[2]), "k8s:name=many;k8s:io.cilium.k8s.policy.cluster=hoth;"
text = lambda words: base64.b64encode(words.encode()).decode()
for start in range(first, first + count, 100):
    keys = [f"cilium/state/identities/v1/id/{n}" for n in range(start, min(start + 100, first + count))]
    body = {"success": [{"request_put": {"key": text(key), "value": text(value)}} for key in keys]}
    asked = urllib.request.Request("http://127.0.0.1:2379/v3/kv/txn", json.dumps(body).encode())
    urllib.request.urlopen(asked).read()
"""


def test_a_peer_at_its_cap_is_named_and_everybody_elses_changes_go_on(whole: Mesh) -> None:
    """More identities than a peer may have, at once, and ten thousand of them again while both clusters ask and change."""
    node, pulse = whole.pod("koornacht", "x-wing")[1], Pulse(whole)
    count = RECORDS[Kind.IDENTITIES] + SURPLUS

    def fill(first: int, number: int) -> None:
        words = ("exec", "hoth-store", "--", "python3", "-c", FILL, str(first), str(number))
        whole.kubectl("koornacht", *words)

    def is_named() -> bool:
        problems = whole.agent_rest("koornacht", node, "/v1/status")["problems"]
        return any("hoth" in text and "identities" in text for text in problems)

    with hoth(whole, "koornacht", CONFIG) as text:
        fill(HOTH_FIRST - SURPLUS, count)
        with undisturbed(whole), peer_file(whole, "koornacht", "hoth", text):
            while not is_named():
                pulse.beat()
            fill(HOTH_FIRST, 10_000)
            for _ in range(3):
                pulse.beat()
            seen = peer_seen(whole, "koornacht", node, "hoth")
            assert peer_seen(whole, "koornacht", node, "tion")["state"] == "ready"
        whole.wait_until("hoth is gone", lambda: len(whole.agent_rest("koornacht", node, "/v1/clusters")) == 1)
    print(seen, pulse.delays_s)
    assert max(pulse.delays_s) < LATEST_S, pulse.delays_s
