# SPDX-License-Identifier: Apache-2.0
"""Devices of the node's network namespace: overlay, MTU, tc filters. Raises KernelError.

The process runs inside that namespace already. Each call is one short netlink conversation in a thread of its own,
because pyroute2's synchronous face brings its own event loop; callers wait for it, whether they run in a loop or not.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from agent.datapath.errors import KernelError, OverlayPortTakenError
from meshapi import installed
from meshkit.errors import MAXIMUM_TEXT

T = TypeVar("T")
SETTINGS: Final = Path("/proc/sys")
NET_SETTINGS: Final = Path(installed.NET_SETTINGS)
INGRESS_PARENT: Final = 0xFFFFFFF2
EGRESS_PARENT: Final = 0xFFFFFFF3
_TCA_BPF_ID = 11
_PORT_TAKEN: Final = frozenset({errno.EADDRINUSE, errno.EEXIST})
_FILTER_HANDLE: Final = 1
_FILTER_PRIORITY: Final = 0xC111
_ETHERNET_TYPES: Final = frozenset({1, 772})  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_SCOPE_LINK: Final = 253
_SCOPE_HOST: Final = 254
_RTN_LOCAL: Final = 2
_LOOPBACK_IFINDEX: Final = 1
_IFF_UP: Final = 1


class Device(NamedTuple):
    """An interface of the node. `has_frames`: its packets have an Ethernet header."""

    ifindex: int
    name: str
    mtu: int
    kind: str
    has_frames: bool = True


class AddressedDevice(NamedTuple):
    """A device that is up and has addresses that others may reach, each as address/bits."""

    ifindex: int
    name: str
    kind: str
    addresses: tuple[str, ...]


def change_tables(operation: str, talk: Callable[[Any], None]) -> None:
    """talk(NFTables) about tables of IPv4, as one transaction. Raises: KernelError."""

    def meet() -> Any:
        from pyroute2.nftables.main import NFTables

        return NFTables(nfgen_family=socket.AF_INET)

    def change(tables: Any) -> None:
        tables.begin()
        talk(tables)
        tables.commit()

    _converse(operation, change, meet)


def _routes() -> Any:
    from pyroute2 import IPRoute

    return IPRoute()


def _converse(operation: str, talk: Callable[[Any], T], meet: Callable[[], Any] = _routes) -> T:
    """talk(IPRoute), or with whom one can `meet` else, in a new thread of this network namespace; its error is ours."""
    outcome: list[T] = []
    failure: list[Exception] = []

    def run() -> None:
        from pyroute2 import NetlinkError

        try:
            with meet() as other:
                outcome.append(talk(other))
        except NetlinkError as exc:
            failure.append(KernelError(operation, exc.code or errno.EIO, str(exc)[:MAXIMUM_TEXT]))
        except KernelError as exc:
            failure.append(exc)
        except OSError as exc:
            failure.append(KernelError(operation, exc.errno or errno.EIO, str(exc)[:MAXIMUM_TEXT]))

    thread = threading.Thread(target=run, name="netlink")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND") or "") if info else ""


def _device(link: Any) -> Device:
    has_frames = link["ifi_type"] in _ETHERNET_TYPES
    return Device(link["index"], link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_MTU"), _kind(link), has_frames)


def device(name: str) -> Device | None:
    """The device of that name, or None."""

    def talk(route: Any) -> Device | None:
        found = route.link_lookup(ifname=name)
        return _device(route.get_links(found[0])[0]) if found else None

    return _converse(f"look up {name}", talk)


def device_by_index(ifindex: int) -> Device | None:
    """The device with that index, or None."""
    found = [d for d in devices() if d.ifindex == ifindex]
    return found[0] if found else None


def devices() -> list[Device]:
    """Every device of the namespace."""
    return _converse("list devices", lambda route: [_device(link) for link in route.get_links()])


def device_with_address(address: str) -> Device | None:
    """The device that holds this address, or None."""

    def talk(route: Any) -> Device | None:
        for entry in route.get_addr(family=socket.AF_INET):
            if address in (entry.get_attr("IFA_LOCAL"), entry.get_attr("IFA_ADDRESS")):
                return _device(route.get_links(entry["index"])[0])
        return None

    return _converse(f"look up {address}", talk)


def addressed_devices() -> list[AddressedDevice]:
    """Every device of the namespace that is up and has an address beyond link-local ones, in order of their numbers."""

    def talk(route: Any) -> list[AddressedDevice]:
        held: dict[int, list[str]] = {}
        for entry in route.get_addr():
            address = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            if address and entry["scope"] < _SCOPE_LINK:
                held.setdefault(entry["index"], []).append(f"{address}/{entry['prefixlen']}")
        links = [link for link in route.get_links() if link["index"] in held and link["flags"] & _IFF_UP]
        return [
            AddressedDevice(
                link["index"], link.get_attr("IFLA_IFNAME"), _kind(link), tuple(sorted(held[link["index"]]))
            )
            for link in sorted(links, key=lambda link: int(link["index"]))
        ]

    return _converse("list addresses", talk)


def ensure_overlay(name: str, port: int, mtu: int) -> int:
    """A collect-metadata VXLAN device of that name, port and MTU is up; its ifindex.

    A device of that name with other settings is replaced. It learns nothing: programs say where packets go.
    Raises: OverlayPortTakenError, KernelError.
    """

    def talk(route: Any) -> int:
        if others := _vxlan_devices(route, port, but=name):
            raise OverlayPortTakenError(f"create {name}", errno.EADDRINUSE, port, others)
        found = route.link_lookup(ifname=name)
        if found and not _is_overlay(route.get_links(found[0])[0], port):
            route.link("del", index=found[0])
            found = ()
        if not found:
            options = {"vxlan_collect_metadata": True, "vxlan_learning": False, "vxlan_port": port}
            route.link("add", ifname=name, kind="vxlan", mtu=mtu, **options)
            found = route.link_lookup(ifname=name)
        route.link("set", index=found[0], mtu=mtu, state="up")
        return int(found[0])

    try:
        return _converse(f"create {name}", talk)
    except KernelError as exc:
        if exc.errno not in _PORT_TAKEN or isinstance(exc, OverlayPortTakenError):
            raise
        raise OverlayPortTakenError(exc.operation, exc.errno, port, ()) from exc


def _vxlan_devices(route: Any, port: int, *, but: str) -> list[str]:
    """Names of VXLAN devices with this UDP port, but one."""
    found = [link for link in route.get_links() if _kind(link) == "vxlan" and _vxlan_port(link) == port]
    return sorted(name for link in found if (name := str(link.get_attr("IFLA_IFNAME"))) != but)


def _vxlan_port(link: Any) -> int:
    data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    return int(data.get_attr("IFLA_VXLAN_PORT")) if data else 0


def _is_overlay(link: Any, port: int) -> bool:
    info = link.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    if not data or _kind(link) != "vxlan":
        return False
    return bool(data.get_attr("IFLA_VXLAN_COLLECT_METADATA")) and int(data.get_attr("IFLA_VXLAN_PORT")) == port


def remove_device(name: str) -> None:
    """No device of that name exists."""

    def talk(route: Any) -> None:
        for ifindex in route.link_lookup(ifname=name):
            route.link("del", index=ifindex)

    _converse(f"remove {name}", talk)


def replace_filter(ifindex: int, parent: int, program_fd: int, name: str) -> None:
    """The interface's clsact hook runs this program at our priority, from one packet to the next."""

    def talk(route: Any) -> None:
        if not any(q.get_attr("TCA_KIND") == "clsact" for q in route.get_qdiscs(index=ifindex)):
            route.tc("add", "clsact", index=ifindex)
        options = {"fd": program_fd, "name": name, "direct_action": True, "classid": 1}
        place = {"handle": _FILTER_HANDLE, "prio": _FILTER_PRIORITY, "protocol": 3, "parent": parent}
        route.tc("replace-filter", "bpf", index=ifindex, **place, **options)

    _converse(f"attach {name}", talk)


