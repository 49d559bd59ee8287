# SPDX-License-Identifier: Apache-2.0
"""K7: which identity is behind which address, from Cilium's endpoints or from pods."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from clustermesh_apiserver.convert_ip import convert_endpoint, convert_pod
from clustermesh_apiserver.exporter import Exporter, Sink
from clustermesh_apiserver.intent import NamespaceIntent, PodIntent
from clustermesh_apiserver.owner_queue import OwnerQueue
from clustermesh_apiserver.tables import Tables
from meshmodel.identity import NumericIdentity
from meshmodel.labels import Labels

log = logging.getLogger(__name__)

MAX_WAIT_S: Final = 30.0


class Allocator(Protocol):
    """Gives label sets their numbers."""

    def use(self, owner: str, labels: Labels) -> NumericIdentity | None:
        """The owner uses this label set; None while it has no number yet."""
        ...

    def release(self, owner: str) -> None:
        """The owner uses nothing any more."""
        ...


class EndpointExporter(Exporter):
    """From CiliumEndpoints or CiliumEndpointSlices."""

    def __init__(self, tables: Tables, sink: Sink) -> None:
        super().__init__(tables, sink, (tables.namespaces, tables.endpoints))
        self._queue = OwnerQueue()

    def touch_namespace(self, namespace: str) -> None:
        self.touch(self.tables.endpoints.in_group(namespace))

    def export(self, key: str) -> None:
        records: dict[bytes, bytes] = {}
        for endpoint in self.tables.endpoints.get(key) or ():
            namespace = self.namespace(endpoint.namespace)
            if namespace is None:
                return
            if namespace.is_global:
                records |= convert_endpoint(endpoint)
        publish(self.sink, self._queue.set_claims(key, records))


class PodExporter(Exporter):
    """From pods, with identities of our own. A pod waits until its label set has a number."""

    def __init__(
        self,
        tables: Tables,
        sink: Sink,
        allocator: Allocator,
        labels_of: Callable[[PodIntent, NamespaceIntent], Labels],
        now: Callable[[], float],
    ) -> None:
        super().__init__(tables, sink, (tables.namespaces, tables.pods, tables.identities))
        self._allocator, self._labels_of, self._now = allocator, labels_of, now
        self._queue = OwnerQueue()
        self._waiting_since: float | None = None
        self.waiting: set[str] = set()

    def touch_namespace(self, namespace: str) -> None:
        self.touch(self.tables.pods.in_group(namespace))

    def is_complete(self) -> bool:
        """Peers are not kept waiting for ever by an identity that cannot be made."""
        if not self.waiting:
            return True
        if self._waiting_since is None:
            self._waiting_since = self._now()
        if self._now() - self._waiting_since < MAX_WAIT_S:
            return False
        log.warning("going on without identities of some pods", extra={"reason": f"{len(self.waiting)} pods wait"})
        return True

    def export(self, key: str) -> None:
        pod = self.tables.pods.get(key)
        self.waiting.discard(key)
        if pod is None or not pod.ips:
            self._allocator.release(key)
            publish(self.sink, self._queue.set_claims(key, {}))
            return
        namespace = self.namespace(pod.namespace)
        if namespace is None:
            return
        number = self._allocator.use(key, self._labels_of(pod, namespace))
        if number is None:
            self.waiting.add(key)  # what was published stays: the pod keeps its old identity until the new one is there
            return
        records = convert_pod(pod, number) if namespace.is_global else {}
        publish(self.sink, self._queue.set_claims(key, records))


def publish(sink: Sink, changes: Mapping[bytes, bytes | None]) -> None:
    """The sink wants each of these; None is a key that nobody claims any more."""
    for key, value in changes.items():
        if value is None:
            sink.delete(key)
        else:
            sink.upsert(key, value)
