# SPDX-License-Identifier: Apache-2.0
"""ServiceCIDR → the networks that cluster addresses of services are taken from. Pure. Source: networking.k8s.io/v1."""

from __future__ import annotations

from kubeintent import fields
from kubeintent.read import Obj, Read, bounded, name_of


def read_service_cidr(obj: Obj) -> Read[tuple[str, ...]]:
    """Canonical prefixes of both families. Raises: UnreadableError."""
    name = name_of(obj, namespaced=False)
    problems: list[str] = []
    spec = fields.mapping(obj, "spec", problems)
    networks = fields.prefixes(fields.entries(spec, "cidrs", problems), "cidrs", problems)
    return Read(networks, bounded(problems), name.uid)
