# SPDX-License-Identifier: Apache-2.0
"""What port names mean over all pods: the only thing that an egress rule can resolve them by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from meshpolicy.port import ANY_PROTOCOL, NamedPorts, PortSpec


class PodPorts:
    """The port names that all pods define."""

    def __init__(self) -> None:
        self._pods: dict[str, NamedPorts] = {}
        self._counts: dict[str, Counter[tuple[int, int]]] = {}

    def set(self, pod: str, ports: NamedPorts) -> frozenset[str]:
        """The pod defines exactly these names; returns the names whose meaning changed."""
        old = self._pods.pop(pod, {})
        new = {name.lower(): port for name, port in ports.items()}
        if new:
            self._pods[pod] = new
        changed = set()
        for name in old.keys() | new.keys():
            before, after = old.get(name), new.get(name)
            if before == after:
                continue
            counts = self._counts.setdefault(name, Counter())
            known = frozenset(counts)
            if before is not None:
                counts[before] -= 1
                if not counts[before]:
                    del counts[before]
            if after is not None:
                counts[after] += 1
            if frozenset(counts) != known:
                changed.add(name)
            if not counts:
                del self._counts[name]
        return frozenset(changed)

    def all(self) -> Mapping[str, NamedPorts]:
        """What each pod defines."""
        return dict(self._pods)

    def resolve(self, spec: PortSpec) -> PortSpec | None:
        """The port that all pods which define the name agree on; None if they do not agree or none defines it."""
        found = {
            port
            for port, protocol in self._counts.get(spec.name, ())
            if port and protocol in (ANY_PROTOCOL, spec.protocol)
        }
        if len(found) != 1:
            return None
        port = found.pop()
        return PortSpec(spec.protocol, port, port)
