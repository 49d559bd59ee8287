# SPDX-License-Identifier: Apache-2.0
"""ClusterIPs and node ports: which are taken, and which come next.

Freed numbers are reused last, so that clients which still remember a removed service do not reach its successor.
"""

from __future__ import annotations

import ipaddress

from lab.devkube.api.error import Cause, invalid
from lab.devkube.api.objects import Obj, items_of, name_of, part
from lab.devkube.api.resource import ApiResource
from lab.devkube.api.store import ObjectEvent, ObjectEventType

API_SERVER_HOST = 1
DNS_HOST = 10
HEADLESS = "None"


class ServiceAddresses:
    """The allocations of all stored Services; `observe` keeps it in step with the store."""

    def __init__(self, service_cidr: str, node_port_range: tuple[int, int]) -> None:
        self.network = ipaddress.IPv4Network(service_cidr)
        self._ports = range(node_port_range[0], node_port_range[1] + 1)
        self._taken_ips: set[str] = set()
        self._taken_ports: set[int] = set()
        self._reserved = {str(self.network[API_SERVER_HOST]), str(self.network[DNS_HOST])}
        self._next_host = DNS_HOST
        self._next_port = 0

    @property
    def api_server(self) -> str:
        return str(self.network[API_SERVER_HOST])

    def allocate(self, resource: ApiResource, obj: Obj, old: Obj | None) -> None:
        """Complete the Service's addresses, keeping those it has. Raises ApiError 422 for one it cannot have."""
        spec = obj["spec"]
        before = part(old, "spec") if old else {}
        self._allocate_ip(resource, obj, spec, before)
        if spec["type"] in ("NodePort", "LoadBalancer"):
            self._allocate_ports(resource, obj, spec, before)
        else:
            for port in items_of(spec, "ports"):
                port.pop("nodePort", None)

    def observe(self, event: ObjectEvent) -> None:
        """Release what the old state held and take what the new one holds."""
        if event.resource.key != ("", "services"):
            return
        if event.old is not None:
            self._taken_ips -= _ips(event.old)
            self._taken_ports -= _node_ports(event.old)
        if event.type is not ObjectEventType.DELETED:
            self._taken_ips |= _ips(event.object)
            self._taken_ports |= _node_ports(event.object)

    def _allocate_ip(self, resource: ApiResource, obj: Obj, spec: Obj, before: Obj) -> None:
        if spec["type"] == "ExternalName":
            spec.pop("clusterIP", None)
            spec.pop("clusterIPs", None)
            return
        asked = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or []), "")
        held = before.get("clusterIP", "")
        if held and asked and asked != held:
            raise _bad(resource, obj, "spec.clusterIPs[0]", f'Invalid value: ["{asked}"]: may not change once set')
        address = asked or held
        if not address:
            address = self._free_ip(resource, obj)
        elif address not in (HEADLESS, held):
            self._check_ip(resource, obj, address)
        spec["clusterIP"], spec["clusterIPs"] = address, [address]

    def _check_ip(self, resource: ApiResource, obj: Obj, address: str) -> None:
        field = "spec.clusterIPs"
        try:
            inside = ipaddress.IPv4Address(address) in self.network
        except ValueError:
            raise _bad(resource, obj, field, f'Invalid value: ["{address}"]: must be a valid IPv4 address') from None
        if not inside:
            why = f"the provided IP ({address}) is not in the valid range {self.network}"
            raise _bad(resource, obj, field, f'Invalid value: ["{address}"]: failed to allocate IP {address}: {why}')
        if address in self._taken_ips:
            raise _bad(resource, obj, field, f'Invalid value: ["{address}"]: provided IP is already allocated')

    def _free_ip(self, resource: ApiResource, obj: Obj) -> str:
        hosts = self.network.num_addresses - 2
        for step in range(hosts):
            address = str(self.network[1 + (self._next_host + step) % hosts])
            if address not in self._taken_ips and address not in self._reserved:
                self._next_host = (self._next_host + step + 1) % hosts
                return address
        raise _bad(resource, obj, "spec.clusterIPs", "Internal error: range is full")

    def _allocate_ports(self, resource: ApiResource, obj: Obj, spec: Obj, before: Obj) -> None:
        held = {_port_key(p): p["nodePort"] for p in items_of(before, "ports") if p.get("nodePort")}
        own = set(held.values())
        for index, port in enumerate(items_of(spec, "ports")):
            field = f"spec.ports[{index}].nodePort"
            number = port.get("nodePort") or held.get(_port_key(port))
            if not number:
                number = self._free_port(resource, obj, field)
            elif number not in own:
                self._check_port(resource, obj, field, number)
            port["nodePort"] = number

    def _check_port(self, resource: ApiResource, obj: Obj, field: str, number: int) -> None:
        if number not in self._ports:
            valid = f"{self._ports[0]}-{self._ports[-1]}"
            why = f"provided port is not in the valid range. The range of valid ports is {valid}"
            raise _bad(resource, obj, field, f"Invalid value: {number}: {why}")
        if number in self._taken_ports:
            raise _bad(resource, obj, field, f"Invalid value: {number}: provided port is already allocated")

    def _free_port(self, resource: ApiResource, obj: Obj, field: str) -> int:
        for step in range(len(self._ports)):
            number = self._ports[(self._next_port + step) % len(self._ports)]
            if number not in self._taken_ports:
                self._next_port = (self._next_port + step + 1) % len(self._ports)
                return number
        raise _bad(resource, obj, field, "Internal error: range is full")


def _port_key(port: Obj) -> tuple[object, ...]:
    return port.get("name", ""), port.get("port"), port.get("protocol", "TCP")


def _ips(service: Obj) -> set[str]:
    return {ip for ip in part(service, "spec").get("clusterIPs") or [] if ip != HEADLESS}


def _node_ports(service: Obj) -> set[int]:
    return {p["nodePort"] for p in items_of(part(service, "spec"), "ports") if p.get("nodePort")}


def _bad(resource: ApiResource, obj: Obj, field: str, text: str) -> Exception:
    return invalid(resource, name_of(obj), [Cause(field, "FieldValueInvalid", text)])
