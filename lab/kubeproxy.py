# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy does on a node, as one nft ruleset: ClusterIP for the node's own processes, and NodePort.

`render` only makes text; `apply` replaces the whole table in one transaction, so a packet sees either the old or the new set.
Left out: session affinity, and NodePort on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.resource import ResourceKey
from lab.devkube.api.store import ObjectEvent
from lab.names import LabNames
from lab.netns import command_inside
from lab.topology import ClusterPlan, NodePlan
from meshmodel.endpointslice import SERVICE_NAME_LABEL

log = logging.getLogger(__name__)
TABLE: Final = "kube_proxy"
WATCHED: Final[tuple[ResourceKey, ...]] = (("", "services"), ("discovery.k8s.io", "endpointslices"))
RETRY_S: Final = 1.0
MASQUERADE: Final = "0x4000"
PROTOCOLS: Final = ("TCP", "UDP")

Obj = Mapping[str, Any]
Backend = tuple[str, int]


@dataclass(frozen=True, slots=True, order=True)
class ProxyFrontend:
    """One port of one Service with its backends, as one node sees them. `node_port` 0 means none."""

    name: str
    address: str
    protocol: str
    port: int
    node_port: int
    backends: tuple[Backend, ...]
    keep_client: bool = False


def frontends(services: Iterable[Obj], slices: Iterable[Obj], node: str) -> list[ProxyFrontend]:
    """Every port with a ClusterIP, with its ready backends; with the serving ones that end if none is ready."""
    by_service: dict[tuple[str, str], list[Obj]] = {}
    for item in slices:
        meta = item["metadata"]
        owner = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL, "")
        by_service.setdefault((meta["namespace"], owner), []).append(item)
    found: list[ProxyFrontend] = []
    for service in services:
        meta, spec = service["metadata"], service["spec"]
        address = spec.get("clusterIP") or "None"
        if address == "None":
            continue
        local = spec.get("externalTrafficPolicy") == "Local"
        own = by_service.get((meta["namespace"], meta["name"]), [])
        for port in spec.get("ports") or []:
            protocol = port.get("protocol", "TCP")
            if protocol in PROTOCOLS:
                backends = _backends(own, port.get("name") or "", protocol)
                name = f"{meta['namespace']}/{meta['name']}:{port['port']}/{protocol}"
                node_port = int(port.get("nodePort") or 0)
                found.append(ProxyFrontend(name, address, protocol, port["port"], node_port, _addresses(backends)))
                if local and node_port:
                    here = _addresses([b for b in backends if b[0].get("nodeName") == node])
                    found[-1] = ProxyFrontend(name, address, protocol, port["port"], 0, found[-1].backends)
                    found.append(ProxyFrontend(name, "", protocol, 0, node_port, here, keep_client=True))
    return sorted(found)


def _backends(slices: Sequence[Obj], port_name: str, protocol: str) -> list[tuple[Obj, int]]:
    found = []
    for item in slices:
        for port in item.get("ports") or []:
            if (port.get("name") or "") == port_name and port.get("protocol", "TCP") == protocol and port.get("port"):
                found += [(endpoint, int(port["port"])) for endpoint in item.get("endpoints") or []]
    ready = [backend for backend in found if _condition(backend[0], "ready", default=True)]
    return ready or [backend for backend in found if _condition(backend[0], "serving", default=False)]


def _condition(endpoint: Obj, name: str, *, default: bool) -> bool:
    value = (endpoint.get("conditions") or {}).get(name)
    return default if value is None else bool(value)


def _addresses(backends: Iterable[tuple[Obj, int]]) -> tuple[Backend, ...]:
    """What the node's table can hold: IPv4 addresses. An odd one costs itself alone."""
    found = {(address, port) for endpoint, port in backends for address in endpoint["addresses"]}
    return tuple(sorted(backend for backend in found if _is_ipv4(backend[0])))


def _is_ipv4(text: str) -> bool:
    try:
        return ip_address(text).version == 4
    except ValueError:
        return False


