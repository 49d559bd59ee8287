# SPDX-License-Identifier: Apache-2.0
"""Loading, taking over, migrating and refusing, on one node without pods."""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.bootstrap import Facts
from agent.datapath import features, netlink, spec, syscall
from agent.datapath.config import OVERLAY_DEVICE, AttachMode, NodeConfig
from agent.datapath.errors import KernelError, LoadError, UnsupportedKernelError
from agent.datapath.features import KernelFeature, Presence
from agent.datapath.flow_layout import ConntrackKey, ConntrackValue
from agent.datapath.kernel import RawMap, kernel_maps
from agent.datapath.layout import BackendKey, BackendValue, IpcacheKey, IpcacheValue
from agent.datapath.loader import OBJECT_DIRECTORY, Datapath
from agent.machine import KernelHost
from agent.settings import AgentSettings
from meshmodel.names import ClusterId, ClusterName
from tests.integration.datapath.lone_node import lone_node, pod_interface
from tests.packet.datapath_host import run, tcx_programs

pytestmark = pytest.mark.root
FLOW = (ConntrackKey("10.0.0.1", "10.0.0.2", 1, 2, 6, 0), ConntrackValue(1, 2, 3, 4))
BACKEND = (BackendKey(1), BackendValue("10.0.0.1", 80, 6))
MAX_PROCESSED_INSTRUCTIONS = 48_000
MAX_FRAME_BYTES = 160


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeConfig]:
    sizes = {"mesh_ct_tcp": 4096, "mesh_ct_other": 4096}
    with lone_node("loader", tmp_path_factory.mktemp("loader"), max_entries=sizes) as made:
        yield made


