# SPDX-License-Identifier: Apache-2.0
"""A peer that publishes more bytes than an agent takes: it is cut off and named, and everything else of the agent goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from meshmodel.names import ClusterName
from tests.integration.agent.agent_process_world import REMOTE_IDENTITY, world
from tests.integration.kvstore.private_etcd import needs_etcd
from tests.support import record_keys

pytestmark = needs_etcd
SOUTH: Final = ClusterName("south")
CAP: Final = 1 << 20
COUNT: Final = 128  # of 16 KiB: twice what is taken


def flood() -> dict[bytes, bytes | None]:
    found: dict[bytes, bytes | None] = {}
    for number in range(COUNT):
        ip = f"10.2.0.{number + 100}"
        wire = {"IP": ip, "Mask": None, "HostIP": "172.18.0.8", "ID": int(REMOTE_IDENTITY), "Metadata": "x" * 16_384}
        found[record_keys.ip_key(SOUTH, ip)] = json.dumps(wire).encode()
    return found


async def test_a_peer_beyond_its_bytes_is_cut_off_and_named_and_the_agent_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        agent = mesh.agent
        await agent.stop()
        agent.memory_bytes = 3 * CAP  # a peer has two thirds of a half
        await agent.start()
        await mesh.service(**{"service.cilium.io/global": "true"})
        await mesh.backends("10.1.0.5")
        await mesh.connect()
        await mesh.used("10.1.0.5:8080", "10.2.0.5:9090")
        records = list(flood().items())
        for start in range(0, COUNT, 32):
            await mesh.peer.client.apply(dict(records[start : start + 32]))
        (peer,) = await agent.until("/v1/clusters", lambda peers: any(p["truncated"] for p in peers))
        (peer,) = await agent.until("/v1/clusters", lambda peers: peers[0]["truncated"]["ip"]["total"] >= COUNT / 2)
        cut_off = peer["truncated"]["ip"]
        assert (cut_off["limit"], len(cut_off["first"]), peer["ready"]) == (f"{CAP} bytes", 10, True)
        assert 0 < peer["num-endpoints"] <= CAP // 16_384
        assert any("publishes more than is taken: ip" in said for said in peer["warnings"])
        await mesh.backends("10.1.0.6")  # ours
        await mesh.used("10.1.0.6:8080", "10.2.0.5:9090")
        assert (await agent.get("/v1/status"))["peers"][0]["name"] == "south"
        await agent.until("/readyz", lambda text: text.startswith("Ready"))
