# SPDX-License-Identifier: Apache-2.0
"""Annotations by which people say what a service shall be in the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from meshmodel.algorithm import Algorithm, parse_algorithm
from meshmodel.export_scope import EXPORT_TO, parse_export_scope
from meshmodel.health_probe import HealthProbe, parse_health_probe
from meshmodel.steering import NO_STEERING, ORDER, THRESHOLD, Steering, parse_steering

GLOBAL: Final = "service.cilium.io/global"
SHARED: Final = "service.cilium.io/shared"
AFFINITY: Final = "service.cilium.io/affinity"
GLOBAL_ALIAS: Final = "io.cilium/global-service"
SHARED_ALIAS: Final = "io.cilium/shared-service"
AFFINITY_ALIAS: Final = "io.cilium/service-affinity"
NAMESPACE_GLOBAL: Final = "clustermesh.cilium.io/global"


class Affinity(StrEnum):
    """Which cluster's backends are preferred while they are there."""

    NONE = "none"
    LOCAL = "local"
    REMOTE = "remote"


class ServiceAnnotations(NamedTuple):
    """`shared` is true only when `global_` is; `problems` are sentences for the service's owner.

    `export_to`: the peers that may use what is shared, None for all. `algorithm` counts for every Service, None: not said.
    """

    global_: bool
    shared: bool
    affinity: Affinity
    problems: tuple[str, ...] = ()
    steering: Steering = NO_STEERING
    export_to: tuple[str, ...] | None = None
    algorithm: Algorithm | None = None
    health_probe: HealthProbe | None = None


def parse_service_annotations(annotations: Mapping[str, str]) -> ServiceAnnotations:
    """What a Service's annotations mean; a value that means nothing is a problem, never an error.

    Case does not matter and spaces do: only "true" is true. The primary spelling wins over its alias. Without global,
    shared, affinity and steering have no effect; with it, an absent shared is true and any other value than "true" is false.
    """
    problems: list[str] = []
    is_global = _is_true(annotations, GLOBAL, GLOBAL_ALIAS, problems)
    has_shared = SHARED in annotations or SHARED_ALIAS in annotations
    is_shared = _is_true(annotations, SHARED, SHARED_ALIAS, problems) if has_shared else True
    affinity = _affinity(annotations, problems)
    steering = parse_steering(annotations, problems)
    export_to = parse_export_scope(annotations, problems)
    algorithm = parse_algorithm(annotations, problems)
    health_probe = parse_health_probe(annotations, problems)
    if not is_global:
        if (
            has_shared
            or affinity is not Affinity.NONE
            or steering != NO_STEERING
            or export_to is not None
            or health_probe is not None
        ):
            problems.append(f'what shares, steers or probes it has no effect without {GLOBAL}: "true"')
        return ServiceAnnotations(False, False, Affinity.NONE, tuple(problems), algorithm=algorithm)
    if steering.order and affinity is not Affinity.NONE:
        problems.append(f"{AFFINITY} has no effect beside {ORDER}")
    if steering.threshold_percent and not steering.order and affinity is Affinity.NONE:
        problems.append(f"{THRESHOLD} has no effect without {AFFINITY} or {ORDER}")
    if export_to is not None and not is_shared:
        problems.append(f'{EXPORT_TO} has no effect beside {SHARED}: "false"')
    return ServiceAnnotations(True, is_shared, affinity, tuple(problems), steering, export_to, algorithm, health_probe)


def namespace_is_global(annotations: Mapping[str, str], default: bool = True) -> bool:
    """Whether the objects of a namespace take part in the mesh: its annotation, else the cluster's default."""
    value = annotations.get(NAMESPACE_GLOBAL)
    return default if value is None else value.lower() == "true"


def _find(annotations: Mapping[str, str], primary: str, alias: str) -> tuple[str, str | None]:
    if primary in annotations:
        return primary, annotations[primary]
    return alias, annotations.get(alias)


def _is_true(annotations: Mapping[str, str], primary: str, alias: str, problems: list[str]) -> bool:
    name, value = _find(annotations, primary, alias)
    if value is None:
        return False
    if value.lower() not in ("true", "false"):
        problems.append(f'{name}: {value[:64]!r} is neither "true" nor "false"; taken as false')
    return value.lower() == "true"


def _affinity(annotations: Mapping[str, str], problems: list[str]) -> Affinity:
    name, value = _find(annotations, AFFINITY, AFFINITY_ALIAS)
    text = (value or "none").lower()
    if text in tuple(Affinity):
        return Affinity(text)
    problems.append(f'{name}: {text[:64]!r} is not "local", "remote" or "none"; taken as none')
    return Affinity.NONE
