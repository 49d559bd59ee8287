# SPDX-License-Identifier: Apache-2.0
"""Hand-made Endpoints → EndpointSlices, for Services whose pods nobody selects.

Source: the mirroring controller of Kubernetes: its labels, its annotation that says when addresses changed left out.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, is_deleting, items_of, labels_of, name_of, namespace_of, part, uid_of
from lab.devkube.controllers.desired import ensure, owner_reference, short_hash
from lab.devkube.controllers.endpoints import GROUP, MANAGED_BY, SERVICE_NAME

CONTROLLER: Final = "endpointslicemirroring-controller.k8s.io"
SKIPPED: Final = "endpointslice.kubernetes.io/skip-mirror"
LEADER: Final = "control-plane.alpha.kubernetes.io/leader"
PER_SUBSET: Final = 1_000


class EndpointsMirror:
    """Each subset becomes one slice per family; Endpoints that a controller keeps, or that ask for it, are left alone."""

    name = "endpoints-mirror"
    watches = frozenset({("", "services"), ("", "endpoints"), (GROUP, "endpointslices")})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def reconcile(self) -> None:
        wanted: dict[tuple[str, str], Obj] = {}
        for endpoints in self._cluster.list("endpoints"):
            service = self._cluster.get("services", name_of(endpoints), namespace_of(endpoints))
            if service is not None and _is_mirrored(service, endpoints):
                wanted |= {(namespace_of(made), name_of(made)): made for made in _slices(service, endpoints)}
        for made in wanted.values():
            ensure(self._cluster, "endpointslices", made, GROUP)
        for found in self._cluster.list("endpointslices", GROUP, None, f"{MANAGED_BY}={CONTROLLER}"):
            if (namespace_of(found), name_of(found)) not in wanted:
                self._cluster.delete("endpointslices", name_of(found), namespace_of(found), GROUP)


def _is_mirrored(service: Obj, endpoints: Obj) -> bool:
    spec, annotations = service["spec"], endpoints["metadata"].get("annotations") or {}
    return not (
        part(spec, "selector")
        or is_deleting(service)
        or spec.get("type") == "ExternalName"
        or labels_of(endpoints).get(SKIPPED) == "true"
        or LEADER in annotations
    )


def _slices(service: Obj, endpoints: Obj) -> list[Obj]:
    found = []
    labels = {**labels_of(endpoints), SERVICE_NAME: name_of(service), MANAGED_BY: CONTROLLER}
    for index, subset in enumerate(items_of(endpoints, "subsets")):
        ports = [{"protocol": "TCP", "name": "", **port} for port in items_of(subset, "ports")]
        for family in ("IPv4", "IPv6"):
            members = [
                _endpoint(address, is_ready=is_ready)
                for field, is_ready in (("addresses", True), ("notReadyAddresses", False))
                for address in items_of(subset, field)
                if _family(address) == family
            ][:PER_SUBSET]
            if members:
                name = f"{name_of(service)}-{short_hash([uid_of(endpoints), index, family], 5)}"
                meta = {"name": name, "namespace": namespace_of(service), "labels": labels}
                owners = [owner_reference(endpoints)]
                body = {"addressType": family, "ports": ports, "endpoints": members}
                found.append({"metadata": {**meta, "ownerReferences": owners}, **body})
    return found


def _family(address: Obj) -> str:
    try:
        return f"IPv{ipaddress.ip_address(str(address.get('ip'))).version}"
    except ValueError:
        return ""


def _endpoint(address: Obj, *, is_ready: bool) -> Obj:
    made: Obj = {"addresses": [address["ip"]], "conditions": {"ready": is_ready}}
    for field in ("hostname", "nodeName", "targetRef"):
        if address.get(field):
            made[field] = address[field]
    return made
