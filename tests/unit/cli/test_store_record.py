# SPDX-License-Identifier: Apache-2.0
"""Every kind of record in words, and what readers would refuse shown with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from clustermesh_cli.store_record import Known, decode, one_line, read_configs

GOLDEN = Path(__file__).parents[2] / "golden" / "wire"
OWN = b'{"id":1,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}'
TION = b'{"id":2,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255}}'
KNOWN = read_configs([("cilium/cluster-config/tion", TION), ("cilium/cluster-config/koornacht", OWN)])
SERVICE = (
    b'{"cluster":"tion","namespace":"shop","name":"cart","frontends":{},"backends":{"10.2.0.1":'
    b'{"http":{"Protocol":"TCP","Port":80}}},"labels":{},"selector":{},"includeExternal":true,"shared":true,"clusterID":2}'
)
LABELS = b"k8s:app=cart;k8s:io.cilium.k8s.policy.cluster=koornacht;"


def test_a_config_with_an_impossible_number_spoils_its_own_records_only() -> None:
    odd = TION.replace(b"255", b"7")
    known = read_configs([("cilium/cluster-config/koornacht", OWN), ("cilium/cluster-config/tion", odd)])
    spoilt = decode("cilium/cache/services/v1/tion/shop/cart", SERVICE, known)
    assert "bad-cluster-config" in spoilt.problem
    assert decode("cilium/state/identities/v1/id/65537", LABELS, known).problem == ""


def test_the_cluster_whose_config_is_not_a_mirrors_is_our_own() -> None:
    assert KNOWN.own == "koornacht"
    assert {name: config.id for name, config in KNOWN.configs.items()} == {"koornacht": 1, "tion": 2}


def test_records_are_told_apart_by_their_keys() -> None:
    mirrored = decode("cilium/cache/services/v1/tion/shop/cart", SERVICE, KNOWN)
    assert (mirrored.kind, mirrored.cluster, mirrored.problem) == ("services", "tion", "")
    assert mirrored.value["backends"] == {"10.2.0.1": {"http": {"Protocol": "TCP", "Port": 80}}}
    identity = decode("cilium/state/identities/v1/id/65540", LABELS, KNOWN)
    assert identity.value == {"id": 65540, "labels": [text for text in LABELS.decode().split(";") if text]}
    config = decode("cilium/cluster-config/tion", TION, KNOWN)
    assert (config.kind, config.cluster, config.value["id"]) == ("cluster-config", "tion", 2)
    canary = decode("cilium/synced/tion/cilium/cache/ip/v1", b"2026-01-01T00:00:00Z", KNOWN)
    assert (canary.kind, canary.cluster, canary.value) == ("canary", "tion", "2026-01-01T00:00:00Z")
    assert decode("cilium/.heartbeat", b"now", KNOWN).kind == "heartbeat"


def test_an_endpoint_slice_is_unpacked() -> None:
    from meshmodel.endpointslice import ClusterEndpointSlice, SliceEndpoint, SlicePort
    from meshmodel.names import ClusterId, ClusterName

    record = ClusterEndpointSlice(
        cluster=ClusterName("tion"),
        cluster_id=ClusterId(2),
        namespace="shop",
        name="cart-x",
        labels={"kubernetes.io/service-name": "cart"},
        endpoints=(SliceEndpoint(addresses=("10.2.0.1",), ready=True),),
        ports=(SlicePort(name="http", protocol="TCP", port=80),),
    ).encode()
    decoded = decode("cilium/cache/endpointslices/v1/tion/shop/cart-x", record, KNOWN)
    assert decoded.problem == ""
    assert "10.2.0.1" in one_line(decoded)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cilium/cache/services/v1/tion/shop/other", SERVICE, "cart"),
        ("cilium/state/identities/v1/id/70", LABELS, "not in 65536-131071"),
        ("cilium/state/identities/v1/id/65540", b"k8s:app=cart;", "no label io.cilium.k8s.policy.cluster"),
        ("cilium/state/ip/v1/default/<nil>", b'{"IP":""}', "nil"),
        ("cilium/cache/nodes/v1/mars/n1", b"{}", "nothing says which id cluster 'mars' has"),
        ("cilium/cluster-config/mars", b"\xff", "cluster-config"),
        ("cilium/cache/endpointslices/v1/tion/shop/x", b"not zstd", ""),
    ],
)
def test_what_readers_refuse_is_shown_with_the_reason(key: str, value: bytes, words: str) -> None:
    decoded = decode(key, value, KNOWN)
    assert decoded.problem
    assert words in decoded.problem
    assert "!!" in one_line(decoded)


def test_a_key_that_is_no_record_is_shown_as_it_is() -> None:
    decoded = decode("cilium/state/identities/v1/value/k8s:a=b;/1.2.3.4", b"70000", Known())
    assert (decoded.kind, decoded.value, decoded.problem) == ("unknown", 70000, "")
