# SPDX-License-Identifier: Apache-2.0
"""What every map promises, on the fake and on the kernel."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.datapath.config import NodeConfig
from agent.datapath.errors import MapError, MapFullError
from agent.datapath.flow_layout import MetricKey, MetricValue
from agent.datapath.kernel import KernelMap, RawMap
from agent.datapath.layout import (
    BackendKey,
    BackendValue,
    IpcacheKey,
    IpcacheValue,
    MemberKey,
    MemberValue,
    PolicyKey,
    PolicyValue,
    ServiceKey,
    ServiceValue,
)
from agent.datapath.loader import Datapath
from agent.datapath.maps import MapRecord, Maps, ServiceMaps
from agent.datapath.memory import memory_maps
from agent.datapath.source_range_layout import SourceRangeKey, SourceRangeValue
from tests.packet.datapath_host import bpffs, build_objects, inside, namespace
from tests.support.leftovers import own_name

SIZES = {"mesh_backends": 100_000, "mesh_members": 4, "mesh_ct_tcp": 4096, "mesh_ct_other": 4096, "mesh_services6": 16}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maps]:
    build_objects()
    directory: Path = tmp_path_factory.mktemp("contract") / "bpf"
    with bpffs(directory) as pins, namespace(own_name("contract")) as name, inside(name):
        datapath = Datapath(NodeConfig("127.0.0.1", 1, pins / "node", mtu=1450, max_entries=SIZES, ipv6=True))
        try:
            yield datapath.open()
        finally:
            datapath.uninstall()


@pytest.fixture(params=["memory", pytest.param("kernel", marks=pytest.mark.root)])
def maps(request: pytest.FixtureRequest) -> Maps:
    if request.param == "memory":
        return memory_maps(SIZES, ipv6=True)
    found: Maps = request.getfixturevalue("kernel")
    found.services.delete([k for k, _ in found.services.items()])
    found.backends.delete([k for k, _ in found.backends.items()])
    found.ipcache.delete([k for k, _ in found.ipcache.items()])
    found.policy.delete([k for k, _ in found.policy.items()])
    return found


def _maps6(maps: Maps) -> ServiceMaps:
    assert maps.of_ipv6 is not None
    return maps.of_ipv6


def test_services_of_ipv6_are_in_maps_of_their_own(maps: Maps) -> None:
    held = _maps6(maps)
    key, value = ServiceKey("fd00:20::7", 80, 6), ServiceValue(0, 7, 1)
    backend = (BackendKey(4), BackendValue("fd00:1::10", 8080, 6, cluster_id=2))
    ranges = [SourceRangeKey(7, text) for text in ("::/0", "fd00::/8", "fd00:1::10/128")]
    held.backends.update([backend])
    held.services.update([(key._replace(slot=1), ServiceValue(4, 7)), (key, value)])
    held.source_ranges.update([(one, SourceRangeValue()) for one in ranges])
    assert dict(held.services.items()) == {key: value, key._replace(slot=1): ServiceValue(4, 7)}
    assert dict(held.backends.items()) == {backend[0]: backend[1]}
    assert {entry for entry, _ in held.source_ranges.items()} == set(ranges)
    assert (held.services.info().name, held.services.info().max_entries) == ("mesh_services6", 16)
    assert not list(maps.services.items())
    held.services.delete([key, key._replace(slot=1)])
    assert not list(held.services.items())


def test_a_record_of_the_other_family_is_refused_before_the_kernel_reads_it(maps: Maps) -> None:
    ipv4, ipv6 = ServiceKey("10.0.0.1", 80, 6), ServiceKey("fd00:20::7", 80, 6)
    for held, key in ((maps.services, ipv6), (_maps6(maps).services, ipv4)):
        with pytest.raises(ValueError, match=r"mesh_services|argument"):
            held.update([(key, ServiceValue(0, 7))])
        with pytest.raises(ValueError, match=r"mesh_services|argument"):
            held.update_packed(key.pack(), ServiceValue(0, 7).pack())
        assert not list(held.items())


def _backend(number: int) -> tuple[BackendKey, BackendValue]:
    return BackendKey(number), BackendValue(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 80, 6)


@pytest.mark.parametrize("count", [0, 1, 2, 4096, 4097, 20_000])
def test_what_was_written_is_there_and_nothing_else(maps: Maps, count: int) -> None:
    items = [_backend(n) for n in range(1, count + 1)]
    maps.backends.update(items)
    assert dict(maps.backends.items()) == dict(items)
    assert maps.backends.info().count == count
    maps.backends.delete([key for key, _ in items[1:]])
    assert dict(maps.backends.items()) == dict(items[:1])


def _packed(items: Sequence[tuple[MapRecord, MapRecord]]) -> tuple[bytes, bytes]:
    return b"".join(key.pack() for key, _ in items), b"".join(value.pack() for _, value in items)


@pytest.mark.parametrize("count", [0, 1, 2, 4096, 4097, 20_000])
def test_packed_records_are_written_like_others(maps: Maps, count: int) -> None:
    items = [_backend(n) for n in range(1, count + 1)]
    maps.backends.update_packed(*_packed(items))
    assert dict(maps.backends.items()) == dict(items)


def test_the_last_of_packed_records_with_one_key_counts(maps: Maps) -> None:
    key, value = _backend(1)
    maps.backends.update_packed(*_packed([(key, value), (key, value._replace(port=81))]))
    assert maps.backends.get(key) == value._replace(port=81)


@pytest.mark.parametrize("batches_work", [True, False])
def test_a_full_map_says_how_many_packed_records_it_took(maps: Maps, batches_work: bool) -> None:
    if isinstance(maps.members, KernelMap):
        maps.members._raw.batches_work = batches_work
    items = [(MemberKey(1, n), MemberValue()) for n in range(10)]
    with pytest.raises(MapFullError) as failure:
        maps.members.update_packed(*_packed(items))
    assert failure.value.done == 4
    assert {k.backend_id for k, _ in maps.members.items()} == {0, 1, 2, 3}
    maps.members.delete([key for key, _ in items])


def test_packed_records_are_written_one_by_one_where_the_kernel_has_no_batches(
    maps: Maps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that refuses the command, and one that is known to."""
    monkeypatch.setattr(RawMap, "_batch", lambda *_: (errno.EINVAL, 0))
    items = [_backend(n) for n in range(1, 5001)]
    maps.backends.update_packed(*_packed(items[:2500]))
    maps.backends.update_packed(*_packed(items[2500:]))
    monkeypatch.undo()
    assert dict(maps.backends.items()) == dict(items)
    if isinstance(maps.backends, KernelMap):
        assert not maps.backends._raw.batches_work
        maps.backends._raw.batches_work = True