def _our_filters(route: Any, ifindex: int, parent: int) -> list[Any]:
    found = route.get_filters(index=ifindex, parent=parent)
    return [f for f in found if f["info"] >> 16 == _FILTER_PRIORITY and f.get_attr("TCA_KIND") == "bpf"]


def has_filter(ifindex: int, parent: int) -> bool:
    """The clsact hook of an existing interface runs a program at our priority."""
    return bool(filter_programs(ifindex, parent))


def filter_programs(ifindex: int, parent: int) -> list[int]:
    """The ids of the programs at our priority on the clsact hook; none where there is no such interface."""

    def talk(route: Any) -> list[int]:
        if not any(q.get_attr("TCA_KIND") == "clsact" for q in route.get_qdiscs(index=ifindex)):
            return []
        return [_program_of(found) for found in _our_filters(route, ifindex, parent)]

    try:
        return _converse("list filters", talk)
    except KernelError as exc:
        if exc.errno == errno.ENODEV:
            return []
        raise


def _program_of(found: Any) -> int:
    """TCA_BPF_ID of a filter, which pyroute2 leaves undecoded; 0 without it. Source: include/uapi/linux/pkt_cls.h."""
    options = found.get_attr("TCA_OPTIONS")
    for slot in options["attrs"] if options else ():
        part = slot.cell[1] if slot[0] == "UNKNOWN" else None
        if part is not None and struct.unpack_from("=H", part.data, part.offset + 2)[0] == _TCA_BPF_ID:
            return int(struct.unpack_from("=I", part.data, part.offset + 4)[0])
    return 0


