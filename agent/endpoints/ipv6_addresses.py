# SPDX-License-Identifier: Apache-2.0
"""Which addresses of IPv6 the pods of this node have, by the names that records give them. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Final

Pod = tuple[str, str]
"""Namespace and name."""
_BITS_OF_IPV4_KEY: Final = 96


class Ipv6Addresses:
    """An address is one pod's: the one that was named last. Those that no map can tell from one of IPv4 are nobody's."""

    def __init__(self) -> None:
        self._by_pod: dict[Pod, set[str]] = {}
        self._pods: dict[str, Pod] = {}

    def put(self, address: str, pod: Pod) -> set[Pod]:
        """The address is that pod's; returns the pods whose addresses changed."""
        if not int(IPv6Address(address)) % (1 << _BITS_OF_IPV4_KEY) or self._pods.get(address) == pod:
            return set()
        changed = self.drop(address) | {pod}
        self._pods[address] = pod
        self._by_pod.setdefault(pod, set()).add(address)
        return changed

    def drop(self, address: str) -> set[Pod]:
        """The address is nobody's here; returns the pods whose addresses changed."""
        pod = self._pods.pop(address, None)
        if pod is None:
            return set()
        self._by_pod[pod].discard(address)
        if not self._by_pod[pod]:
            del self._by_pod[pod]
        return {pod}

    def of(self, namespace: str, name: str) -> frozenset[str]:
        """The pod's addresses."""
        return frozenset(self._by_pod.get((namespace, name), ()))

    def pods(self) -> frozenset[Pod]:
        """Pods that have any."""
        return frozenset(self._by_pod)