def test_the_last_write_of_a_key_counts(maps: Maps) -> None:
    key, value = _backend(1)
    maps.backends.update([(key, value), (key, value._replace(port=81)), (key, value._replace(port=82))])
    assert maps.backends.get(key) == value._replace(port=82)


def test_absent_keys_can_be_deleted_among_present_ones(maps: Maps) -> None:
    maps.backends.update([_backend(n) for n in (2, 4, 6)])
    maps.backends.delete([BackendKey(n) for n in range(1, 8)])
    assert maps.backends.get(BackendKey(4)) is None
    assert not list(maps.backends.items())


def test_a_full_map_says_so_and_how_far_it_got(maps: Maps) -> None:
    with pytest.raises(MapFullError) as failure:
        maps.members.update([(MemberKey(1, n), MemberValue()) for n in range(10)])
    assert failure.value.done == 4
    assert isinstance(failure.value, MapError)
    assert {k.backend_id for k, _ in maps.members.items()} == {0, 1, 2, 3}
    maps.members.delete([MemberKey(1, n) for n in range(10)])


def test_a_prefix_map_answers_with_the_longest_prefix(maps: Maps) -> None:
    maps.ipcache.update(
        [(IpcacheKey(p), IpcacheValue(n)) for n, p in enumerate(["10.0.0.0/8", "10.2.0.0/16", "10.2.1.4/32"], 1)]
    )
    found = [maps.ipcache.get(IpcacheKey(a)) for a in ("10.2.1.4", "10.2.9.9/32", "10.9.9.9/32", "11.0.0.1/32")]
    assert [v.identity if v else None for v in found] == [3, 2, 1, None]
    maps.ipcache.delete([IpcacheKey("10.2.0.0/16")])
    assert maps.ipcache.get(IpcacheKey("10.2.9.9")) == IpcacheValue(1)
    assert {k.prefix for k, _ in maps.ipcache.items()} == {"10.0.0.0/8", "10.2.1.4/32"}


def test_families_do_not_mix(maps: Maps) -> None:
    maps.ipcache.update([(IpcacheKey("0.0.0.0/0"), IpcacheValue(2)), (IpcacheKey("fd00::/8"), IpcacheValue(3))])
    assert maps.ipcache.get(IpcacheKey("fd00::1")) == IpcacheValue(3)
    assert maps.ipcache.get(IpcacheKey("fe80::1")) is None


def test_a_policy_entry_covers_its_port_prefix_and_protocol(maps: Maps) -> None:
    wide, narrow = PolicyValue(False, 1, 10), PolicyValue(True, 255, 11)
    maps.policy.update([(PolicyKey(7, 1, 42), wide), (PolicyKey(7, 1, 42, 6, 8064, 10), narrow)])
    full = {8100: narrow, 8128: wide, 8063: wide}
    assert {p: maps.policy.get(PolicyKey(7, 1, 42, 6, p, 16)) for p in full} == full
    assert maps.policy.get(PolicyKey(7, 1, 42, 17, 8100, 16)) == wide
    assert maps.policy.get(PolicyKey(7, 0, 42, 6, 8100, 16)) is None
    assert dict(maps.policy.items()) == {
        PolicyKey(7, 1, 42): wide,
        PolicyKey(7, 1, 42, 6, 8064, 10): narrow,
    }


def test_a_record_that_does_not_fit_writes_nothing(maps: Maps) -> None:
    with pytest.raises(ValueError, match="port"):
        maps.services.update([(ServiceKey("10.0.0.1", 70_000, 6), ServiceValue(0, 1))])
    assert not list(maps.services.items())


def test_metrics_are_one_number_over_all_cpus(maps: Maps) -> None:
    key = MetricKey(133, 1)
    maps.metrics.update([(key, MetricValue(5, 500))])
    assert maps.metrics.get(key) == MetricValue(5, 500)
    assert dict(maps.metrics.items())[key] == MetricValue(5, 500)
