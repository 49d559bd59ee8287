# SPDX-License-Identifier: Apache-2.0
"""The C structs are what Python packs: sizes, offsets and holes from the object's own BTF."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any, Final

import pytest

from agent.datapath import layout, spec
from agent.datapath.address import pack16
from agent.datapath.affinity_layout import AffinityKey
from agent.datapath.flow_layout import EVENT_VERSION, DatapathEvent
from agent.datapath.reasons import Reason
from agent.datapath.source_range_layout import SourceRangeKey
from tests.packet.datapath_host import BPF_DIRECTORY, build_objects, run
from tests.packet.ends import IPV6

pytestmark = pytest.mark.skipif(not shutil.which("bpftool"), reason="needs bpftool to read BTF")
_MACS: Final = ("01:02:03:04:05:06", "11:12:13:14:15:16")


@pytest.fixture(scope="module")
def types() -> dict[int, Any]:
    return _types_of("mesh_pod.bpf.o")


@pytest.fixture(scope="module")
def ipv6_types() -> dict[int, Any]:
    return _types_of("mesh_ipv6.bpf.o")


def _types_of(name: str) -> dict[int, Any]:
    build_objects()
    text = run("bpftool", "-j", "btf", "dump", "file", str(BPF_DIRECTORY / name))
    return {t["id"]: t for t in json.loads(text)["types"]}


def _size(types: dict[int, Any], number: int) -> int:
    found = types[number]
    if found["kind"] in {"TYPEDEF", "CONST", "VOLATILE"}:
        return _size(types, found["type_id"])
    if found["kind"] == "ARRAY":
        return int(found["nr_elems"]) * _size(types, found["type_id"])
    return int(found.get("size", 8))


def _struct(types: dict[int, Any], name: str) -> dict[str, Any]:
    (found,) = [t for t in types.values() if t["kind"] == "STRUCT" and t["name"] == name]
    return found  # type: ignore[no-any-return]


def _offset(types: dict[int, Any], struct: str, member: str) -> int:
    (found,) = [m for m in _struct(types, struct)["members"] if m["name"] == member]
    return int(found["bits_offset"]) // 8


STRUCTS = {
    "service_key": 12, "service_value": 12, "backend_value": 12, "member_key": 8, "affinity_key": 16,
    "affinity_value": 16, "ipcache_key": 24, "ipcache_value": 24, "policy_key": 16, "policy_value": 12,
    "endpoint_value": 44, "conntrack_key": 16, "conntrack_value": 56, "metric_value": 16, "config": 80, "event": 112,
    "source_range_key": 24, "socket_key": 32, "socket_value": 24, "nat_key": 40, "nat_value": 72,
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_has_the_packed_size_and_no_hole(types: dict[int, Any], name: str) -> None:
    assert _packed_size(types, name) == STRUCTS[name]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("conntrack_key6", 40),
        ("conntrack_value6", 64),
        ("fragment_key6", 40),
        ("fragment_value", 8),
        ("service_key6", 24),
        ("backend_value6", 24),
        ("affinity_key6", 24),
    ],
)
def test_a_struct_of_ipv6_has_no_hole(ipv6_types: dict[int, Any], name: str, size: int) -> None:
    assert _packed_size(ipv6_types, name) == size


def _packed_size(types: dict[int, Any], name: str) -> int:
    found, end = _struct(types, name), 0
    for member in found["members"]:
        assert member["bits_offset"] == end * 8, f"hole before {member['name']}"
        end += _size(types, member["type_id"])
    assert end == found["size"]
    return end


# A record in which one field differs from zero, and the C member its bytes must lie in.
PLACES = [
    ("service_key", "port", layout.ServiceKey("0.0.0.0", 80, 0)),
    ("service_key", "slot", layout.ServiceKey("0.0.0.0", 0, 0, 3)),
    ("service_key", "protocol", layout.ServiceKey("0.0.0.0", 0, 6)),
    ("service_value", "service_id", layout.ServiceValue(0, 9)),
    ("service_value", "count", layout.ServiceValue(0, 0, 9)),
    ("service_value", "flags", layout.ServiceValue(0, 0, 0, 1)),
    ("backend_value", "state", layout.BackendValue("0.0.0.0", 0, 0, 1)),
    ("backend_value", "cluster_id", layout.BackendValue("0.0.0.0", 0, 0, 0, 2)),
    ("ipcache_value", "tunnel", layout.IpcacheValue(0, "1.2.3.4")),
    ("ipcache_value", "cluster_id", layout.IpcacheValue(0, cluster_id=2)),
    ("source_range_key", "prefix_length", SourceRangeKey(0, "0.0.0.0/0")),
    ("policy_value", "precedence", layout.PolicyValue(False, 9)),
    ("policy_value", "rule_id", layout.PolicyValue(False, 0, 9)),
    ("policy_value", "deny", layout.PolicyValue(True, 0)),
    ("conntrack_value", "nat_port", None),
]


@pytest.mark.parametrize(("struct", "member", "record"), PLACES, ids=lambda v: str(v) if isinstance(v, str) else "")
def test_a_field_lies_where_c_expects_it(types: dict[int, Any], struct: str, member: str, record: Any) -> None:
    if record is None:
        from agent.datapath.flow_layout import ConntrackValue

        record = ConntrackValue(0, 0, 0, 0, nat_port=80)
    raw = record.pack()
    used = [i for i, byte in enumerate(raw) if byte]
    start = _offset(types, struct, member)
    (width,) = [_size(types, m["type_id"]) for m in _struct(types, struct)["members"] if m["name"] == member]
    assert used
    assert start <= used[0]
    assert used[-1] < start + width


@pytest.mark.parametrize(
    ("struct", "member", "record"),
    [
        ("service_key6", "port", layout.ServiceKey("::", 80, 0)),
        ("service_key6", "slot", layout.ServiceKey("::", 0, 0, 3)),
        ("service_key6", "protocol", layout.ServiceKey("::", 0, 6)),
        ("service_key6", "address", layout.ServiceKey("1::1", 0, 0)),
        ("backend_value6", "address", layout.BackendValue("1::1", 0, 0)),
        ("backend_value6", "state", layout.BackendValue("::", 0, 0, 1)),
        ("backend_value6", "cluster_id", layout.BackendValue("::", 0, 0, 0, 2)),
        ("affinity_key6", "service_id", AffinityKey("::", 9)),
    ],
)
def test_a_field_of_ipv6_lies_where_c_expects_it(
    ipv6_types: dict[int, Any], struct: str, member: str, record: Any
) -> None:
    test_a_field_lies_where_c_expects_it(ipv6_types, struct, member, record)


def test_the_address_of_a_hairpin_is_that_of_the_header() -> None:
    header = (BPF_DIRECTORY / "packet.h").read_text()
    words = re.search(r"#define LOOPBACK_ADDRESS \(\(ip_address\)\{ \{ (.*) \} \}\)", header)
    assert words
    numbers = [int(re.sub(r"\D*(0x\w+|0)\D*", r"\1", word), 16) for word in words[1].split(", ")]
    assert b"".join(n.to_bytes(4, "big") for n in numbers) == pack16(IPV6.loopback)


def test_the_endpoint_value_lies_where_c_expects_it(types: dict[int, Any]) -> None:
    raw = layout.EndpointValue(1, 2, 3, 4, 5, *_MACS, "10.0.0.9").pack()
    assert raw[_offset(types, "endpoint_value", "mac") :][:6].hex(":") == _MACS[0]
    assert raw[_offset(types, "endpoint_value", "node_mac") :][:6].hex(":") == _MACS[1]
    assert raw[_offset(types, "endpoint_value", "address") :][:4] == bytes([10, 0, 0, 9])


def test_reasons_and_texts_are_those_of_the_header() -> None:
    header = (BPF_DIRECTORY / "abi.h").read_text()
    body = re.search(r"enum reason \{(.*?)\};", header, re.DOTALL)
    assert body
    numbers = {int(n) for n in re.findall(r"= (\d+),", body[1])}
    assert numbers == {int(r) for r in Reason}
    assert all(r.text for r in Reason)


def test_the_version_of_an_event_is_that_of_the_header() -> None:
    header = (BPF_DIRECTORY / "abi.h").read_text()
    assert f"#define EVENT_VERSION {EVENT_VERSION}\n" in header
    assert DatapathEvent(0, *[0] * 11, "0.0.0.0", "0.0.0.0", 0, 0).pack()[8] == EVENT_VERSION


def test_map_names_and_sizes_are_those_of_the_header() -> None:
    header = (BPF_DIRECTORY / "maps.h").read_text()
    declared = {n: eval(size) for n, size in re.findall(r"^MAP\((\w+), .*, (1 << \d+|\d+), \w+\);", header, re.M)}
    specs = [v for v in vars(spec).values() if isinstance(v, spec.MapSpec)]
    assert {s.name: s.max_entries for s in specs}.items() <= declared.items()


def test_every_map_has_a_version_at_a_place_of_its_own() -> None:
    header = (BPF_DIRECTORY / "maps.h").read_text()
    (room,) = re.findall(r"^MAP\(mesh_abi, .*, (\d+), \w+\);", header, re.M)
    declared = {*re.findall(r"^MAP\((\w+),", header, re.M), *re.findall(r"^\} (\w+) SEC", header, re.M)}
    assert set(spec.ABIS) == declared - {spec.ABI_NAME}
    places = [spec.ABI_SCHEME.place, *(abi.place for abi in spec.ABIS.values())]
    assert len(set(places)) == len(places)
    assert max(places) < int(room)
