# SPDX-License-Identifier: Apache-2.0
"""What host policies do not reach on this node while they are in force: devices that no program of ours watches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface
from typing import Final, Protocol

from agent.datapath.errors import KernelError
from agent.tables import THE_NODE, AgentDB, Endpoint
from kube.client import in_thread
from meshkit.clock import Clock

_LOOK_S: Final = 2.0
_NOTHING_COMES_BY: Final = frozenset({"dummy"})

log = logging.getLogger(__name__)


class UnwatchedDevice(Protocol):
    """A device of the node with addresses of the node, each as address/bits."""

    @property
    def ifindex(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...


class WatchedNode(Protocol):
    """What the node says of itself; both may block, `unwatched` raises KernelError."""

    def unwatched(self) -> Sequence[UnwatchedDevice]: ...
    def delivery_failure(self) -> str: ...


class HostReach:
    """`limits` says, a line each, what is not judged on this node; nothing while no host policy selects it."""

    def __init__(self, db: AgentDB, machine: WatchedNode, clock: Clock) -> None:
        self._db, self._machine, self._clock = db, machine, clock
        self._devices: Sequence[UnwatchedDevice] = ()

    def limits(self) -> list[str]:
        """As of the last look."""
        if self._db.verdicts.get(THE_NODE.address) is None:
            return []
        found = unreached(self._devices, self._db.endpoints.rows())
        failure = self._machine.delivery_failure()
        if failure:
            found.append(
                "what kube-proxy leads to a process of the node by a Service's address is judged by the port of the "
                f"Service if it is TCP, and not at all otherwise: {failure}"
            )
        return found

    async def follow(self, changed: Callable[[], None]) -> None:
        """Until cancelled; `changed` is called when there are other limits than before."""
        known: list[str] = []
        while True:
            if self._db.verdicts.get(THE_NODE.address) is not None:
                try:
                    self._devices = await in_thread(self._machine.unwatched)
                except KernelError as exc:
                    log.warning("cannot list the node's devices", extra={"error": str(exc)})
            limits = self.limits()
            if limits != known:
                known = limits
                changed()
            await self._clock.sleep(_LOOK_S)


def unreached(devices: Iterable[UnwatchedDevice], endpoints: Iterable[Endpoint]) -> list[str]:
    """The devices by which something may come to the node that is not judged. Pure.

    Not those of pods, which are watched themselves, nor the bridge that they are behind, nor what leads nowhere.
    """
    pods = tuple(endpoints)
    interfaces = {pod.ifindex for pod in pods}
    addresses = [IPv4Address(pod.address) for pod in pods if "." in pod.address]
    return [
        f"traffic over device {device.name} ({', '.join(device.addresses)}) is not judged"
        for device in sorted(devices, key=lambda d: d.name)
        if device.kind not in _NOTHING_COMES_BY
        and device.ifindex not in interfaces
        and not (
            device.kind == "bridge" and any(_has_pod(ip_interface(a).network, addresses) for a in device.addresses)
        )
    ]


def _has_pod(network: IPv4Network | IPv6Network, pods: Sequence[IPv4Address]) -> bool:
    return any(pod in network for pod in pods)