def test_a_second_process_finds_what_the_first_one_wrote(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open().backends.update([BACKEND])
    datapath.close()
    assert dict(Datapath(config).open().backends.items()) == {BACKEND[0]: BACKEND[1]}
    assert kernel_maps(config.pin_directory).backends.get(BACKEND[0]) == BACKEND[1]


def test_maps_of_another_abi_start_empty_and_interfaces_wait_for_attach(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open().backends.update([BACKEND])
    datapath.attach(pod_interface())
    old = _program_on(config)
    abi = RawMap(syscall.get_pinned(config.pin_directory / "maps" / "mesh_abi"))
    abi.update([bytes(4)], [struct.pack("<I", 99)])
    abi.close()
    datapath.close()
    again = Datapath(config)
    assert not list(again.open().backends.items())
    assert again.attached() == {pod_interface()}
    assert _program_on(config) == old, "the old program goes on with its old maps"
    again.open().backends.update([BACKEND])
    again.attach(pod_interface())
    assert _program_on(config) != old
    again.close()


def _with_version(name: str, version: int) -> dict[str, spec.MapAbi]:
    return {**spec.ABIS, name: spec.ABIS[name]._replace(version=version)}


def test_a_new_version_of_one_map_empties_that_one_only(
    config: NodeConfig, datapath: Datapath, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = datapath.open()
    maps.backends.update([BACKEND])
    maps.ipcache.update([(IpcacheKey("10.0.0.0/8"), IpcacheValue(7))])
    maps.conntrack_tcp.update([FLOW])
    datapath.close()
    monkeypatch.setattr(spec, "ABIS", _with_version("mesh_backends", 2))
    again = Datapath(config)
    maps = again.open()
    assert not list(maps.backends.items())
    assert maps.ipcache.get(IpcacheKey("10.1.1.1")) == IpcacheValue(7)
    assert dict(maps.conntrack_tcp.items()) == {FLOW[0]: FLOW[1]}, "open connections survive the upgrade"
    maps.backends.update([BACKEND])
    again.close()
    assert dict(again.open().backends.items()) == {BACKEND[0]: BACKEND[1]}, "the new version is remembered"
    again.close()


def test_a_new_version_of_a_map_the_kernel_writes_waits_for_nobody(
    config: NodeConfig, datapath: Datapath, monkeypatch: pytest.MonkeyPatch
) -> None:
    datapath.open().conntrack_tcp.update([FLOW])
    datapath.attach(pod_interface())
    old = _program_on(config)
    datapath.close()
    monkeypatch.setattr(spec, "ABIS", _with_version("mesh_ct_tcp", 2))
    again = Datapath(config)
    assert not list(again.open().conntrack_tcp.items())
    assert _program_on(config) != old
    again.close()


def test_maps_of_an_agent_with_one_version_for_all_are_taken_over(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open().backends.update([BACKEND])
    datapath.close()
    path = config.pin_directory / "maps" / spec.ABI_NAME
    path.unlink()
    single = RawMap(syscall.create_map(syscall.MapType.ARRAY, 4, 4, 1))
    single.update([bytes(4)], [struct.pack("<I", 1)])
    syscall.pin(single.fd, path)
    single.close()
    again = Datapath(config)
    assert dict(again.open().backends.items()) == {BACKEND[0]: BACKEND[1]}
    again.close()


def _program_on(config: NodeConfig) -> str:
    shown = run(
        "bpftool", "link", "show", "pinned", str(config.pin_directory / "links" / f"pod_{pod_interface()}_ingress")
    )
    found = re.search(r"prog (\d+)", shown)
    assert found, shown
    return found[1]


def test_leftovers_of_an_interrupted_replacement_are_cleared(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open().ipcache.update([(IpcacheKey("10.0.0.0/8"), IpcacheValue(7))])
    datapath.close()
    staged = config.pin_directory / "staged"
    staged.mkdir()
    stray = syscall.create_map(syscall.MapType.HASH, 4, 4, 1)
    syscall.pin(stray, staged / "mesh_ipcache")
    os.close(stray)
    again = Datapath(replace(config, max_entries={**config.max_entries, "mesh_ipcache": 128}))
    maps = again.open()
    assert maps.ipcache.info().max_entries == 128
    assert maps.ipcache.get(IpcacheKey("10.1.1.1")) == IpcacheValue(7)
    assert not staged.exists()
    again.close()


def test_a_smaller_map_keeps_what_fits_and_waits_for_the_agent(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open().backends.update([(BackendKey(n), BACKEND[1]) for n in range(1, 101)])
    datapath.close()
    again = Datapath(replace(config, max_entries={**config.max_entries, "mesh_backends": 50}))
    assert again.open().backends.info().count == 50
    again.close()


@pytest.mark.parametrize("mode", [AttachMode.TCX, AttachMode.CLSACT])
def test_the_other_attach_mode_takes_over(config: NodeConfig, datapath: Datapath, mode: AttachMode) -> None:
    other = AttachMode.CLSACT if mode is AttachMode.TCX else AttachMode.TCX
    first = Datapath(replace(config, attach_mode=mode))
    first.open()
    first.attach(pod_interface())
    first.close()
    second = Datapath(replace(config, attach_mode=other))
    second.open()
    assert second.attached() == {pod_interface()}
    filters = run("bpftool", "net", "show", "dev", "lxc1").count("mesh_")
    assert (filters, tcx_programs("lxc1")) == ((0, 2) if other is AttachMode.TCX else (2, 0))
    second.close()


def test_links_of_interfaces_that_are_gone_are_forgotten(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    run("ip", "link", "add", "lxc2", "mtu", "1450", "type", "veth", "peer", "name", "peer2")
    gone = netlink.device("lxc2")
    assert gone
    datapath.attach(gone.ifindex)
    datapath.attach(pod_interface())
    run("ip", "link", "del", "lxc2")
    assert datapath.attached() == {pod_interface()}
    assert not [p for p in (config.pin_directory / "links").iterdir() if f"_{gone.ifindex}_" in p.name]
    datapath.detach(gone.ifindex)


def test_a_missing_interface_is_a_transient_error(datapath: Datapath) -> None:
    datapath.open()
    with pytest.raises(KernelError):
        datapath.attach(99_999)


def test_a_damaged_object_is_a_permanent_error_with_the_reason(config: NodeConfig, tmp_path: Path) -> None:
    objects = ("mesh_pod.bpf.o", "mesh_overlay.bpf.o", "mesh_stack.bpf.o")
    for name in objects:
        (tmp_path / name).write_bytes((OBJECT_DIRECTORY / name).read_bytes()[:2000])
    made = Datapath(config, tmp_path)
    with pytest.raises(LoadError) as failure:
        made.open()
    assert "libbpf" in failure.value.tail
    for name in objects:
        (tmp_path / name).write_bytes((OBJECT_DIRECTORY / name).read_bytes())
    assert made.open().backends.info().count == 0, "works once the objects do"
    made.uninstall()


def test_a_program_the_verifier_refuses_shows_its_words(config: NodeConfig, tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        'SEC("tc") int bad(struct __sk_buff *skb) { return *(int *)(long)skb->data; }\n'
        'char _license[] SEC("license") = "GPL";\n'
    )
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    run("clang-14", "-O2", "-g", "-target", "bpf", include, "-c", str(source), "-o", str(tmp_path / "bad.bpf.o"))
    from agent.datapath.libbpf import BpfObject

    made = BpfObject(tmp_path / "bad.bpf.o", config.pin_directory)
    with pytest.raises(LoadError, match="invalid access to packet"):
        made.load()
    made.close()


def test_an_overlay_device_with_other_settings_is_replaced(datapath: Datapath) -> None:
    run("ip", "link", "add", OVERLAY_DEVICE, "type", "vxlan", "id", "7", "dstport", "4789", "dev", "lo")
    datapath.open()
    shown = run("ip", "-d", "link", "show", OVERLAY_DEVICE)
    assert "external" in shown
    assert "dstport 8472" in shown
    assert "nolearning" in shown
    before = datapath.overlay_ifindex
    datapath.close()
    datapath.open()
    assert datapath.overlay_ifindex == before, "a fitting device is kept"


def test_uninstalling_twice_or_nothing_is_fine(config: NodeConfig) -> None:
    made = Datapath(config)
    made.uninstall()
    made.open()
    made.uninstall()
    made.uninstall()
    assert not config.pin_directory.exists()


@pytest.mark.parametrize("is_wanted", [False, True])
def test_maps_of_ipv6_are_made_where_its_packets_are_judged(config: NodeConfig, *, is_wanted: bool) -> None:
    datapath = Datapath(replace(config, ipv6=is_wanted, max_entries={"mesh_services6": 100}))
    maps = datapath.open()
    made = [path.name for path in (config.pin_directory / "maps").iterdir() if "6" in path.name]
    assert bool(made) is (maps.of_ipv6 is not None) is is_wanted
    assert maps.of_ipv6 is None or maps.of_ipv6.services.info().max_entries == 100
    datapath.uninstall()


def test_programs_stay_within_their_budgets(datapath: Datapath) -> None:
    datapath.open()
    for name, text in datapath.statistics().items():
        processed = re.search(r"processed (\d+) insns", text)
        stack = re.search(r"stack depth ([\d+]+)", text)
        assert processed, text
        assert stack, text
        frames = [int(n) for n in stack[1].split("+")]
        print(f"{name}: {processed[1]} instructions processed, largest frame {max(frames)} bytes")
        assert int(processed[1]) <= MAX_PROCESSED_INSTRUCTIONS
        assert max(frames) <= MAX_FRAME_BYTES


def test_features_are_present_on_a_kernel_that_is_new_enough() -> None:
    for feature in features.FEATURES:
        expected = Presence.PRESENT if features.kernel_version() >= feature.since else Presence.ABSENT
        assert features.presence(feature) is expected, feature.name


def test_a_probe_that_is_refused_for_another_reason_is_undetermined() -> None:
    def refuse() -> None:
        raise KernelError("probe", 1)

    assert features.presence(KernelFeature("x", (1, 0), required=False, probe=refuse)) is Presence.UNDETERMINED


@pytest.mark.runbook("kernel-old")
def test_a_kernel_that_lacks_what_is_needed_is_refused_with_what_and_since_when() -> None:
    def refuse() -> None:
        raise KernelError("probe", 22)

    features.check_kernel()
    wanted = (KernelFeature("flying", (99, 1), required=True, probe=refuse), features.FEATURES[0])
    with pytest.raises(
        UnsupportedKernelError, match=r"lacks flying \(Linux 99\.1\): the agent needs Linux 99\.1 or later"
    ):
        features.check_kernel(wanted)
    features.check_kernel([KernelFeature("flying", (99, 1), required=False, probe=refuse)])
    with pytest.raises(UnsupportedKernelError, match=r"Linux 5\.10 and lacks functions .*needs Linux 5\.12 or later"):
        features.check_kernel(running=(5, 10))


def test_an_agent_on_such_a_kernel_changes_nothing_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "172.18.0.2", ())
    host = KernelHost(AgentSettings(pin_directory=tmp_path / "pins"), facts)
    monkeypatch.setattr(features, "kernel_version", lambda: (5, 10))
    with pytest.raises(UnsupportedKernelError):
        host.open()
    assert not any(path.is_file() for path in (tmp_path / "pins").glob("*/*"))


def test_a_pod_mtu_that_leaves_no_room_is_reported(datapath: Datapath, caplog: pytest.LogCaptureFixture) -> None:
    datapath.open()
    run("ip", "link", "set", "lxc1", "mtu", "1500")
    try:
        datapath.attach(pod_interface())
    finally:
        run("ip", "link", "set", "lxc1", "mtu", "1450")
    assert [r.message for r in caplog.records if "MTU" in r.message]


@pytest.mark.parametrize("adapts", [False, True], ids=["at the next look", "devices change first"])
@pytest.mark.runbook("lost-pins")
def test_pins_that_are_removed_while_in_use_are_made_again(
    config: NodeConfig, datapath: Datapath, adapts: bool
) -> None:
    datapath.open().backends.update([BACKEND])
    datapath.attach(pod_interface())
    shutil.rmtree(config.pin_directory)
    assert {"links", "maps/mesh_backends", "programs/mesh_from_overlay"} < set(datapath.unpinned())
    if adapts:
        datapath.adapt()
    else:
        datapath.pin_again()
    assert (datapath.unpinned(), datapath.unattached([pod_interface()])) == ([], {pod_interface()})
    datapath.attach(pod_interface())
    assert (datapath.unattached([pod_interface()]), datapath.unattached_node()) == (set(), [])
    datapath.close()
    taken_over = Datapath(config)
    assert taken_over.open().backends.get(BACKEND[0]) == BACKEND[1], "the maps in use, not new ones"
    assert taken_over.attached() == {pod_interface()}
    taken_over.close()


@pytest.mark.runbook("node-devices")
def test_programs_follow_the_underlay_to_another_mtu_and_another_device(config: NodeConfig) -> None:
    for name in ("under1", "under2"):
        run("ip", "link", "add", name, "mtu", "1500", "type", "veth", "peer", "name", f"{name}p")
        run("ip", "link", "set", name, "up")
    run("ip", "addr", "add", "192.0.2.9/32", "dev", "under1")
    made = Datapath(replace(config, node_address="192.0.2.9", mtu=0))
    try:
        maps = made.open()
        maps.backends.update([BACKEND])
        made.attach(pod_interface())
        assert made.is_current()
        run("ip", "link", "set", "under1", "mtu", "1400")
        assert not made.is_current()
        made.adapt()
        overlay = netlink.device(OVERLAY_DEVICE)
        assert overlay is not None
        assert (made.mtu, overlay.mtu, made.is_current()) == (1350, 1350, True)
        assert (made.unattached([pod_interface()]), made.unattached_node()) == (set(), [])
        assert maps.backends.get(BACKEND[0]) == BACKEND[1]
        run("ip", "addr", "del", "192.0.2.9/32", "dev", "under1")
        with pytest.raises(KernelError):
            made.adapt()
        assert (made.unattached([pod_interface()]), made.unattached_node()) == (set(), [])
        run("ip", "addr", "add", "192.0.2.9/32", "dev", "under2")
        made.adapt()
        under2 = netlink.device("under2")
        assert under2 is not None
        assert (made.underlay_ifindex, made.mtu, made.unattached_node()) == (under2.ifindex, 1450, [])
        assert {a.ifindex for a in made._attacher.attachments() if a.role == "underlay"} == {under2.ifindex}
        made.move_to("192.0.2.10")
        assert not made.is_current()
        with pytest.raises(KernelError):
            made.adapt()  # no device has the address yet
        assert (made.unattached([pod_interface()]), made.unattached_node()) == (set(), [])
        run("ip", "addr", "add", "192.0.2.10/32", "dev", "under1")
        made.adapt()
        assert (made.is_current(), made.mtu, made.unattached_node()) == (True, 1350, [])
        assert maps.backends.get(BACKEND[0]) == BACKEND[1]
        run("ip", "link", "del", OVERLAY_DEVICE)
        assert not made.is_current()
        made.adapt()
        assert (made.is_current(), made.unattached_node()) == (True, [])
        assert maps.backends.get(BACKEND[0]) == BACKEND[1]
    finally:
        made.uninstall()
        for name in ("under1", "under2"):
            run("ip", "link", "del", name)
