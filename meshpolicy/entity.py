# SPDX-License-Identifier: Apache-2.0
"""Entities: names for the peers that have no pod labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from meshmodel.labels import CLUSTER_LABEL, Label, Labels
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


def entity_selectors(name: str, cluster: str) -> tuple[LabelSelector, ...]:
    """What an entity selects. `all` is the empty selector; `cluster` includes pods of the local cluster only."""
    if name == "all":
        return (LabelSelector(),)
    selectors = tuple(reserved(label) for label in _RESERVED_NAMES[name])
    if name == "cluster":
        return (*selectors, LabelSelector((equals(KUBERNETES_SOURCE, CLUSTER_LABEL, cluster),)))
    return selectors


def further_worlds(labels: Iterable[Label]) -> Labels:
    """What outsiders are called beside their label where packets of both families are judged: see `PolicyContext.ipv6`.

    Outsiders of IPv4 are labelled world and are the world of IPv4 too; those of IPv6 are of the world too.
    """
    names = {label.key for label in labels if label.source == RESERVED_SOURCE}
    further = ("world-ipv4",) if "world" in names else ("world",) if "world-ipv6" in names else ()
    return tuple(Label(RESERVED_SOURCE, name, "") for name in further)


def is_endpoint(labels: Iterable[Label]) -> bool:
    """Whether the labels can belong to something whose packets an endpoint selector governs.

    Hosts, other nodes, the world and address ranges are peers only: no agent holds a policy map for them.
    """
    return not any(
        label.source in (CIDR_SOURCE, FQDN_SOURCE) or (label.source == RESERVED_SOURCE and label.key in _NEVER_SUBJECTS)
        for label in labels
    )
