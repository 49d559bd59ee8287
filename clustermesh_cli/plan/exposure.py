# SPDX-License-Identifier: Apache-2.0
"""How a cluster's store is exposed to peers: the Service's type and ports, so that no connected peer is cut. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from clustermesh_cli.exit_code import CommandRefusedError
from meshapi.installed import STORE_NODE_PORT, STORE_PORT

SERVICE_TYPES: Final = ("NodePort", "LoadBalancer", "ClusterIP")
DROP_FLAG: Final = "--drop-previous-endpoint"


@dataclass(frozen=True, slots=True)
class ExposureWish:
    """What the flags say; None means "as it is, or the default"."""

    service_type: str | None = None
    node_port: int | None = None
    drops_previous: bool = False


@dataclass(frozen=True, slots=True)
class Exposure:
    """The Service to apply. `previous` are node ports that stay open for peers which were told them before."""

    service_type: str
    node_port: int | None
    previous: tuple[int, ...] = ()

    def ports(self) -> list[dict[str, Any]]:
        """The Service's ports; the first is the one that `connect` tells peers."""
        first = {"name": "etcd", "port": STORE_PORT, "targetPort": STORE_PORT, "protocol": "TCP"}
        if self.node_port is not None:
            first["nodePort"] = self.node_port
        return [first, *({**first, "name": f"etcd-{p}", "port": p, "nodePort": p} for p in self.previous)]


def decide_exposure(service: Mapping[str, Any] | None, wish: ExposureWish, *, has_peers: bool) -> Exposure:
    """What is asked for, else what the Service is, else a NodePort; what peers were told before stays open.

    Raises: CommandRefusedError for values that cannot be, and for a change that would cut peers unless the wish says so.
    """
    spec = (service or {}).get("spec") or {}
    known = spec.get("type")
    wanted = wish.service_type or known or "NodePort"
    if wanted not in SERVICE_TYPES:
        raise CommandRefusedError(f"--service-type {wanted}: choose one of {', '.join(SERVICE_TYPES)}")
    if wish.node_port is not None and wanted == "ClusterIP":
        raise CommandRefusedError("--node-port: a Service of type ClusterIP has no node port")
    if wish.node_port is not None and not 1 <= wish.node_port <= 65535:
        raise CommandRefusedError(f"--node-port {wish.node_port} is not in 1..65535")
    keeps = has_peers and not wish.drops_previous
    if (keeps and known == "LoadBalancer" != wanted) or (keeps and known == "NodePort" and wanted == "ClusterIP"):
        raise CommandRefusedError(
            f"peers reach this cluster through a {known} Service, and a {wanted} one would cut them: disconnect them first, "
            f"or give {DROP_FLAG}; nothing was changed"
        )
    if wanted == "ClusterIP":
        return Exposure(wanted, None)
    open_now = [int(port["nodePort"]) for port in spec.get("ports") or () if port.get("nodePort")]
    number = wish.node_port or next(iter(open_now), STORE_NODE_PORT if wanted == "NodePort" else None)
    return Exposure(wanted, number, tuple(port for port in open_now if port != number) if keeps else ())