def render(ports: Sequence[ProxyFrontend], cluster: ClusterPlan, node: NodePlan) -> str:
    """The node's whole table, as text for `nft -f` that replaces whatever was there."""
    rules: list[str] = []
    chains: list[str] = []
    unserved: list[str] = []
    for index, front in enumerate(ports):
        protocol = front.protocol.lower()
        matches = []
        if front.address:
            matches.append((f"ip daddr {front.address} {protocol} dport {front.port}", f"service_{index}"))
        if front.node_port:
            matches.append(
                (f"fib daddr type local ip daddr != 127.0.0.0/8 {protocol} dport {front.node_port}", f"node_{index}")
            )
        for match, chain in matches:
            if front.backends:
                rules.append(f'    {match} goto {chain} comment "{front.name}"')
                chains += _chain(chain, front, masquerade=chain.startswith("node") and not front.keep_client)
            elif front.address and chain.startswith("service"):
                unserved.append(f"{front.address} . {protocol} . {front.port}")
    own = {
        address for front in ports for address, _ in front.backends if ip_address(address) in ip_network(node.pod_cidr)
    }
    return "\n".join(
        [
            f"table ip {TABLE} {{ }}",
            f"delete table ip {TABLE}",
            f"table ip {TABLE} {{",
            f"  set unserved {{ type ipv4_addr . inet_proto . inet_service;{_elements(unserved)} }}",
            f"  set hairpin {{ type ipv4_addr . ipv4_addr;{_elements([f'{a} . {a}' for a in sorted(own)])} }}",
            *chains,
            "  chain services {",
            *rules,
            "  }",
            *_hooks(cluster, node),
            "}",
            "",
        ]
    )


def _elements(values: Sequence[str]) -> str:
    return f" elements = {{ {', '.join(values)} }};" if values else ""


def _chain(name: str, front: ProxyFrontend, *, masquerade: bool) -> list[str]:
    choices = ", ".join(f"{i} : {address} . {port}" for i, (address, port) in enumerate(front.backends))
    mark = [f"    meta mark set meta mark or {MASQUERADE}"] if masquerade else []
    choose = (
        f"    meta l4proto {front.protocol.lower()} dnat to numgen random mod {len(front.backends)} map {{ {choices} }}"
    )
    return [f"  chain {name} {{", *mark, choose, "  }"]


def _hooks(cluster: ClusterPlan, node: NodePlan) -> list[str]:
    """Translate what comes in and what the node sends; leave with the node's address where the reply must come back.

    That is: NodePort traffic, a pod that reached itself through its service, and pods that leave the cluster.
    """
    reject = "ip daddr . meta l4proto . th dport @unserved reject"
    return [
        "  chain prerouting {",
        "    type nat hook prerouting priority dstnat;",
        "    jump services",
        "  }",
        "  chain output {",
        "    type nat hook output priority -100;",
        "    jump services",
        "  }",
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat;",
        f"    meta mark & {MASQUERADE} == {MASQUERADE} snat to {node.address}",
        f"    ip saddr . ip daddr @hairpin snat to {node.address}",
        f'    ip saddr {cluster.pod_cidr} ip daddr != {cluster.pod_cidr} oifname "eth0" snat to {node.address}',
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter;",
        f"    {reject}",
        "  }",
        "  chain local {",
        "    type filter hook output priority filter;",
        f"    {reject}",
        "  }",
    ]


def apply(netns: str, ruleset: str) -> None:
    """The node's kernel has exactly this table. Raises: OSError with what nft said."""
    command = command_inside(netns, ["nft", "-f", "-"])
    done = subprocess.run(command, input=ruleset, text=True, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"nft: {done.stderr.strip()[:256]}")


class ProxyLoop:
    """Keeps the tables of all nodes of a cluster as its Services and EndpointSlices ask for."""

    def __init__(self, cluster: Cluster, plan: ClusterPlan, lab: LabNames) -> None:
        self._cluster, self._plan, self._lab = cluster, plan, lab
        self._wake = asyncio.Event()
        self._applied: dict[str, str] = {}

    async def run(self) -> None:
        """Never returns; ends by cancellation, which leaves the tables as they are."""
        unsubscribe = self._cluster.subscribe(self._note)
        try:
            while True:
                self._wake.clear()
                try:
                    await self._apply_changed()
                except OSError as exc:
                    log.warning("service rules not applied, retrying", extra={"error": str(exc)})
                    await asyncio.sleep(RETRY_S)
                    continue
                await self._wake.wait()
        finally:
            unsubscribe()

    def _note(self, event: ObjectEvent) -> None:
        if event.resource.key in WATCHED:
            self._wake.set()

    async def _apply_changed(self) -> None:
        services = self._cluster.list("services")
        slices = self._cluster.list("endpointslices", "discovery.k8s.io")
        for node in self._plan.nodes:
            ruleset = render(frontends(services, slices, node.name), self._plan, node)
            if self._applied.get(node.name) != ruleset:
                await asyncio.to_thread(apply, self._lab.node(node.name).netns, ruleset)
                self._applied[node.name] = ruleset
