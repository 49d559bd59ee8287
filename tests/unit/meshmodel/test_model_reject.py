# SPDX-License-Identifier: Apache-2.0
"""T2-T6: what is refused, and by which reason it is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from meshmodel import cluster_config, endpointslice, identity_record, ip, node, service, serviceexport
from meshmodel.endpointslice import ClusterEndpointSlice, SliceEndpoint, SlicePort
from meshmodel.errors import RecordError
from meshmodel.identity import identity_range
from meshmodel.names import ClusterId, ClusterName
from meshmodel.wire import MAXIMUM_BYTES

Edit = Callable[[dict[str, Any]], object]


def base_service() -> dict[str, Any]:
    return {
        "cluster": "tion",
        "namespace": "tour",
        "name": "tickets",
        "frontends": {"172.20.2.3": {"web": {"Protocol": "TCP", "Port": 80}}},
        "backends": {"10.2.1.7": {"web": {"Protocol": "TCP", "Port": 8080}}},
        "labels": {},
        "selector": {},
        "includeExternal": True,
        "shared": True,
        "clusterID": 2,
    }


def decode_service(document: object, key: str = "tour/tickets") -> service.ClusterService:
    return service.decode(key, json.dumps(document).encode(), cluster="tion", cluster_id=2)


def reason_of(decode: Callable[[], object]) -> str:
    with pytest.raises(RecordError) as caught:
        decode()
    assert caught.value.key
    assert len(str(caught.value)) < 1024
    return caught.value.reason


PORT = {"web": {"Protocol": "TCP", "Port": 80}}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        pytest.param(lambda d: d.update(cluster="koornacht"), "cluster-mismatch", id="of another cluster"),
        pytest.param(lambda d: d.update(clusterID=1), "id-mismatch", id="with another id"),
        pytest.param(lambda d: d.pop("clusterID"), "id-mismatch", id="without an id"),
        pytest.param(lambda d: d.update(name="other"), "key-mismatch", id="under another name"),
        pytest.param(lambda d: d.update(namespace=""), "key-mismatch", id="without a namespace"),
        pytest.param(lambda d: d.update(frontends={"": {}}), "bad-address", id="ExternalName as Cilium writes it"),
        pytest.param(lambda d: d.update(frontends={"not-an-ip": PORT}), "bad-address", id="frontend is no address"),
        pytest.param(lambda d: d.update(backends={"10.2.1.256": PORT}), "bad-address", id="octet too large"),
        pytest.param(lambda d: d.update(backends={"10.2.1.07": PORT}), "bad-address", id="leading zero"),
        pytest.param(lambda d: d.update(backends={"10.2.1.7\n": PORT}), "bad-address", id="trailing newline"),
        pytest.param(lambda d: d.update(backends={"fe80::1%eth0": PORT}), "bad-address", id="IPv6 zone"),
        pytest.param(
            lambda d: d.update(backends={"10.2.1.7": {"web": {"Protocol": "TCP", "Port": 65536}}}),
            "bad-field",
            id="port too large",
        ),
        pytest.param(
            lambda d: d.update(backends={"10.2.1.7": {"web": {"Protocol": "TCP", "Port": -1}}}),
            "bad-field",
            id="negative port",
        ),
        pytest.param(lambda d: d.update(backends=["10.2.1.7"]), "bad-field", id="list for a map"),
        pytest.param(lambda d: d.update(shared="yes"), "bad-field", id="text for a bool"),
        pytest.param(lambda d: d.update(clusterID=2.5), "bad-field", id="fraction for an id"),
        pytest.param(lambda d: d.update(clusterID="2"), "bad-field", id="text for an id"),
    ],
)
def test_a_service_is_refused(edit: Edit, reason: str) -> None:
    document = base_service()
    edit(document)
    assert reason_of(lambda: decode_service(document)) == reason


def test_a_service_with_unknown_fields_nulls_and_odd_address_forms_is_read() -> None:
    document = base_service() | {"future": {"a": [1]}, "hostnames": None, "zones": None, "labels": None}
    document["backends"] = {"FD00:0::7": PORT, "::ffff:10.2.1.9": None}
    found = decode_service(document)
    assert dict(found.backends) == {"fd00::7": {"web": service.RecordPort("TCP", 80)}, "10.2.1.9": {}}
    assert decode_service(base_service() | {"shared": False}).shared is False


INVALID_UTF8 = b'{"name":"\xff","Name":"\xff","IP":"\xff","id":"\xff"}'


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff\xfe", b"null", b"[]", b"{", b'{"cluster":', INVALID_UTF8, b"[" * 100_000, b'{"x":' * 100_000],
)
def test_what_is_no_record_is_refused_by_every_json_decoder(value: bytes) -> None:
    ids = identity_range(2)
    reasons = {
        reason_of(lambda: service.decode("a/b", value, cluster="tion", cluster_id=2)),
        reason_of(lambda: node.decode("n", value, cluster="tion", cluster_id=2)),
        reason_of(lambda: ip.decode("10.2.1.1", value, identities=ids)),
        reason_of(lambda: serviceexport.decode("a/b", value, cluster="tion")),
        reason_of(lambda: cluster_config.decode(value, cluster="tion")),
    }
    assert reasons <= {"bad-json", "bad-field", "key-mismatch", "bad-address", "too-large"}


def test_what_is_too_large_is_refused_before_it_is_read() -> None:
    value = b" " * (MAXIMUM_BYTES + 1)
    ids = identity_range(2)
    assert reason_of(lambda: service.decode("a/b", value, cluster="tion", cluster_id=2)) == "too-large"
    assert reason_of(lambda: node.decode("n", value, cluster="tion", cluster_id=2)) == "too-large"
    assert reason_of(lambda: ip.decode("10.2.1.1", value, identities=ids)) == "too-large"
    assert reason_of(lambda: identity_record.decode("131072", value, cluster="tion", identities=ids)) == "too-large"
    assert reason_of(lambda: endpointslice.decode("a/b", value, cluster="tion", cluster_id=2)) == "too-large"


def test_a_text_of_a_million_tiny_members_is_refused_before_it_becomes_objects() -> None:
    objects = b'{"backends":{' + b",".join(b'"%d":{}' % n for n in range(400_000)) + b"}}"
    members = b'{"labels":{' + b",".join(b'"%d":""' % n for n in range(300_000)) + b"}}"
    nulls = b'{"x":[' + b",".join([b'{"":0}'] * 1_500_000) + b"]}"
    for value in (objects, nulls):
        assert reason_of(lambda value=value: service.decode("a/b", value, cluster="tion", cluster_id=2)) == "too-large"  # type: ignore[misc]
    assert reason_of(lambda: service.decode("a/b", members, cluster="tion", cluster_id=2)) == "key-mismatch"


def test_a_service_of_twenty_thousand_ipv6_backends_is_read() -> None:
    document = base_service() | {"backends": {f"fd00:2:0:1:2:3:{n >> 8:x}:{n & 255:x}": PORT for n in range(1, 20_001)}}
    assert len(decode_service(document).backends) == 20_000


def base_node() -> dict[str, Any]:
    return {
        "Name": "tion-worker",
        "Cluster": "tion",
        "ClusterID": 2,
        "IPAddresses": [{"Type": "InternalIP", "IP": "172.18.0.6"}],
        "IPv4AllocCIDR": {"IP": "10.2.1.0", "Mask": "////AA=="},
    }


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        pytest.param(lambda d: d.update(Name="other"), "key-mismatch", id="under another name"),
        pytest.param(lambda d: d.update(Name=""), "key-mismatch", id="without a name"),
        pytest.param(lambda d: d.update(Cluster="koornacht"), "cluster-mismatch", id="of another cluster"),
        pytest.param(lambda d: d.update(ClusterID=3), "id-mismatch", id="with another id"),
        pytest.param(lambda d: d.update(IPv4HealthIP="fe80::1%a"), "bad-address", id="health address with a zone"),
        pytest.param(lambda d: d.update(IPv4AllocCIDR="10.2.9.0/33"), "bad-address", id="length too large"),
        pytest.param(lambda d: d.update(EncryptionKey=256), "bad-field", id="key index too large"),
    ],
)
def test_a_node_is_refused(edit: Edit, reason: str) -> None:
    document = base_node()
    edit(document)
    value = json.dumps(document).encode()
    assert reason_of(lambda: node.decode("tion-worker", value, cluster="tion", cluster_id=2)) == reason


def test_a_network_may_come_as_text_and_with_host_bits() -> None:
    document = base_node() | {
        "IPv4AllocCIDR": "10.2.1.7/24",
        "IPv6AllocCIDR": {"IP": "FD00::7", "Mask": "/" * 21 + "w=="},
    }
    document["IPv6AllocCIDR"] = {"IP": "fd00:2::7", "Mask": "//////////8AAAAAAAAAAA=="}
    found = node.decode("tion-worker", json.dumps(document).encode(), cluster="tion", cluster_id=2)
    assert found.pod_cidrs == ("10.2.1.0/24", "fd00:2::/64")


@pytest.mark.parametrize(
    ("key", "edit", "reason"),
    [
        pytest.param("10.2.1.7", {"ID": 65536}, "out-of-range", id="identity of another cluster"),
        pytest.param("10.2.1.7", {"ID": 196608}, "out-of-range", id="first identity beyond"),
        pytest.param("10.2.1.7", {"ID": 256}, "out-of-range", id="first number that is not reserved"),
        pytest.param("10.2.1.7", {"ID": 1 << 24}, "out-of-range", id="scope of one node"),
        pytest.param("10.2.1.7", {"ID": -1}, "bad-field", id="negative identity"),
        pytest.param("<nil>", {"IP": ""}, "bad-address", id="the endpoint without address of Cilium"),
        pytest.param("10.2.1.8", {}, "key-mismatch", id="under another address"),
        pytest.param("10.2.1.7/24", {}, "key-mismatch", id="under a network"),
        pytest.param("10.2.1.7%x", {}, "key-mismatch", id="under no address"),
        pytest.param("fe80::1%eth0", {"IP": "fe80::1%eth0"}, "bad-address", id="zone"),
        pytest.param("10.2.1.7", {"HostIP": "node-1"}, "bad-address", id="host is no address"),
        pytest.param("10.2.1.0/24", {"IP": "10.2.1.0", "Mask": "AAAAAA"}, "bad-address", id="no mask"),
        pytest.param("10.2.1.7", {"Key": 256}, "bad-field", id="key index too large"),
    ],
)
def test_an_ip_record_is_refused(key: str, edit: dict[str, Any], reason: str) -> None:
    document = {"IP": "10.2.1.7", "Mask": None, "HostIP": "172.18.0.6", "ID": 131073, "Key": 0} | edit
    assert reason_of(lambda: ip.decode(key, json.dumps(document).encode(), identities=identity_range(2))) == reason


@pytest.mark.parametrize(("sent", "taken"), [(1, 6), (6, 6), (2, 2), (255, 255), (0, 0), (131072, 131072)])
def test_a_peers_host_is_a_remote_node_and_reserved_numbers_are_accepted(sent: int, taken: int) -> None:
    value = json.dumps({"IP": "10.2.1.7", "HostIP": "172.18.0.6", "ID": sent}).encode()
    assert ip.decode("10.2.1.7", value, identities=identity_range(2)).identity == taken


def test_a_deleted_address_is_known_by_its_key() -> None:
    assert ip.decode_key("10.2.1.7") == "10.2.1.7/32"
    assert ip.decode_key("fd00::7") == "fd00::7/128"
    assert ip.decode_key("10.2.0.0/16") == "10.2.0.0/16"
    assert reason_of(lambda: ip.decode_key("<nil>")) == "bad-address"
    for other_spelling in ("FD00::7", "10.2.0.7/16", "::ffff:10.2.1.7"):
        assert reason_of(lambda key=other_spelling: ip.decode_key(key)) == "key-mismatch"  # type: ignore[misc]


GOOD = b"k8s:app=x;k8s:io.cilium.k8s.policy.cluster=tion;"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("131073", b"k8s:app=x;", "missing-cluster-label"),
        ("131073", b"", "missing-cluster-label"),
        ("131073", b"any:io.cilium.k8s.policy.cluster=tion;", "cluster-mismatch"),
        ("131073", b"k8s:io.cilium.k8s.policy.cluster=koornacht;", "cluster-mismatch"),
        ("131073", GOOD + b"any:io.cilium.k8s.policy.cluster=tion;", "cluster-mismatch"),
        ("131073", b"k8s:=x;", "missing-cluster-label"),
        ("131073", b"\xff", "missing-cluster-label"),
        ("131073", b"a:b=c;" * 5000, "bad-labels"),
        ("131073", GOOD + b"reserved:host=;", "reserved-label"),
        ("131073", GOOD + b"reserved:kube-apiserver;", "reserved-label"),
        ("131073", GOOD + b"reserved:world-ipv4=x;", "reserved-label"),
        ("131073", GOOD + b"cidr:10.0.0.0/8=;", "reserved-label"),
        ("131073", GOOD + b"cidrgroup:offices=;", "reserved-label"),
        ("131073", GOOD + b"fqdn:example.com=;", "reserved-label"),
        ("65537", GOOD, "out-of-range"),
        ("2", GOOD, "out-of-range"),
        ("13x", GOOD, "bad-key"),
        ("", GOOD, "bad-key"),
        ("\uff11\uff13\uff11\uff10\uff17\uff13", GOOD, "bad-key"),
        ("9" * 5000, GOOD, "bad-key"),
    ],
)
def test_an_identity_is_refused(key: str, value: bytes, reason: str) -> None:
    ids = identity_range(2)
    with pytest.raises(RecordError) as caught:
        identity_record.decode(key, value, cluster="tion", identities=ids)
    assert caught.value.reason == reason


def test_deleting_an_identity_checks_the_range_and_no_label() -> None:
    assert identity_record.decode_key("131073", identities=identity_range(2)) == 131073
    assert reason_of(lambda: identity_record.decode_key("65537", identities=identity_range(2))) == "out-of-range"


def base_slice(**changes: Any) -> ClusterEndpointSlice:
    fields: dict[str, Any] = {
        "cluster": ClusterName("tion"),
        "cluster_id": ClusterId(2),
        "namespace": "tour",
        "name": "tickets-x1",
        "endpoints": (SliceEndpoint(addresses=("10.2.1.7",), ready=True),),
        "ports": (SlicePort("web", "TCP", 8080),),
    }
    return ClusterEndpointSlice(**(fields | changes))


def decode_slice(value: bytes) -> ClusterEndpointSlice:
    return endpointslice.decode("tour/tickets-x1", value, cluster="tion", cluster_id=2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster": "koornacht"}, "cluster-mismatch"),
        ({"cluster_id": 1}, "id-mismatch"),
        ({"name": "other"}, "key-mismatch"),
        ({"namespace": ""}, "key-mismatch"),
        ({"address_type": "FQDN"}, "bad-address-type"),
        ({"address_type": ""}, "bad-address-type"),
        ({"address_type": "IPv6"}, "bad-address"),
        ({"endpoints": (SliceEndpoint(addresses=("example.org",)),)}, "bad-address"),
        ({"ports": (SlicePort("web", "TCP", 70000),)}, "bad-protobuf"),
        ({"endpoints": (SliceEndpoint(addresses=()),) * 10_001}, "bad-protobuf"),
        ({"endpoints": (SliceEndpoint(addresses=("10.2.1.7",) * 1001),)}, "bad-protobuf"),
        ({"endpoints": (SliceEndpoint(addresses=(), for_zones=("a",) * 1001),)}, "bad-protobuf"),
        ({"ports": (SlicePort("web", "TCP", 80),) * 1001}, "bad-protobuf"),
        ({"labels": {str(n): "" for n in range(1001)}}, "bad-protobuf"),
    ],
)
def test_a_slice_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert reason_of(lambda: decode_slice(base_slice(**changes).encode())) == reason


def test_a_slice_keeps_everything_it_was_given() -> None:
    endpoint = SliceEndpoint(
        addresses=("fd00::7", "fd00::8"),
        ready=False,
        serving=True,
        terminating=True,
        hostname="tickets-0",
        node_name="tion-worker",
        zone="ams-a",
        for_zones=("ams-a", "ams-b"),
        for_nodes=("tion-worker",),
    )
    full = base_slice(
        address_type="IPv6",
        labels={"b": "2", "a": "1"},
        annotations={"note": ""},
        endpoints=(endpoint, SliceEndpoint(addresses=("fd00::9",))),
        ports=(SlicePort("", "UDP", None), SlicePort("web", "TCP", 80, "http")),
    )
    assert decode_slice(full.encode()) == full


def test_broken_frames_and_bombs_are_refused() -> None:
    good = base_slice().encode()
    for value in (b"", b"x", good[:-3], good[: len(good) // 2], b"\x28\xb5\x2f\xfd", good[4:]):
        assert reason_of(lambda value=value: decode_slice(value)) == "bad-zstd"  # type: ignore[misc]
    bomb = bytes(MAXIMUM_BYTES + 1)
    assert reason_of(lambda: decode_slice(zstandard.ZstdCompressor().compress(bomb))) == "too-large"
    undeclared = zstandard.ZstdCompressor(write_content_size=False).compress(bomb)
    assert reason_of(lambda: decode_slice(undeclared)) == "bad-zstd"
    assert decode_slice(good) == base_slice()  # a refused frame leaves the decompressor usable


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"cluster": "koornacht"}, "cluster-mismatch"),
        ({"name": "x"}, "key-mismatch"),
        ({"exportCreationTimestamp": None}, "bad-timestamp"),
        ({"exportCreationTimestamp": "0001-01-01T00:00:00Z"}, "bad-timestamp"),
        ({"exportCreationTimestamp": "yesterday"}, "bad-timestamp"),
        ({"exportCreationTimestamp": "2026-03-02T09:15:00"}, "bad-timestamp"),
        ({"type": "LoadBalancer"}, "bad-type"),
        ({"sessionAffinity": ""}, "bad-affinity"),
        ({"ports": [{"port": 70000}]}, "bad-field"),
    ],
)
def test_a_service_export_is_refused(edit: dict[str, Any], reason: str) -> None:
    document = {
        "cluster": "tion",
        "namespace": "tour",
        "name": "tickets",
        "exportCreationTimestamp": "2026-03-02T09:15:00Z",
        "type": "ClusterSetIP",
        "sessionAffinity": "None",
    } | edit
    value = json.dumps(document).encode()
    assert reason_of(lambda: serviceexport.decode("tour/tickets", value, cluster="tion")) == reason


def test_older_spellings_of_export_annotations_are_read() -> None:
    document = {
        "cluster": "tion",
        "namespace": "tour",
        "name": "tickets",
        "exportCreationTimestamp": "2026-03-02T09:15:00Z",
        "type": "Headless",
        "sessionAffinity": "None",
        "Annotations": {"a": "1"},
    }
    found = serviceexport.decode("tour/tickets", json.dumps(document).encode(), cluster="tion")
    assert found.annotations == {"a": "1"}


def test_an_error_never_carries_more_than_a_glimpse_of_foreign_text() -> None:
    error = RecordError("k" * 10_000, "bad-json", "d" * 10_000 + "\ud800")
    assert len(str(error)) < 600
    str(error).encode()
