# SPDX-License-Identifier: Apache-2.0
"""Services of type LoadBalancer get an address, as a cloud's controller gives them one."""

from __future__ import annotations

from collections.abc import Sequence

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, is_deleting, items_of, part, uid_of


class LoadBalancers:
    """Gives addresses of `pool`, each to one Service, and takes them back; a Service of another class is left alone."""

    name = "load-balancers"
    watches = frozenset({("", "services")})

    def __init__(self, cluster: Cluster, pool: Sequence[str]) -> None:
        self._cluster, self._pool = cluster, pool

    def reconcile(self) -> None:
        services = sorted(self._cluster.list("services"), key=lambda s: (s["metadata"]["creationTimestamp"], uid_of(s)))
        held: dict[str, str] = {}
        waiting: list[Obj] = []
        for service in services:
            address = _address(service)
            if not _is_ours(service):
                if address in self._pool:
                    self._set(service, None)
            elif address in self._pool and address not in held:
                held[address] = uid_of(service)
            else:
                waiting.append(service)
        for service in waiting:
            wanted = service["spec"].get("loadBalancerIP")
            free = (ip for ip in self._pool if ip not in held)
            given = str(wanted) if wanted in self._pool and wanted not in held else next(free, None)
            if given is not None:
                held[given] = uid_of(service)
                self._set(service, given)

    def _set(self, service: Obj, address: str | None) -> None:
        balancer = {"ingress": [{"ip": address, "ipMode": "VIP"}]} if address is not None else {}
        service["status"] = part(service, "status") | {"loadBalancer": balancer}
        self._cluster.update("services", service, subresource="status")


def _is_ours(service: Obj) -> bool:
    spec = service["spec"]
    return spec.get("type") == "LoadBalancer" and not spec.get("loadBalancerClass") and not is_deleting(service)


def _address(service: Obj) -> str:
    ingress = items_of(part(part(service, "status"), "loadBalancer"), "ingress")
    return str(ingress[0].get("ip", "")) if ingress else ""
