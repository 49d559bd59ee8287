# SPDX-License-Identifier: Apache-2.0
"""Odd records, one a row: read where Cilium reads them, refused where it refuses them, and where we differ, why.

Cilium's readers are Go's encoding/json, net.ParseIP, netip.ParseAddr and base64, and then their own checks.
"""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from meshmodel import cluster_config, identity_record, ip, node, service, serviceexport
from meshmodel.errors import RecordError
from meshmodel.identity import identity_range
from meshmodel.ip import NamedPort
from meshmodel.service import RecordPort, Zone
from meshmodel.wire import MAXIMUM_SLOW_BYTES

REFUSED: Final = "refused"
OWN_IDS: Final = identity_range(2)

# ---- services

SERVICE: Final[dict[str, Any]] = {
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
WEB: Final = {"web": RecordPort("TCP", 8080)}
OTHER: Final = {"x": {"Protocol": "TCP", "Port": 8080}}
BOTH: Final = WEB | {"x": RecordPort("TCP", 8080)}
PORT: Final = {"web": {"Protocol": "TCP", "Port": 8080}}


def read_service(value: bytes) -> service.ClusterService:
    return service.decode("tour/tickets", value, cluster="tion", cluster_id=2)


def said(**changes: Any) -> bytes:
    return json.dumps(SERVICE | changes).encode()


def renamed(old: str, new: str) -> bytes:
    return said().replace(f'"{old}"'.encode(), f'"{new}"'.encode())


def ports(found: Any) -> bytes:
    return said(backends={"10.2.1.7": found})


def backend(found: Any) -> dict[str, Any]:
    return {"backends": {"10.2.1.7": found}}


SERVICES: Final[list[tuple[str, bytes, Any]]] = [
    # null is "not given"
    ("null map", said(labels=None), {"labels": {}}),
    ("null selector", said(selector=None), {"selector": {}}),
    ("null frontends", said(frontends=None), {"frontends": {}}),
    ("null bool", said(shared=None), {"shared": False}),
    ("null ports", ports(None), backend({})),
    ("null port", ports({"web": None}), backend({})),
    ("null label", said(labels={"a": None}), {"labels": {"a": ""}}),
    ("null hostname", said(hostnames={"10.2.1.7": None}), {"hostnames": {"10.2.1.7": ""}}),
    ("null zone", said(zones={"10.2.1.7": None}), {"zones": {"10.2.1.7": Zone("")}}),
    ("null hints", said(zones={"10.2.1.7": {"zone": "a", "forZones": None}}), {"zones": {"10.2.1.7": Zone("a")}}),
    ("null in hints", said(zones={"10.2.1.7": {"zone": "a", "forZones": [None]}}), {"zones": {"10.2.1.7": Zone("a", ("",))}}),
    ("null name", said(name=None), REFUSED),
    ("null cluster", said(cluster=None), REFUSED),
    ("null id", said(clusterID=None), REFUSED),
    ("null record", b"null", REFUSED),
    # names of fields in any case, the last of two counts
    ("upper-case name", renamed("cluster", "Cluster"), {"cluster": "tion"}),
    ("all upper-case", renamed("backends", "BACKENDS"), backend(WEB)),
    ("lower-case inside", renamed("Protocol", "protocol").replace(b'"Port"', b'"port"'), backend(WEB)),
    ("Kelvin sign for k", said().replace(b"backends", "bac\u212aends".encode()), backend(WEB)),
    ("twice, other case last", said()[:-1] + b',"Shared":false}', {"shared": False}),
    ("twice, own case last", b'{"SHARED":false,' + said()[1:], {"shared": True}),
    ("null after a value", said()[:-1] + b',"Shared":null}', {"shared": True}),
    ("label keys keep their case", said(labels={"App": "x", "app": "y"}), {"labels": {"App": "x", "app": "y"}}),
    # what is unknown is left out
    ("unknown field", said(future={"a": [1, None]}), backend(WEB)),
    ("unknown field inside", ports({"web": PORT["web"] | {"New": 1}}), backend(WEB)),
    ("unknown protocol", ports(PORT | {"x": {"Protocol": "ICMP", "Port": 1}}), backend(WEB)),
    ("only an unknown protocol", ports({"x": {"Protocol": "QUIC", "Port": 1}}), backend({})),
    ("no protocol", ports({"web": {"Port": 1}}), backend({})),
    ("no port number", ports({"web": {"Protocol": "TCP"}}), backend({"web": RecordPort("TCP", 0)})),
    ("lower-case protocol", ports({"web": {"Protocol": "tcp", "Port": 8080}}), backend(WEB)),
    ("zone of no address", said(zones={"x": {"zone": "a"}}), {"zones": {}}),
    ("hostname of no address", said(hostnames={"": "a", "10.2.1.7": "b"}), {"hostnames": {"10.2.1.7": "b"}}),
    # addresses in other spellings are one address
    ("IPv6 in upper case", said(backends={"FD00:0::7": PORT}), {"backends": {"fd00::7": WEB}}),
    ("one address, two spellings", said(backends={"fd00::7": PORT, "FD00::7": OTHER}), {"backends": {"fd00::7": BOTH}}),
    ("IPv4 inside IPv6", said(backends={"::ffff:10.2.1.9": PORT}), {"backends": {"10.2.1.9": WEB}}),
    ("text that is no UTF-8", said(labels={"a": "X"}).replace(b"X", b"\xff"), {"labels": {"a": "\ufffd"}}),
    ("half a surrogate pair", said(labels={"a": "X"}).replace(b"X", b"\\ud800"), {"labels": {"a": "\ufffd"}}),
    # what Cilium refuses
    ("octal", said(backends={"10.2.1.07": PORT}), REFUSED),
    ("zone in an address", said(backends={"fe80::1%eth0": PORT}), REFUSED),
    ("blank before an address", said(backends={" 10.2.1.7": PORT}), REFUSED),
    ("no address", said(frontends={"": {}}), REFUSED),
    ("fraction for a port", said().replace(b"8080", b"8080.0"), REFUSED),
    ("exponent for a port", said().replace(b"8080", b"8e3"), REFUSED),
    ("text for a port", said().replace(b"8080", b'"8080"'), REFUSED),
    ("port too large", said().replace(b"8080", b"65536"), REFUSED),
    ("text for a bool", said(shared="true"), REFUSED),
    ("number for a bool", said(shared=1), REFUSED),
    ("list for a map", said(backends=[]), REFUSED),
    ("number for a label", said(labels={"a": 1}), REFUSED),
    ("byte order mark", b"\xef\xbb\xbf" + said(), REFUSED),
    ("something after it", said() + b"{}", REFUSED),
    ("NaN", said()[:-1] + b',"x":NaN}', REFUSED),
    ("comment", b"/**/" + said(), REFUSED),
    ("single quotes", said().replace(b'"', b"'"), REFUSED),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), [pytest.param(*row[1:], id=row[0]) for row in SERVICES])
