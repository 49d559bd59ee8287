# SPDX-License-Identifier: Apache-2.0
"""Entries packed many at a time are those of their records, byte by byte."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.datapath.layout import BackendKey, BackendValue, MemberKey, MemberValue, ServiceKey, ServiceValue
from agent.datapath.service_records import (
    backend_end,
    backend_keys,
    backend_values,
    head_key,
    key_start,
    member_keys,
    member_values,
    slot_keys,
    slot_keys_of,
    slot_values,
)

ADDRESSES = st.ip_addresses(v=4).map(str)
PORTS = st.integers(0, 0xFFFF)
BYTES = st.integers(0, 0xFF)
IDS = st.lists(st.tuples(st.integers(1, 0xFFFF_FFFF), st.integers(1, 0xFFFF_FFFF)), max_size=20)


@given(ADDRESSES, PORTS, BYTES, st.integers(0, 300))
def test_keys_of_slots_are_those_of_their_records(address: str, port: int, protocol: int, count: int) -> None:
    start, key = key_start(address, port), ServiceKey(address, port, protocol)
    slots = list(range(1, count + 1))
    assert head_key(start, protocol) == key.pack()
    assert slot_keys(start, protocol, count) == b"".join(key._replace(slot=n).pack() for n in slots)
    assert slot_keys_of(start, protocol, slots[::-2]) == b"".join(key._replace(slot=n).pack() for n in slots[::-2])


@given(IDS)
def test_values_of_slots_and_members_are_those_of_their_records(ids: Sequence[tuple[int, int]]) -> None:
    backends, services = [backend for backend, _ in ids], [service for _, service in ids]
    assert slot_values(backends, services) == b"".join(ServiceValue(*pair).pack() for pair in ids)
    assert member_keys(services, backends) == b"".join(MemberKey(service, backend).pack() for backend, service in ids)
    assert member_values(len(ids)) == b"".join(MemberValue().pack() for _ in ids)
    assert backend_keys(backends) == b"".join(BackendKey(backend).pack() for backend in backends)


@given(ADDRESSES, PORTS, BYTES, BYTES, st.integers(0, 0xFFFF))
def test_values_of_backends_are_those_of_their_records(
    address: str, port: int, protocol: int, state: int, cluster: int
) -> None:
    places = [(address, backend_end(port, protocol, state, cluster)), ("10.2.0.1", backend_end(80, 6, 0, 2))]
    records = [BackendValue(address, port, protocol, state, cluster), BackendValue("10.2.0.1", 80, 6, 0, 2)]
    assert backend_values(places) == b"".join(record.pack() for record in records)


@pytest.mark.parametrize(
    ("address", "port", "protocol", "slots"),
    [
        ("fd00::1::", 80, 6, 1),
        ("10.0.0.300", 80, 6, 1),
        ("10.0.0.1", 65536, 6, 1),
        ("10.0.0.1", -1, 6, 1),
        ("10.0.0.1", 80, 256, 1),
        ("10.0.0.1", 80, 6, 65536),
    ],
)
def test_what_no_map_can_hold_is_a_value_error(address: str, port: int, protocol: int, slots: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        slot_keys(key_start(address, port), protocol, slots)


@pytest.mark.parametrize(
    "place", [(65536, 6, 0, 1), (80, 256, 0, 1), (80, 6, 256, 1), (80, 6, 0, 65536), (-1, 6, 0, 1)]
)
def test_a_backend_that_no_map_can_hold_is_a_value_error(place: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="port"):
        backend_end(*place)
