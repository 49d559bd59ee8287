# SPDX-License-Identifier: Apache-2.0
"""A peer that publishes more bytes than it may, and again and again: it is cut off, slowed and named, and nobody else waits.

In a lab of its own, whose stores are small: what a peer may have is a part of them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from e2e.mesh import SYSTEM, Mesh, bring_up, tear_down
from e2e.peers import hoth, mirrored
from e2e.pulse import Pulse
from e2e.traffic import undisturbed
from meshapi.installed import MIRROR_SECRET
from tests.support.labs import lab_name, remove_abandoned

QUOTA_MIB: Final = 64
RECORD_BYTES: Final = 20_000
COUNT: Final = 1_200  # half as many bytes again as a peer may have: a quarter of the store
LATEST_S: Final = 10.0
CONFIG: Final = {"cilium/cluster-config/hoth": {"id": 3, "capabilities": {"maxConnectedClusters": 255}}}
# forty records in each transaction, by etcd's HTTP gateway
FILL: Final = f"""
import base64, json, sys, urllib.request
padding = sys.argv[1] * {RECORD_BYTES}
text = lambda words: base64.b64encode(words.encode()).decode()
def record(n):
    ip = f"10.77.{{n >> 8}}.{{n & 255}}"
    value = json.dumps({{"IP": ip, "Mask": None, "HostIP": "", "ID": (3 << 16) + 7, "Metadata": padding}})
    return {{"request_put": {{"key": text("cilium/state/ip/v1/default/" + ip), "value": text(value)}}}}
for start in range(0, {COUNT}, 40):
    body = {{"success": [record(n) for n in range(start, start + 40)]}}
    urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:2379/v3/kv/txn", json.dumps(body).encode())).read()
"""


@pytest.fixture(scope="module")
def small_stores() -> Iterator[Mesh]:
    remove_abandoned()
    name = lab_name("e2e", "s")
    try:
        yield bring_up(name, settings=(f"apiserver.etcd-quota-mib={QUOTA_MIB}",))
    finally:
        tear_down(name)


@contextmanager
def copied(mesh: Mesh, text: str) -> Iterator[None]:
    """The apiserver of koornacht copies hoth during the block."""

    def write(value: str | None) -> None:
        patch = json.dumps({"data": {"hoth": value}})
        mesh.kubectl("koornacht", "patch", "secret", "-n", SYSTEM, MIRROR_SECRET, "--type=merge", "-p", patch)

    try:
        write(base64.b64encode(text.encode()).decode())
        yield
    finally:
        write(None)


def test_a_peer_at_its_cap_of_bytes_is_named_and_everybody_elses_changes_go_on(small_stores: Mesh) -> None:
    mesh, pulse = small_stores, Pulse(small_stores)

    def fill(letter: str) -> None:
        mesh.kubectl("koornacht", "exec", "hoth-store", "--", "python3", "-c", FILL, letter)

    def said(words: str) -> bool:
        pulse.beat()
        return any(words in text for text in mirrored(mesh, "koornacht", "hoth")["warnings"])  # type: ignore[attr-defined]

    with hoth(mesh, "koornacht", CONFIG) as text:
        fill("a")
        with undisturbed(mesh), copied(mesh, text):
            mesh.wait_until("it is cut off", lambda: said("publishes more than is taken: ip"), 60)
            seen = mirrored(mesh, "koornacht", "hoth")
            assert seen["truncated"]["ip"]["limit"] == f"{QUOTA_MIB * (1 << 18)} bytes"  # type: ignore[index]
            fill("b")
            mesh.wait_until("it is slowed", lambda: said("publishes faster than is taken: ip"), 60)
            assert mirrored(mesh, "koornacht", "tion")["state"] == "ready"
    print(seen, pulse.delays_s)
    assert max(pulse.delays_s) < LATEST_S, pulse.delays_s
    assert mesh.clustermesh("status", "--context", "kind-koornacht", check=False).returncode in (0, 3)