def test_an_odd_service(value: bytes, expected: Any) -> None:
    if expected == REFUSED:
        with pytest.raises(RecordError):
            read_service(value)
        return
    found = read_service(value)
    for name, wanted in expected.items():
        got = getattr(found, name)
        assert (dict(got) if isinstance(wanted, dict) else got) == wanted


# ---- addresses

IP: Final[dict[str, Any]] = {
    "IP": "10.2.1.7",
    "Mask": None,
    "HostIP": "172.18.0.6",
    "ID": 131073,
    "Key": 0,
    "Metadata": "",
}
M24, M32, M120 = "////AA==", "/////w==", "/" * 20 + "AA=="

# key, changes, what we read ("" for refused), whether Cilium reads it too
ADDRESSES: Final[list[tuple[str, str, dict[str, Any], str, bool]]] = [
    ("as it should be", "10.2.1.7", {}, "10.2.1.7/32", True),
    ("null host", "10.2.1.7", {"HostIP": None}, "10.2.1.7/32", True),
    ("null key index", "10.2.1.7", {"Key": None}, "10.2.1.7/32", True),
    ("null metadata", "10.2.1.7", {"Metadata": None}, "10.2.1.7/32", True),
    ("null pod", "10.2.1.7", {"K8sPodName": None}, "10.2.1.7/32", True),
    ("null ports", "10.2.1.7", {"NamedPorts": None}, "10.2.1.7/32", True),
    ("network", "10.2.1.0/24", {"IP": "10.2.1.0", "Mask": M24}, "10.2.1.0/24", True),
    ("host with a mask", "10.2.1.7/32", {"Mask": M32}, "10.2.1.7/32", True),
    ("body in another spelling", "fd00::7", {"IP": "FD00:0::7"}, "fd00::7/128", True),
    ("IPv4 inside IPv6", "10.2.1.7", {"IP": "::ffff:10.2.1.7"}, "10.2.1.7/32", True),
    # the key must be the record's address, or address/length, letter by letter
    ("key in another spelling", "FD00::7", {"IP": "fd00::7"}, "", False),
    ("key in the body's other spelling", "FD00::7", {"IP": "FD00::7"}, "", False),
    ("host with a mask under the address", "10.2.1.7", {"Mask": M32}, "", False),
    ("host without a mask under /32", "10.2.1.7/32", {}, "", False),
    ("network under its address", "10.2.1.0", {"IP": "10.2.1.0", "Mask": M24}, "", False),
    ("another length", "10.2.1.0/25", {"IP": "10.2.1.0", "Mask": M24}, "", False),
    ("host bits that the key has not", "10.2.1.0/24", {"IP": "10.2.1.7", "Mask": M24}, "", False),
    ("mask with holes under its length", "10.2.1.0/16", {"IP": "10.2.1.0", "Mask": "//8A/w=="}, "", False),
    ("empty mask under the address", "10.2.1.7", {"Mask": ""}, "", False),
    ("no address", "<nil>", {"IP": ""}, "", False),
    ("null address", "10.2.1.7", {"IP": None}, "", False),
    ("octal", "10.2.1.07", {"IP": "10.2.1.07"}, "", False),
    ("zone", "fe80::1%eth0", {"IP": "fe80::1%eth0"}, "", False),
    ("mask that is no base64", "10.2.1.0/24", {"IP": "10.2.1.0", "Mask": "255.255.255.0"}, "", False),
    ("host that is no address", "10.2.1.7", {"HostIP": "node-1"}, "", False),
    # Cilium takes these into its cache of prefixes, where they mean nothing: two keys would be one prefix, or none
    ("host bits that the key has too", "10.2.1.7/24", {"Mask": M24}, "", True),
    ("mask with holes", "10.2.1.0/0", {"IP": "10.2.1.0", "Mask": "//8A/w=="}, "", True),
    ("mask of the other family", "10.2.1.7/80", {"Mask": M120[:20] + "=" * 0}, "", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "changes", "expected", "_cilium"), [pytest.param(*row[1:], id=row[0]) for row in ADDRESSES]
)
def test_an_odd_address(key: str, changes: dict[str, Any], expected: str, _cilium: bool) -> None:
    value = json.dumps(IP | changes).encode()
    if expected:
        assert ip.decode(key, value, identities=OWN_IDS).prefix == expected
    else:
        with pytest.raises(RecordError):
            ip.decode(key, value, identities=OWN_IDS)


