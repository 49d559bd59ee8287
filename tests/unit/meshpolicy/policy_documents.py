# SPDX-License-Identifier: Apache-2.0
"""Short ways to write the documents that tests refuse or accept."""

from __future__ import annotations

from typing import Any

from meshpolicy import PolicyContext

CONTEXT = PolicyContext("north")
ALL: dict[str, Any] = {"endpointSelector": {}}


def cnp(**spec: Any) -> dict[str, Any]:
    return {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}


def ccnp(**spec: Any) -> dict[str, Any]:
    return {"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}


def netpol(**spec: Any) -> dict[str, Any]:
    return {"kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}


def ingress(**rule: Any) -> dict[str, Any]:
    return cnp(**ALL, ingress=[rule])


def egress(**rule: Any) -> dict[str, Any]:
    return cnp(**ALL, egress=[rule])


def ports(*entries: Any, **fields: Any) -> list[Any]:
    return [{"ports": list(entries), **fields}]


TCP80 = {"port": "80", "protocol": "TCP"}
