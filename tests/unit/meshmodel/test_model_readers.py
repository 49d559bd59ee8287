# SPDX-License-Identifier: Apache-2.0
"""Which keys each kind of reader may read, decided in one place, and every key spelled in one place."""

from __future__ import annotations

import re
from pathlib import Path

from clustermesh_apiserver.serve.access import mesh_roles
from meshmodel import keys, private_keys
from meshmodel.keys import Kind
from meshmodel.readers import ADMIN_READS, Readable, agent_reads, peer_reads
from tests.support import record_keys

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ("kvstore", "certs", "kube", "meshkit", "meshpolicy", "clustermesh_apiserver", "agent", "clustermesh_cli")
A_KEY = re.compile(r"""["'](cilium/(state|cache|synced|cluster-config|\.|kvstoremesh)|clustermesh/private)""")


def is_read(readable: Readable, key: bytes) -> bool:
    return key in readable.keys or key.startswith(readable.prefixes)


def test_peers_read_public_records_of_the_one_cluster_and_agents_read_all_that_agents_follow() -> None:
    for kind in Kind:
        public = keys.prefix_of(kind, "north") + b"x"
        assert is_read(peer_reads("north"), public)
        assert is_read(agent_reads(), public)
        assert not is_read(peer_reads("north"), keys.prefix_of(kind, "north", cached=True) + b"x")
        assert is_read(agent_reads(), keys.prefix_of(kind, "south", cached=True) + b"x")
        assert is_read(peer_reads("north"), keys.canary_key("north", kind))
        assert not is_read(peer_reads("north"), keys.canary_key("northern", kind))
        assert is_read(agent_reads(), keys.canary_key("south", kind, cached=True))
    for key in (keys.HEARTBEAT, keys.cluster_config_key("north")):
        assert is_read(peer_reads("north"), key)
        assert is_read(agent_reads(), key)
    for key in (keys.cluster_config_key("south"), keys.cluster_config_key("northern"), keys.MIRROR_LOCK_PREFIX):
        assert not is_read(peer_reads("north"), key)


def test_private_records_are_read_by_agents_and_the_administrator_only() -> None:
    for kind in private_keys.PRIVATE_KINDS:
        for key in (private_keys.prefix_of(kind) + b"x", private_keys.canary_key(kind)):
            assert not is_read(peer_reads("north"), key)
            assert is_read(agent_reads(), key)
            assert is_read(ADMIN_READS, key)


def test_etcd_has_the_same_roles_as_the_facade_grants() -> None:
    remote, local = mesh_roles("north")
    assert (remote.name, remote.prefixes, remote.keys) == (
        "remote",
        peer_reads("north").prefixes,
        peer_reads("north").keys,
    )
    assert (local.name, local.prefixes, local.keys) == ("local", agent_reads().prefixes, agent_reads().keys)


def test_keys_are_spelled_in_the_model_only() -> None:
    """No shipped module but the model's writes a key of the store as text."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for package in SHIPPED
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if A_KEY.search(line)
    ]
    assert found == []


def test_a_private_key_is_located_as_the_public_one_of_its_kind() -> None:
    found = private_keys.locate(private_keys.prefix_of(Kind.IPS) + b"10.1.0.9")
    assert found == keys.locate(record_keys.ip_key("", "10.1.0.9"))
    assert private_keys.locate(record_keys.ip_key("", "10.1.0.9")) is None