def test_where_an_address_is_refused_that_cilium_takes_is_written_down() -> None:
    assert [row[0] for row in ADDRESSES if row[4] and not row[3]] == [
        "host bits that the key has too",
        "mask with holes",
        "mask of the other family",
    ]


def test_named_ports_that_cannot_be_used_are_left_out_one_by_one() -> None:
    ports = [
        {"Name": "web", "Port": 80, "Protocol": "TCP"},
        {"Name": "dns", "Port": 53, "Protocol": "udp"},
        {"Name": "ping", "Port": 1, "Protocol": "ICMP"},
        {"Name": "none", "Protocol": "TCP"},
        {"Port": 81, "Protocol": "TCP"},
        None,
    ]
    found = ip.decode("10.2.1.7", json.dumps(IP | {"NamedPorts": ports}).encode(), identities=OWN_IDS)
    assert found.named_ports == (
        NamedPort(name="web", port=80, protocol="TCP"),
        NamedPort(name="dns", port=53, protocol="UDP"),
    )


# ---- nodes

NODE: Final[dict[str, Any]] = {
    "Name": "w1",
    "Cluster": "tion",
    "ClusterID": 2,
    "IPAddresses": [{"Type": "InternalIP", "IP": "172.18.0.6"}],
    "IPv4AllocCIDR": {"IP": "10.2.1.0", "Mask": M24},
}
NODES: Final[list[tuple[str, dict[str, Any], tuple[str, ...] | str]]] = [
    ("as it should be", {}, ("10.2.1.0/24",)),
    ("null fields", {"Labels": None, "EncryptionKey": None, "BootID": None, "Source": None}, ("10.2.1.0/24",)),
    ("null address list", {"IPAddresses": None}, ("10.2.1.0/24",)),
    ("null address", {"IPAddresses": [{"Type": "InternalIP", "IP": None}]}, ("10.2.1.0/24",)),
    ("empty address", {"IPAddresses": [{"Type": "InternalIP", "IP": ""}]}, ("10.2.1.0/24",)),
    ("address without a type", {"IPAddresses": [{"IP": "172.18.0.6"}]}, ("10.2.1.0/24",)),
    ("null label", {"Labels": {"a": None}}, ("10.2.1.0/24",)),
    ("null network", {"IPv4AllocCIDR": None}, ()),
    ("null among networks", {"IPv4SecondaryAllocCIDRs": [None, {"IP": "10.9.0.0", "Mask": M24}]}, ("10.2.1.0/24", "10.9.0.0/24")),
    ("network as text", {"IPv4AllocCIDR": "10.2.1.0/24"}, ("10.2.1.0/24",)),
    ("host bits", {"IPv4AllocCIDR": {"IP": "10.2.1.9", "Mask": M24}}, ("10.2.1.0/24",)),
    ("mask with holes", {"IPv4AllocCIDR": {"IP": "10.2.1.0", "Mask": "AP//AA=="}}, ()),
    ("mask of three bytes", {"IPv4AllocCIDR": {"IP": "10.2.1.0", "Mask": "AAAA"}}, ()),
    ("mask of the other family", {"IPv4AllocCIDR": {"IP": "10.2.1.0", "Mask": "//////////8AAAAAAAAAAA=="}}, ()),
    ("no mask", {"IPv4AllocCIDR": {"IP": "10.2.1.0", "Mask": None}}, ()),
    ("no network address", {"IPv4AllocCIDR": {"IP": "", "Mask": M24}}, ()),
    ("IPv4 in the IPv6 field", {"IPv4AllocCIDR": None, "IPv6AllocCIDR": {"IP": "10.2.1.0", "Mask": M24}}, ("10.2.1.0/24",)),
    ("mask that is no base64", {"IPv4AllocCIDR": {"IP": "10.2.1.0", "Mask": "*"}}, REFUSED),
    ("network of no address", {"IPv4AllocCIDR": {"IP": "x", "Mask": M24}}, REFUSED),
    ("text that is no network", {"IPv4AllocCIDR": "10.2.1.0/33"}, REFUSED),
    ("address that is none", {"IPAddresses": [{"Type": "InternalIP", "IP": "w1"}]}, REFUSED),
    ("health address that is none", {"IPv4HealthIP": "10.2.1"}, REFUSED),
    ("key index too large", {"EncryptionKey": 256}, REFUSED),
    ("name in another case", {"Name": "W1"}, REFUSED),
    ("negative id", {"ClusterID": -2}, REFUSED),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [pytest.param(*row[1:], id=row[0]) for row in NODES])
