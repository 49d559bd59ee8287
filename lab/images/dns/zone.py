# SPDX-License-Identifier: Apache-2.0
"""Which names a cluster has and what they answer. Pure.

Source: the Kubernetes DNS specification 1.1.0 (github.com/kubernetes/dns), without pod names other than endpoints'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

DOMAIN: Final = "cluster.local"
TTL_S: Final = 5
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"

Obj = Mapping[str, Any]
Key = tuple[str, str]


class Code(IntEnum):
    """The response codes in use."""

    NO_ERROR = 0
    NAME_ERROR = 3


@dataclass(frozen=True, slots=True, order=True)
class Record:
    """One resource record; `data` is an address, a name, or priority, weight, port and name for SRV."""

    name: str
    kind: str
    data: str


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """What a question is answered with; no records and no error means: the name exists, that kind of record does not."""

    code: Code
    records: tuple[Record, ...] = ()


class DnsZone:
    """The names of one cluster, kept by whole objects: the last one given counts."""

    def __init__(self) -> None:
        self._services: dict[Key, Obj] = {}
        self._slices: dict[Key, dict[str, Obj]] = {}
        self._names: dict[str, list[Record]] | None = None

    def set_service(self, service: Obj) -> None:
        self._services[_key(service)] = service
        self._names = None

    def remove_service(self, service: Obj) -> None:
        self._services.pop(_key(service), None)
        self._names = None

    def set_slice(self, item: Obj) -> None:
        self._slices.setdefault(_owner(item), {})[item["metadata"]["name"]] = item
        self._names = None

    def remove_slice(self, item: Obj) -> None:
        self._slices.get(_owner(item), {}).pop(item["metadata"]["name"], None)
        self._names = None

    def answer(self, name: str, kind: str) -> DnsAnswer:
        """What to say about a name and a kind of record (`A`, `AAAA`, `SRV`, `PTR`, …)."""
        if self._names is None:
            self._names = self._build()
        name = name.lower().rstrip(".")
        found = self._names.get(name)
        if found is None:
            inner = any(known.endswith(f".{name}") for known in self._names)
            return DnsAnswer(Code.NO_ERROR if inner else Code.NAME_ERROR)
        wanted = [record for record in found if record.kind in (kind, "CNAME")]
        return DnsAnswer(Code.NO_ERROR, tuple(wanted))

    def _build(self) -> dict[str, list[Record]]:
        names: dict[str, list[Record]] = {DOMAIN: []}
        for (namespace, name), service in self._services.items():
            base = f"{name}.{namespace}.svc.{DOMAIN}"
            spec = service["spec"]
            if spec.get("type") == "ExternalName":
                _add(names, Record(base, "CNAME", str(spec.get("externalName", ""))))
            elif spec.get("clusterIP") in (None, "", "None"):
                self._add_headless(names, base, (namespace, name))
            else:
                _add_cluster_ip(names, base, spec)
        return names

    def _add_headless(self, names: dict[str, list[Record]], base: str, key: Key) -> None:
        names.setdefault(base, [])
        for item in self._slices.get(key, {}).values():
            for endpoint in item.get("endpoints") or []:
                if (endpoint.get("conditions") or {}).get("ready") is False:
                    continue
                for address in endpoint["addresses"]:
                    target = f"{endpoint.get('hostname') or address.replace('.', '-')}.{base}"
                    _add(names, Record(base, "A", address))
                    _add(names, Record(target, "A", address))
                    _add(names, Record(_reverse(address), "PTR", target))
                    _add_ports(names, base, item.get("ports") or [], target)


def _add_cluster_ip(names: dict[str, list[Record]], base: str, spec: Obj) -> None:
    address = str(spec["clusterIP"])
    _add(names, Record(base, "A", address))
    _add(names, Record(_reverse(address), "PTR", base))
    _add_ports(names, base, spec.get("ports") or [], base)


def _add_ports(names: dict[str, list[Record]], base: str, ports: list[Obj], target: str) -> None:
    for port in ports:
        if port.get("name") and port.get("port"):
            service = f"_{port['name']}._{port.get('protocol', 'TCP').lower()}.{base}"
            _add(names, Record(service, "SRV", f"0 100 {port['port']} {target}"))


def _add(names: dict[str, list[Record]], record: Record) -> None:
    records = names.setdefault(record.name.lower(), [])
    if record not in records:
        records.append(record)


def _reverse(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def _key(obj: Obj) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _owner(item: Obj) -> Key:
    labels = item["metadata"].get("labels") or {}
    return item["metadata"].get("namespace", ""), labels.get(SERVICE_NAME_LABEL, "")
