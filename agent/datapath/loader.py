# SPDX-License-Identifier: Apache-2.0
"""Programs, maps and attachments of one node."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Final

from agent.datapath import features, kernel, netlink, spec, syscall
from agent.datapath.attach import Attacher, Attachment, Hook
from agent.datapath.config import OVERLAY_DEVICE, VXLAN_OVERHEAD, AttachMode, NodeConfig
from agent.datapath.delivery import DeliveryLinks
from agent.datapath.errors import KernelError, LoadError
from agent.datapath.events import EventRing
from agent.datapath.flow_layout import ProbeKey, ProbeValue
from agent.datapath.ipv6_calls import IPV6_OBJECT, IPV6_PROGRAMS, Ipv6Calls
from agent.datapath.libbpf import BpfObject
from agent.datapath.maps import Map, Maps
from agent.datapath.overlay_probe import OverlayProbe
from agent.datapath.pins import MapPins
from agent.datapath.program_constants import NodeDevices, program_constants
from agent.datapath.proxy_routes import add_proxy_routes, remove_proxy_routes, take_any_source
from agent.datapath.socket_hooks import SocketHooks, netns_cookie, prepare_hooks
from meshkit.errors import MeshError

log = logging.getLogger(__name__)
OBJECT_DIRECTORY: Final = Path(__file__).parent / "bpf"
OBJECTS: Final = ("mesh_pod.bpf.o", "mesh_overlay.bpf.o")
STACK_OBJECT: Final = "mesh_stack.bpf.o"
"""Of netfilter, which not every kernel has programs for."""
SOCKET_OBJECT: Final = "mesh_socket.bpf.o"
FROM_CONTAINER: Final = "mesh_from_container"
TO_CONTAINER: Final = "mesh_to_container"
FROM_OVERLAY: Final = "mesh_from_overlay"
TO_UNDERLAY: Final = "mesh_to_underlay"
FROM_UNDERLAY: Final = "mesh_from_underlay"
_LOOPBACK_IFINDEX: Final = 1
_POD_HOOKS: Final = {Hook.INGRESS: FROM_CONTAINER, Hook.EGRESS: TO_CONTAINER}


class Datapath:
    """The kernel side of one node. Everything stays pinned when the process ends; traffic does not notice."""

    def __init__(self, config: NodeConfig, object_directory: Path = OBJECT_DIRECTORY) -> None:
        self._config, self._object_directory = config, object_directory
        self._pins = config.pin_directory
        self._programs: dict[str, int] = {}
        self._objects: list[BpfObject] = []
        self._maps: Maps | None = None
        self.delivery_failure = ""
        """Why what the node's stack leads to the node's processes is not judged; empty if it is."""
        self._sockets: SocketHooks | None = None
        self._loaded_address = config.node_address
        self.mtu = 0
        self.overlay_ifindex = 0
        self.underlay_ifindex = 0
        self._underlay_has_frames = False
        self._netns_cookie = 0
        self.sockets_obstacle = ""
        """Why the node's own sockets are left alone; empty if they are not."""

    def open(self) -> Maps:
        """Load programs, take over or create pinned maps, bring up the overlay device. Idempotent.

        Interfaces a former process attached run the new programs afterwards, without losing a packet. If a map could
        not keep its entries (another record layout, its pin is gone or another map's), they go on with the old programs and maps
        until attach(), which is to be called once the maps are filled again.
        Raises: LoadError (permanent: kernel or libbpf refuse the objects), KernelError (transient).
        """
        if self._maps is None:
            try:
                self._maps = self._open()
            except MeshError:
                self.close()
                raise
            log.info("datapath loaded", extra={"path": str(self._pins)})
        return self._maps

    @property
    def address(self) -> str:
        """The node's underlay address, which the programs were loaded for unless adapt() is due."""
        return self._config.node_address

    def move_to(self, address: str) -> None:
        """The node has another underlay address; what runs goes on with the former one until adapt()."""
        self._config = replace(self._config, node_address=address)

    def is_current(self) -> bool:
        """The address, the overlay and the underlay device are those that the programs were loaded for.

        Raises: KernelError, OSError.
        """
        if self._maps is None:
            return True
        if self._loaded_address != self._config.node_address:
            return False
        underlay = self._find_underlay()
        mtu = self._config.mtu or (underlay.mtu - VXLAN_OVERHEAD if underlay else 0)
        overlay = netlink.device(OVERLAY_DEVICE)
        found = (underlay.ifindex if underlay else 0, mtu, overlay and overlay.ifindex, overlay and overlay.mtu)
        return found == (self.underlay_ifindex, self.mtu, self.overlay_ifindex, self.mtu)

    def adapt(self) -> None:
        """Programs fit the address and the devices as they are now: loaded anew over the same maps, in place of the running ones.

        No packet meets a hook without a program. After an exception the programs go on that ran before.
        Raises: LoadError, KernelError.
        """
        self.pin_again()
        fresh = Datapath(self._config, self._object_directory)
        for opened in _kernel_maps_of(fresh.open()):
            opened.close()
        for program_object in self._objects:
            program_object.close()
        self._objects, self._programs, self._sockets = fresh._objects, fresh._programs, fresh._sockets
        self.delivery_failure, self.sockets_obstacle = fresh.delivery_failure, fresh.sockets_obstacle
        self._loaded_address = self._config.node_address
        self.mtu, self.overlay_ifindex, self.underlay_ifindex = fresh.mtu, fresh.overlay_ifindex, fresh.underlay_ifindex
        log.info("datapath fits its devices again", extra={"key": f"{self.address} mtu {self.mtu}"})

    def unpinned(self) -> list[str]:
        """Which pins of maps and programs in use are gone, as paths below the pin directory, and whether that of links is.

        Changes nothing.
        """
        gone = [*self._lost_pins(), *([] if self._links.is_dir() else [self._links])]
        return sorted(str(path.relative_to(self._pins)) for path in gone)

    def pin_again(self) -> None:
        """What is in use is pinned, so that it outlives this process and the next one finds it. Raises: KernelError, OSError."""
        self._links.mkdir(parents=True, exist_ok=True)
        for path, fd in self._lost_pins().items():
            path.parent.mkdir(exist_ok=True)
            syscall.pin(fd, path)

    def attach(self, ifindex: int) -> None:
        """The endpoint's interface runs this object's programs; write the endpoint maps first. Idempotent."""
        device = netlink.device_by_index(ifindex)
        if device is not None and device.mtu > self.mtu:
            log.warning("pod MTU leaves no room for the overlay", extra={"endpoint": device.name, "error": device.mtu})
        self.attach_node()
        for hook, program in _POD_HOOKS.items():
            self._attacher.attach(Attachment("pod", ifindex, hook), self._programs[program], program)

    def detach(self, ifindex: int) -> None:
        """The interface runs none of our programs; absent is fine. Delete its endpoint entries afterwards."""
        for hook in _POD_HOOKS:
            self._attacher.detach(Attachment("pod", ifindex, hook))

    def attached(self) -> set[int]:
        """Interfaces that run our programs now, also those a former process attached."""
        live = self._attacher.attachments()
        hooks = set(_POD_HOOKS)
        indexes = {a.ifindex for a in live if a.role == "pod"}
        return {i for i in indexes if {a.hook for a in live if a.role == "pod" and a.ifindex == i} == hooks}

    def unattached(self, ifindexes: Collection[int]) -> set[int]:
        """Those of the interfaces on which one of our hooks runs no program of this process; changes nothing."""
        missing = set()
        for ifindex in ifindexes:
            for hook, program in _POD_HOOKS.items():
                if not self._attacher.runs(Attachment("pod", ifindex, hook), self._programs[program]):
                    missing.add(ifindex)
        return missing

    def attach_node(self, *, is_filled: bool = True) -> None:
        """The overlay and the underlay device run this object's programs. Idempotent. Raises: KernelError.

        Before the maps are filled, hooks that run a former process's program keep it: it has the maps it had.
        """
        for attachment, program in self._node_places(is_filled=is_filled):
            self._attacher.attach(attachment, self._programs[program], program)
        self._ipv6_calls.settle(with_running=is_filled)
        self._delivery.settle(self._programs, with_running=is_filled)
        if self._sockets is not None:
            self._sockets.attach(self._programs, with_running=is_filled)

    def unattached_node(self, *, is_filled: bool = True) -> list[str]:
        """Those of the node's own hooks that run no program of this process, such as "overlay ingress"; changes nothing.

        Before the maps are filled: those that run none of ours at all.
        """
        missing = [
            f"{attachment.role} {attachment.hook}"
            for attachment, program in self._node_places(is_filled=is_filled)
            if not self._attacher.runs(attachment, self._programs[program])
        ]
        missing += [f"{name} of {spec.CALLS_NAME}" for name in self._ipv6_calls.missing(with_running=is_filled)]
        missing += [f"stack {name}" for name in self._delivery.missing(self._programs, with_running=is_filled)]
        return missing + (
            self._sockets.missing(self._programs, with_running=is_filled) if self._sockets is not None else []
        )

    def unwatched(self) -> list[netlink.AddressedDevice]:
        """Devices with addresses of the node on which no program of ours watches what comes to it. Raises: KernelError."""
        own = {_LOOPBACK_IFINDEX, self.overlay_ifindex, self.underlay_ifindex}
        return [device for device in netlink.addressed_devices() if device.ifindex not in own]

    def event_ring(self) -> EventRing:
        """A reader of this node's events; one at a time."""
        directory = self._pins / "maps"
        return EventRing(directory / spec.EVENTS_NAME, directory / spec.LOST_NAME)

    def uninstall(self) -> None:
        """Nothing of ours is left: programs, links, maps, pins, overlay device."""
        for attachment in self._attacher.attachments():
            self._attacher.detach(attachment)
        self._delivery.detach()
        prepare_hooks(self._pins, None)
        netlink.remove_device(OVERLAY_DEVICE)
        remove_proxy_routes()
        self.close()
        if self._pins.is_dir():
            shutil.rmtree(self._pins)

    def close(self) -> None:
        """Give back file descriptors; nothing else changes."""
        for program_object in self._objects:
            program_object.close()
        self._objects.clear()
        self._programs.clear()
        if self._maps is not None:
            for opened in _kernel_maps_of(self._maps):
                opened.close()
        self._maps = None

    def program_fd(self, name: str) -> int:
        """Descriptor of a loaded program, for test runs and inspection."""
        return self._programs[name]

    @property
    def constants(self) -> bytes:
        """What programs are loaded with here."""
        devices = NodeDevices(self.overlay_ifindex, self.underlay_ifindex, self._underlay_has_frames, self.mtu)
        return program_constants(self._config, devices, self._netns_cookie)

    def statistics(self) -> dict[str, str]:
        """The verifier's figures for each program, as loaded by this process."""
        merged: dict[str, str] = {}
        for program_object in self._objects:
            merged.update(program_object.statistics())
        return merged

    @cached_property
    def _attacher(self) -> Attacher:
        return Attacher(self._links, use_tcx=self._wants_tcx())

    @cached_property
    def _delivery(self) -> DeliveryLinks:
        return DeliveryLinks(self._pins / "delivery")

    @property
    def _ipv6_calls(self) -> Ipv6Calls:
        return Ipv6Calls(self._pins / "maps" / spec.CALLS_NAME, self._programs)

    @property
    def _links(self) -> Path:
        return self._pins / "links"

    def _lost_pins(self) -> dict[Path, int]:
        maps = {self._pins / "maps" / name: o.map_fd(name) for o in self._objects for name in o.map_names()}
        programs = {self._pins / "programs" / name: fd for name, fd in self._programs.items()}
        return {path: fd for path, fd in (maps | programs).items() if not path.exists()}

    def overlay_probe(self, answers: Map[ProbeKey, ProbeValue]) -> OverlayProbe:
        """Asks other nodes' overlays from this node. Raises: OSError if its address cannot be bound."""
        config = self._config
        return OverlayProbe(config.node_address, config.vxlan_port, config.mark, self.mtu, answers)

    def _wants_tcx(self) -> bool:
        if self._config.attach_mode is AttachMode.AUTO:
            return features.has_tcx() is features.Presence.PRESENT
        return self._config.attach_mode is AttachMode.TCX

    def _open(self) -> Maps:
        self._prepare_overlay()
        self._netns_cookie = netns_cookie()
        self._sockets, self.sockets_obstacle = prepare_hooks(self._pins, self._config.control_group)
        running = self._attacher.programs() | self._delivery.programs()
        running |= self._sockets.programs() if self._sockets is not None else set()
        map_pins = MapPins(self._pins, [syscall.program_maps(number) for number in running])
        map_pins.prepare()
        self._links.mkdir(exist_ok=True)
        optional = {SOCKET_OBJECT: self._sockets is not None, IPV6_OBJECT: self._config.ipv6}
        for name in (*OBJECTS, *(name for name, is_wanted in optional.items() if is_wanted)):
            self._load(self._configure(name, map_pins))
        self._load_delivery(map_pins)
        complete = map_pins.swap()
        self._pin_programs()
        if complete:
            self._take_over()
        return kernel.kernel_maps(self._pins, ipv6=self._config.ipv6)

    def _prepare_overlay(self) -> None:
        config = self._config
        underlay = self._find_underlay()
        if underlay is None and not config.mtu:
            raise KernelError("find the underlay device", errno.ENODEV, config.underlay_device or config.node_address)
        self.underlay_ifindex = underlay.ifindex if underlay else 0
        self._underlay_has_frames = underlay is not None and underlay.has_frames
        self.mtu = config.mtu or (underlay.mtu if underlay else 0) - VXLAN_OVERHEAD
        self.overlay_ifindex = netlink.ensure_overlay(OVERLAY_DEVICE, config.vxlan_port, self.mtu)
        take_any_source(self.overlay_ifindex, OVERLAY_DEVICE)
        netlink.set_sysctl(f"net.ipv6.conf.{OVERLAY_DEVICE}.disable_ipv6", "1")
        add_proxy_routes()

    def _find_underlay(self) -> netlink.Device | None:
        config = self._config
        if config.underlay_device:
            return netlink.device(config.underlay_device)
        return netlink.device_with_address(config.node_address)

    def _load_delivery(self, map_pins: MapPins) -> None:
        """Programs for the node's stack; a kernel that does not take them costs nothing else."""
        program_object = self._configure(STACK_OBJECT, map_pins)
        program_object.set_program_type(syscall.PROGRAM_TYPE_NETFILTER, syscall.NETFILTER)
        try:
            self._load(program_object)
        except LoadError as exc:
            self._objects.remove(program_object)
            program_object.close()
            self.delivery_failure = f"this kernel takes no programs of netfilter ({os.strerror(exc.errno)})"
            log.warning("the node's stack runs no program of ours", extra={"error": str(exc)})

    def _configure(self, name: str, map_pins: MapPins) -> BpfObject:
        program_object = BpfObject(self._object_directory / name, map_pins.directory)
        self._objects.append(program_object)
        program_object.set_constants(self.constants)
        for map_name in program_object.map_names():
            if map_name in self._config.max_entries:
                program_object.set_max_entries(map_name, self._config.max_entries[map_name])
        map_pins.choose(program_object)
        program_object.keep_statistics()
        return program_object

    def _load(self, program_object: BpfObject) -> None:
        program_object.load()
        for name in program_object.program_names():
            self._programs[name] = program_object.program_fd(name)

    def _pin_programs(self) -> None:
        directory = self._pins / "programs"
        directory.mkdir(exist_ok=True)
        for name in IPV6_PROGRAMS:
            (directory / name).unlink(missing_ok=True)
        for name, fd in self._programs.items():
            path = directory / name
            path.unlink(missing_ok=True)
            syscall.pin(fd, path)

    def _take_over(self) -> None:
        self.attach_node()
        places = {attachment for attachment, _ in self._node_places()}
        for attachment in self._attacher.attachments():
            if attachment.role == "pod":
                program = _POD_HOOKS[attachment.hook]
                self._attacher.attach(attachment, self._programs[program], program)
            elif attachment not in places:  # the node's address moved to another device
                self._attacher.detach(attachment)

    def _node_places(self, *, is_filled: bool = True) -> list[tuple[Attachment, str]]:
        """The node's own hooks with their programs; before the maps are filled, only those without a program of ours."""
        places = [(Attachment("overlay", self.overlay_ifindex, Hook.INGRESS), FROM_OVERLAY)]
        if self.underlay_ifindex:
            places.append((Attachment("underlay", self.underlay_ifindex, Hook.EGRESS), TO_UNDERLAY))
            places.append((Attachment("underlay", self.underlay_ifindex, Hook.INGRESS), FROM_UNDERLAY))
        if is_filled:
            return places
        live = self._attacher.attachments()
        return [(attachment, program) for attachment, program in places if attachment not in live]


def _kernel_maps_of(maps: Maps) -> list[kernel.KernelMap]:  # type: ignore[type-arg]
    values = [getattr(maps, name) for name in Maps.__dataclass_fields__]
    return [value for value in values if isinstance(value, kernel.KernelMap)]