def test_an_odd_node(changes: dict[str, Any], expected: tuple[str, ...] | str) -> None:
    value = json.dumps(NODE | changes).encode()
    if expected == REFUSED:
        with pytest.raises(RecordError):
            node.decode("w1", value, cluster="tion", cluster_id=2)
    else:
        assert node.decode("w1", value, cluster="tion", cluster_id=2).pod_cidrs == expected


def test_a_node_with_lower_case_names_is_read() -> None:
    value = (
        json.dumps({name.lower(): content for name, content in NODE.items()})
        .lower()
        .replace("internalip", "InternalIP")
    )
    found = node.decode("w1", value.replace('"////aa=="', f'"{M24}"').encode(), cluster="tion", cluster_id=2)
    assert ([address.ip for address in found.addresses], found.pod_cidrs) == (["172.18.0.6"], ("10.2.1.0/24",))


# ---- identities, configs, exports

CLUSTER_LABEL: Final = b"k8s:io.cilium.k8s.policy.cluster=tion;"


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (CLUSTER_LABEL, 1),
        (CLUSTER_LABEL[:-1], 1),
        (CLUSTER_LABEL + b";;", 1),
        (CLUSTER_LABEL + b"k8s:=x;=y;k8s:;", 1),
        (CLUSTER_LABEL + b"app;", 2),
        (CLUSTER_LABEL + b"reserved:thing;", 2),
        (CLUSTER_LABEL + b"k8s:host;k8s:reserved=host;", 3),
        (CLUSTER_LABEL + b"k8s:app=a=b=c;", 2),
        (CLUSTER_LABEL + b"k8s:app=\xff;", 2),
    ],
)
def test_odd_labels(value: bytes, count: int) -> None:
    assert len(identity_record.decode("131073", value, cluster="tion", identities=OWN_IDS)[1]) == count


@pytest.mark.parametrize(
    ("value", "number", "canaries"),
    [
        (b'{"id":2}', 2, False),
        (b'{"ID":2,"Capabilities":{"SyncedCanaries":true}}', 2, True),
        (b'{"id":2,"capabilities":null}', 2, False),
        (b'{"id":2,"capabilities":{"syncedCanaries":null,"maxConnectedClusters":null}}', 2, False),
        (b'{"id":null}', 0, False),
        (b'{"id":2,"new":{"x":1},"capabilities":{"syncedCanaries":true,"new":1}}', 2, True),
    ],
)
def test_an_odd_cluster_config(value: bytes, number: int, *, canaries: bool) -> None:
    found = cluster_config.decode(value)
    assert (found.id, found.synced_canaries) == (number, canaries)


