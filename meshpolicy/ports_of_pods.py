# SPDX-License-Identifier: Apache-2.0
"""What port names mean on egress: each peer's own, that is, what pods of the peer's identity define."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meshpolicy.port import ANY_PROTOCOL, NamedPorts, PortSpec


class PodPorts(NamedTuple):
    """The port names that one pod defines, by its identity."""

    identity: int
    ports: NamedPorts


class PortsOfPods:
    """The port names that all pods define, by identity. Names are compared in lower case."""

    def __init__(self) -> None:
        self._pods: dict[str, PodPorts] = {}
        self._counts: dict[str, dict[int, Counter[tuple[int, int]]]] = {}

    def set_pod(self, pod: str, identity: int, ports: NamedPorts) -> Mapping[int, frozenset[str]]:
        """The pod has this identity and defines exactly these names; returns the names that changed, by identity."""
        old = self._pods.pop(pod, PodPorts(identity, {}))
        new = PodPorts(identity, {name.lower(): port for name, port in ports.items()})
        if new.ports:
            self._pods[pod] = new
        changed: dict[int, set[str]] = {}
        for owner, name, port, step in (*_steps(new, 1), *_steps(old, -1)):
            counts = self._counts.setdefault(name, {}).setdefault(owner, Counter())
            was_known = counts[port] > 0
            counts[port] += step
            if (counts[port] > 0) is not was_known:
                changed.setdefault(owner, set()).symmetric_difference_update({f"{name}/{port}"})
            if not counts[port]:
                del counts[port]
            if not counts:
                del self._counts[name][owner]
            if not self._counts[name]:
                del self._counts[name]
        return {owner: frozenset(text.partition("/")[0] for text in texts) for owner, texts in changed.items() if texts}

    def all(self) -> Mapping[str, PodPorts]:
        """What each pod that defines names defines."""
        return dict(self._pods)

    def resolve(self, spec: PortSpec, identity: int) -> tuple[PortSpec, ...]:
        """The ports that a name means for a peer: every number that pods of the identity define for it, sorted.

        Two pods of one identity that disagree (a rolling update that changes the number) are both reached.
        """
        found = {
            port
            for port, protocol in self._counts.get(spec.name, {}).get(identity, ())
            if port and protocol in (ANY_PROTOCOL, spec.protocol)
        }
        return tuple(PortSpec(spec.protocol, port, port) for port in sorted(found))

    def identities_with(self, names: Iterable[str]) -> set[int]:
        """The identities of which a pod defines one of the names."""
        return {identity for name in names for identity in self._counts.get(name, ())}


def _steps(pod: PodPorts, step: int) -> Iterable[tuple[int, str, tuple[int, int], int]]:
    return ((pod.identity, name, port, step) for name, port in pod.ports.items())
