# SPDX-License-Identifier: Apache-2.0
"""Entities: names for the peers that have no pod labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from meshmodel.labels import CLUSTER_LABEL, Label
from meshpolicy.selector import (
    CIDR_SOURCE,
    FQDN_SOURCE,
    KUBERNETES_SOURCE,
    RESERVED_SOURCE,
    LabelSelector,
    equals,
    reserved,
)

WORLDS: Final = ("world", "world-ipv4", "world-ipv6")

_RESERVED_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "world": WORLDS,
    "world-ipv4": ("world-ipv4",),
    "world-ipv6": ("world-ipv6",),
    "host": ("host",),
    "init": ("init",),
    "ingress": ("ingress",),
    "remote-node": ("remote-node",),
    "health": ("health",),
    "unmanaged": ("unmanaged",),
    "none": ("none",),
    "kube-apiserver": ("kube-apiserver",),
    "cluster": ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"),
}

ENTITIES: Final = ("all", *_RESERVED_NAMES)

_NEVER_SUBJECTS: Final = frozenset({*WORLDS, "host", "remote-node", "kube-apiserver"})


def entity_selectors(name: str, cluster: str, *, is_world_ipv4: bool = False) -> tuple[LabelSelector, ...]:
    """What an entity selects. `all` is the empty selector; `cluster` includes pods of the local cluster only.

    `is_world_ipv4`: what is labelled world is IPv4, beside a world of IPv6.
    """
    if name == "all":
        return (LabelSelector(),)
    labels = ("world-ipv4", "world") if name == "world-ipv4" and is_world_ipv4 else _RESERVED_NAMES[name]
    selectors = tuple(reserved(label) for label in labels)
    if name == "cluster":
        return (*selectors, LabelSelector((equals(KUBERNETES_SOURCE, CLUSTER_LABEL, cluster),)))
    return selectors


def is_endpoint(labels: Iterable[Label]) -> bool:
    """Whether the labels can belong to something whose packets an endpoint selector governs.

    Hosts, other nodes, the world and address ranges are peers only: no agent holds a policy map for them.
    """
    return not any(
        label.source in (CIDR_SOURCE, FQDN_SOURCE) or (label.source == RESERVED_SOURCE and label.key in _NEVER_SUBJECTS)
        for label in labels
    )