def test_an_odd_service_export() -> None:
    value = {
        "CLUSTER": "tion", "namespace": "tour", "name": "tickets", "exportCreationTimestamp": "2026-03-02T09:15:00Z",
        "type": "ClusterSetIP", "SessionAffinity": "None", "ports": [{"Name": "web", "port": 80}, None], "labels": None,
    }  # fmt: skip
    found = serviceexport.decode("tour/tickets", json.dumps(value).encode(), cluster="tion")
    assert [(port.name, port.port) for port in found.ports] == [("web", 80), ("", 0)]


# ---- bounds


def test_only_records_of_common_size_are_read_the_slow_way() -> None:
    large = {f"10.{a}.{b}.{c}": PORT for a in range(2) for b in range(40) for c in range(100)}
    assert len(read_service(said(backends=large)).backends) == 8000
    odd = renamed("shared", "Shared").replace(
        b'"backends": {', b'"backends": ' + json.dumps(large).encode()[:-1] + b","
    )
    assert len(odd) > MAXIMUM_SLOW_BYTES
    with pytest.raises(RecordError):
        read_service(odd)


@pytest.mark.parametrize(
    "changes",
    [
        {"frontends": {f"10.0.{n >> 8}.{n & 255}": {} for n in range(1025)}},
        {"backends": {f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}": {} for n in range(65_537)}},
        {"labels": {str(n): "" for n in range(4097)}},
        {"backends": {"10.2.1.7": {str(n): PORT["web"] for n in range(1025)}}},
    ],
    ids=["frontends", "backends", "labels", "ports"],
)
def test_one_service_is_bounded(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        read_service(said(**changes))


def test_the_text_of_each_small_kind_is_bounded() -> None:
    long = "x" * (1024 * 1024)
    with pytest.raises(RecordError, match="too-large"):
        ip.decode("10.2.1.7", json.dumps(IP | {"Metadata": long}).encode(), identities=OWN_IDS)
    with pytest.raises(RecordError, match="too-large"):
        node.decode("w1", json.dumps(NODE | {"BootID": long}).encode(), cluster="tion", cluster_id=2)
    with pytest.raises(RecordError, match="too-large"):
        cluster_config.decode(json.dumps({"id": 2, "capabilities": {"endpointSlicesExportMode": long}}).encode())
    with pytest.raises(RecordError, match="too-large"):
        identity_record.decode("131073", CLUSTER_LABEL + long.encode(), cluster="tion", identities=OWN_IDS)
    with pytest.raises(RecordError, match="too-large"):
        serviceexport.decode("tour/tickets", json.dumps({"name": long}).encode(), cluster="tion")


def test_one_service_export_and_the_labels_of_a_node_are_bounded() -> None:
    export = {
        "cluster": "tion", "namespace": "tour", "name": "tickets", "exportCreationTimestamp": "2026-03-02T09:15:00Z",
        "type": "ClusterSetIP", "sessionAffinity": "None",
    }  # fmt: skip
    many = {str(number): "" for number in range(4097)}
    for changes in ({"ports": [{"port": 1}] * 1025}, {"labels": many}, {"Annotations": many}):
        with pytest.raises(RecordError, match="too-large"):
            serviceexport.decode("tour/tickets", json.dumps(export | changes).encode(), cluster="tion")
    with pytest.raises(RecordError, match="too-large"):
        node.decode("w1", json.dumps(NODE | {"Labels": many}).encode(), cluster="tion", cluster_id=2)


def test_one_node_and_one_address_are_bounded() -> None:
    addresses = [{"Type": "InternalIP", "IP": "172.18.0.6"}] * 1025
    with pytest.raises(RecordError, match="too-large"):
        node.decode("w1", json.dumps(NODE | {"IPAddresses": addresses}).encode(), cluster="tion", cluster_id=2)
    networks = [{"IP": "10.2.1.0", "Mask": M24}] * 4097
    with pytest.raises(RecordError, match="too-large"):
        node.decode(
            "w1", json.dumps(NODE | {"IPv4SecondaryAllocCIDRs": networks}).encode(), cluster="tion", cluster_id=2
        )
    ports = [{"Name": "a", "Port": 1, "Protocol": "TCP"}] * 1025
    with pytest.raises(RecordError, match="too-large"):
        ip.decode("10.2.1.7", json.dumps(IP | {"NamedPorts": ports}).encode(), identities=OWN_IDS)
