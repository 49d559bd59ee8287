# SPDX-License-Identifier: Apache-2.0
"""What people write on Services and Namespaces. Source: spec of the wire format, 7.1; the primary spelling wins over its alias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

GLOBAL: Final = "service.cilium.io/global"
SHARED: Final = "service.cilium.io/shared"
AFFINITY: Final = "service.cilium.io/affinity"
GLOBAL_ALIAS: Final = "io.cilium/global-service"
SHARED_ALIAS: Final = "io.cilium/shared-service"
AFFINITY_ALIAS: Final = "io.cilium/service-affinity"
NAMESPACE_GLOBAL: Final = "clustermesh.cilium.io/global"
OWN_PREFIX: Final = "mesh.clustermesh.io/"


class Affinity(StrEnum):
    NONE = "none"
    LOCAL = "local"
    REMOTE = "remote"


_AFFINITIES: Final = {affinity.value: affinity for affinity in Affinity}


@dataclass(frozen=True, slots=True)
class ServiceAnnotations:
    """What a service's annotations mean. `problems` are sentences for the person who wrote them."""

    global_: bool
    shared: bool
    affinity: Affinity
    problems: tuple[str, ...] = ()


def parse_service_annotations(annotations: Mapping[str, str] | None) -> ServiceAnnotations:
    """`true` in any case, untrimmed, is true and all else false; shared and affinity count only when global."""
    given = annotations or {}
    is_global = _is_true(_either(given, GLOBAL, GLOBAL_ALIAS))
    if not is_global:
        return ServiceAnnotations(global_=False, shared=False, affinity=Affinity.NONE)
    shared = _either(given, SHARED, SHARED_ALIAS)
    written = _either(given, AFFINITY, AFFINITY_ALIAS) or ""
    problems: tuple[str, ...] = ()
    affinity = Affinity.NONE
    if written.lower() in _AFFINITIES:
        affinity = _AFFINITIES[written.lower()]
    elif written:
        problems = (f"{AFFINITY}: {written[:64]!r} is not local, remote or none; it is treated as none",)
    return ServiceAnnotations(True, shared is None or _is_true(shared), affinity, problems)


def namespace_is_global(annotations: Mapping[str, str] | None, *, default: bool = True) -> bool:
    """Whether anything of a namespace may be published; `default` where it says nothing."""
    value = (annotations or {}).get(NAMESPACE_GLOBAL)
    return default if value is None else _is_true(value)


def _either(annotations: Mapping[str, str], primary: str, alias: str) -> str | None:
    return annotations.get(primary, annotations.get(alias))


def _is_true(value: str | None) -> bool:
    return value is not None and value.lower() == "true"
