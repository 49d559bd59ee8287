# SPDX-License-Identifier: Apache-2.0
"""The programs in the node's stack: when they run, and what a kernel without them costs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.datapath import netlink, syscall
from agent.datapath.config import NodeConfig
from agent.datapath.delivery import STACK_HOOKS, DeliveryLinks, Family
from agent.datapath.loader import OBJECT_DIRECTORY, STACK_OBJECT, Datapath
from tests.packet.datapath_host import bpffs, build_objects, inside, namespace, run

pytestmark = pytest.mark.root
STACK = [f"stack {hook.name}" for hook in STACK_HOOKS]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeConfig]:
    build_objects()
    name = f"dpt-deliver-{os.getpid()}"
    with bpffs(tmp_path_factory.mktemp("deliver") / "bpf") as pins, namespace(name), inside(name):
        yield NodeConfig("127.0.0.1", 1, pins / "node", mtu=1450)


def links(config: NodeConfig) -> DeliveryLinks:
    return DeliveryLinks(config.pin_directory / "delivery")


def hooked(programs: set[int]) -> list[int]:
    """Which of the programs the kernel runs in its stack."""
    found = re.findall(r"type 10 +prog (\d+)", run("bpftool", "link", "show"))
    return sorted(programs & set(map(int, found)))


def test_they_run_from_attaching_on_and_are_gone_with_everything_else(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    own = {syscall.program_id(datapath.program_fd(hook.program)) for hook in STACK_HOOKS}
    assert (datapath.delivery_failure, set(STACK) & set(datapath.unattached_node())) == ("", set(STACK))
    assert hooked(own) == []
    datapath.attach_node()
    assert (datapath.unattached_node(), hooked(own)) == ([], sorted(own))
    datapath.attach_node()
    assert hooked(own) == sorted(own)
    datapath.uninstall()
    assert (links(config).programs(), hooked(own)) == (set(), [])


def test_the_programs_of_a_former_agent_run_until_the_maps_are_filled(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    datapath.attach_node()
    former = links(config).programs()
    datapath.close()
    shutil.rmtree(config.pin_directory / "maps")
    again = Datapath(config)
    try:
        again.open()
        again.attach_node(is_filled=False)
        assert (again.unattached_node(is_filled=False), links(config).programs()) == ([], former)
        again.attach_node()
        assert (again.unattached_node(), len(links(config).programs() - former)) == ([], len(STACK))
    finally:
        again.close()


def test_a_link_that_somebody_removed_is_missed_and_made_again(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    datapath.attach_node()
    (config.pin_directory / "delivery" / "delivery_ipv4").unlink()
    assert datapath.unattached_node() == datapath.unattached_node(is_filled=False) == ["stack ipv4"]
    datapath.attach_node(is_filled=False)
    assert datapath.unattached_node() == []


def test_other_programs_of_netfilter_leave_room_for_ours_until_all_priorities_are_taken(
    config: NodeConfig, datapath: Datapath
) -> None:
    datapath.open()
    program = datapath.program_fd("mesh_delivered")
    place = (program, Family.IPV4.value, syscall.LOCAL_IN)
    taken = [syscall.create_netfilter_link(*place, priority) for priority in range(-16, -1)]
    try:
        datapath.attach_node()
        assert datapath.unattached_node() == []
    finally:
        for link in taken:
            os.close(link)


def test_a_kernel_that_refuses_them_costs_nothing_else_and_is_told(
    config: NodeConfig, datapath: Datapath, tmp_path: Path
) -> None:
    """Programs of tc stand for it: no kernel takes them where netfilter's belong."""
    shutil.copytree(OBJECT_DIRECTORY, tmp_path / "bpf")
    shutil.copy(OBJECT_DIRECTORY / "mesh_overlay.bpf.o", tmp_path / "bpf" / STACK_OBJECT)
    made = Datapath(config, tmp_path / "bpf")
    try:
        made.open()
        made.attach_node()
        assert made.delivery_failure.startswith("this kernel takes no programs of netfilter (")
        assert (made.unattached_node(), links(config).programs(), made.unpinned()) == ([], set(), [])
    finally:
        made.close()
    datapath.open()
    datapath.attach_node()
    assert (datapath.delivery_failure, datapath.unattached_node()) == ("", [])


def test_devices_with_addresses_that_no_program_watches_are_named(config: NodeConfig) -> None:
    for name, address in (("under0", "192.0.2.9/24"), ("other0", "198.51.100.9/24"), ("down0", "203.0.113.9/24")):
        run("ip", "link", "add", name, "mtu", "1500", "type", "veth", "peer", "name", f"{name}p")
        run("ip", "addr", "add", address, "dev", name)
        run("ip", "link", "set", name, "down" if name == "down0" else "up")
    made = Datapath(replace(config, node_address="192.0.2.9", mtu=0))
    try:
        made.open()
        other = netlink.device("other0")
        assert other is not None
        assert made.unwatched() == [netlink.AddressedDevice(other.ifindex, "other0", "veth", ("198.51.100.9/24",))]
    finally:
        made.uninstall()
        for name in ("under0", "other0", "down0"):
            run("ip", "link", "del", name)
