# SPDX-License-Identifier: Apache-2.0
"""Packing laws: unpack(pack(x)) == x for every record that fits, ValueError for every one that does not."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datapath import affinity_layout, flow_layout, layout, spec

_v4 = st.ip_addresses(v=4).map(str)
_any_address = _v4 | (
    st.binary(min_size=16, max_size=16)
    .filter(lambda raw: any(raw[4:]))
    .map(lambda raw: socket.inet_ntop(socket.AF_INET6, raw))
)
_u8, _u16, _u32, _u64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
_mac = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
_v4_prefix = st.builds(
    lambda a, n: str(ipaddress.ip_network((a, n), strict=False)), st.integers(0, 2**32 - 1), st.integers(0, 32)
)


def _v6_network(address: int, length: int) -> str:
    """The kernel's spelling, which writes mapped addresses with dots."""
    network = ipaddress.IPv6Network((address, length), strict=False)
    return f"{socket.inet_ntop(socket.AF_INET6, network.network_address.packed)}/{length}"


_v6_prefix = st.builds(_v6_network, st.integers(0, 2**128 - 1), st.integers(0, 128))


@st.composite
def _policy_keys(draw: st.DrawFn) -> layout.PolicyKey:
    protocol = draw(_u8)
    bits = draw(st.integers(0, 16)) if protocol else 0
    port = draw(_u16) >> (16 - bits) << (16 - bits) if bits else 0
    return layout.PolicyKey(draw(_u16), draw(st.integers(0, 1)), draw(_u32), protocol, port, bits)


RECORDS: dict[str, tuple[int, st.SearchStrategy[Any]]] = {
    "service key": (12, st.builds(layout.ServiceKey, _v4, _u16, _u8, _u16)),
    "service value": (12, st.builds(layout.ServiceValue, _u32, _u32, _u16, _u8, _u8)),
    "backend key": (4, st.builds(layout.BackendKey, _u32)),
    "backend value": (12, st.builds(layout.BackendValue, _v4, _u16, _u8, _u8, _u16)),
    "member key": (8, st.builds(layout.MemberKey, _u32, _u32)),
    "affinity key": (16, st.builds(affinity_layout.AffinityKey, _v4, _u32)),
    "affinity value": (16, st.builds(affinity_layout.AffinityValue, _u64, _u32)),
    "ipcache key": (24, st.builds(layout.IpcacheKey, _v4_prefix | _v6_prefix)),
    "ipcache value": (24, st.builds(layout.IpcacheValue, _u32, _any_address, _u16, _u8)),
    "policy key": (16, _policy_keys()),
    "policy value": (12, st.builds(layout.PolicyValue, st.booleans(), _u32, _u32, _u16)),
    "endpoint value": (
        44,
        st.builds(layout.EndpointValue, _u32, _u16, _u16, _u32, _u32, _mac, _mac, _any_address),
    ),
    "conntrack key": (16, st.builds(flow_layout.ConntrackKey, _v4, _v4, _u16, _u16, _u8, _u8)),
    "conntrack value": (
        56,
        st.builds(
            flow_layout.ConntrackValue, _u64, _u64, _u32, _u32, _u32, _u32, _v4, _u16, _u16, _u8, _u8, _u16, _u32, _u32
        ),
    ),
    "metric key": (4, st.builds(flow_layout.MetricKey, _u8, st.integers(0, 1))),
    "event": (
        112,
        st.builds(
            flow_layout.DatapathEvent, _u64, _u8, _u8, _u8, _u8, _u8, _u16, _u32, _u32, _u32, _u32, _u32, _v4, _v4,
            _u16, _u16, _v4, _u16, st.integers(0, 15), st.integers(0, 15), _u16, _u64, _u64,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_unpacking_gives_back_what_was_packed(name: str) -> None:
    size, strategy = RECORDS[name]

    @given(strategy)
    def law(record: Any) -> None:
        raw = record.pack()
        assert len(raw) == size
        assert type(record).unpack(raw) == record

    law()


@pytest.mark.parametrize(
    "record",
    [
        layout.ServiceKey("10.0.0.1", 65536, 6),
        layout.ServiceKey("10.0.0", 1, 6),
        layout.ServiceKey("10.0.0.1", 1, 256),
        layout.ServiceKey("fd00::1::", 1, 6),
        layout.ServiceValue(1, 1 << 32),
        layout.BackendValue("10.0.0.1", -1, 6),
        layout.IpcacheKey("10.0.0.1/24"),
        layout.IpcacheKey("10.0.0.0/33"),
        layout.IpcacheKey("10.0.0.0/-1"),
        layout.IpcacheKey("nowhere/8"),
        layout.PolicyKey(1, 0, 0, 6, 81, 15),
        layout.PolicyKey(1, 0, 0, 6, 80, 17),
        layout.PolicyKey(1, 0, 0, 6, 80, 0),
        layout.PolicyKey(1, 0, 0, 0, 80, 16),
        layout.PolicyKey(1 << 16, 0, 0),
        layout.EndpointValue(1, 1, 0, 1, 1, "02:00", "02:00:00:00:00:01", "10.0.0.1"),
    ],
    ids=repr,
)
def test_a_record_that_does_not_fit_is_refused(record: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each field has its own words
        record.pack()


def test_an_event_of_another_version_is_refused() -> None:
    raw = bytearray(112)
    raw[8] = flow_layout.EVENT_VERSION + 1
    with pytest.raises(ValueError, match="event version"):
        flow_layout.DatapathEvent.unpack(bytes(raw))


def test_a_plain_address_is_its_own_prefix() -> None:
    assert layout.IpcacheKey("10.2.1.4").pack() == layout.IpcacheKey("10.2.1.4/32").pack()


def test_a_stored_policy_value_repeats_how_specific_its_key_is() -> None:
    key = layout.PolicyKey(1, 0, 0, 6, 80, 16)
    assert spec.POLICY.encode(key, layout.PolicyValue(False, 1))[3] == 24