def remove_filters(ifindex: int) -> None:
    """The interface has none of our filters, and no clsact qdisc if ours were its last."""

    def talk(route: Any) -> None:
        if not any(q.get_attr("TCA_KIND") == "clsact" for q in route.get_qdiscs(index=ifindex)):
            return
        parents = (INGRESS_PARENT, EGRESS_PARENT)
        for parent in parents:
            if _our_filters(route, ifindex, parent):
                route.tc("del-filter", "bpf", index=ifindex, parent=parent, prio=_FILTER_PRIORITY, protocol=3)
        if not any(list(route.get_filters(index=ifindex, parent=parent)) for parent in parents):
            route.tc("del", "clsact", index=ifindex)

    try:
        _converse("remove filters", talk)
    except KernelError as exc:
        if exc.errno != errno.ENODEV:
            raise


class MarkRule(NamedTuple):
    """Packets of IPv4 with this mark are looked up in a table of their own."""

    priority: int
    mark: int
    mask: int
    table: int

    @property
    def fields(self) -> dict[str, int]:
        """As pyroute2 takes them."""
        return {
            "family": socket.AF_INET, "priority": self.priority, "fwmark": self.mark, "fwmask": self.mask, "table": self.table,
        }  # fmt: skip


def deliver_marked(rule: MarkRule) -> None:
    """What has the mark is the node's own, whatever address it is for."""

    def talk(route: Any) -> None:
        if not list(route.get_rules(family=socket.AF_INET, match={"priority": rule.priority, "table": rule.table})):
            route.rule("add", **rule.fields)
        place = {"family": socket.AF_INET, "dst": "default", "oif": _LOOPBACK_IFINDEX, "table": rule.table}
        route.route("replace", type=_RTN_LOCAL, scope=_SCOPE_HOST, **place)

    _converse("deliver marked packets", talk)


def hold_address(ifindex: int, address: str) -> None:
    """The device has this address, for the node alone."""

    def talk(route: Any) -> None:
        route.addr("replace", index=ifindex, address=address, prefixlen=32, scope=_SCOPE_HOST)

    _converse(f"add {address}", talk)


def leave_marked(rule: MarkRule) -> None:
    """Nothing is left of `deliver_marked`."""

    def talk(route: Any) -> None:
        for _ in list(route.get_rules(family=socket.AF_INET, match={"priority": rule.priority, "table": rule.table})):
            route.rule("del", **rule.fields)
        route.flush_routes(family=socket.AF_INET, table=rule.table)

    _converse("leave marked packets", talk)


def sysctl(name: str) -> str:
    """The setting's value; empty if it cannot be read. `name` like net.ipv4.ip_forward."""
    try:
        return SETTINGS.joinpath(*name.split(".")).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def set_sysctl(name: str, value: str) -> bool:
    """The setting has this value; False where the process may not write it. `name` like net.ipv4.ip_forward.

    Container runtimes mount /proc/sys read-only, so the agent's pod has what is below net at NET_SETTINGS too.
    """
    words = name.split(".")
    for path in (NET_SETTINGS.joinpath(*words[1:]), SETTINGS.joinpath(*words)):
        try:
            if path.read_text(encoding="ascii").strip() != value:
                path.write_text(value, encoding="ascii")
        except OSError:
            continue
        return True
    return False
