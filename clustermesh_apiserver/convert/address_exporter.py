# SPDX-License-Identifier: Apache-2.0
"""IP records: which identity is behind which address, from Cilium's endpoints or from pods."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from clustermesh_apiserver.convert.confirmations import Confirmations
from clustermesh_apiserver.convert.exporter import Exporter, Sink, publish
from clustermesh_apiserver.convert.identity import IdentityRefusal
from clustermesh_apiserver.convert.ip import convert_endpoint, convert_pod
from clustermesh_apiserver.convert.owner_queue import OwnerQueue
from clustermesh_apiserver.tables import IntentTable, Tables
from kubeintent.rows import NamespaceIntent, PodIntent
from meshmodel.identity import IdentityRange, NumericIdentity, is_reserved
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


class AddressExporter(Exporter):
    """From Cilium's endpoints or from pods, whichever fills the tables; a row's key is the owner of its claims.

    A pod gets an identity of our own, and waits until its label set has a number. While its node's agent has not confirmed
    it, only our own agents may read of it.
    """

    def __init__(
        self,
        tables: Tables,
        sink: Sink,
        allocator: Allocator,
        labels_of: Callable[[PodIntent, NamespaceIntent], Labels],
        numbers: IdentityRange,
        *,
        now: Callable[[], float],
        private: Sink | None = None,
        confirmations: Confirmations | None = None,
    ) -> None:
        super().__init__(tables, sink, private)
        self._confirmations = confirmations
        self._allocator, self._labels_of, self._numbers, self._now = allocator, labels_of, numbers, now
        self._queue, self._private_queue = OwnerQueue(), OwnerQueue()
        self._waiting_since: float | None = None
        self.waiting: set[str] = set()

    @property
    def needs(self) -> Sequence[IntentTable[Any]]:
        tables = self.tables
        if tables.is_cilium:
            return (tables.namespaces, tables.endpoints)
        waited_for = self._confirmations.needs if self._confirmations is not None else ()
        return (tables.namespaces, tables.pods, tables.identities, *waited_for)

    def touch_namespace(self, namespace: str) -> None:
        self.touch(self.tables.endpoints.in_group(namespace))
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
        self.waiting.discard(key)
        self.refused.pop(key, None)
        if self.tables.is_cilium:
            self._allocator.release(key)
            self._export_endpoints(key)
        else:
            self._export_pod(key)

    def _export_endpoints(self, key: str) -> None:
        records: dict[bytes, bytes] = {}
        is_global = True
        for endpoint in self.tables.endpoints.get(key) or ():  # all of one namespace
            namespace = self.namespace(endpoint.namespace)
            if namespace is None:
                return
            is_global = namespace.is_global
            if self._is_believed(endpoint.identity):
                records |= convert_endpoint(endpoint)
            else:
                self.refused[key] = IdentityRefusal.OUT_OF_RANGE
        self._claim(key, records, is_global=is_global)

    def _export_pod(self, key: str) -> None:
        pod = self.tables.pods.get(key)
        if pod is None or not pod.ips:
            self._allocator.release(key)
            self._claim(key, {})
            return
        namespace = self.namespace(pod.namespace)
        if namespace is None:
            return
        number = self._allocator.use(key, self._labels_of(pod, namespace))
        if number is None:
            self.waiting.add(key)  # what was published stays: the pod keeps its old identity until the new one is there
            return
        if not self._is_believed(number):
            self.refused[key] = IdentityRefusal.OUT_OF_RANGE
            self._claim(key, {})
            return
        unconfirmed = self._confirmations.unconfirmed(key) if self._confirmations is not None else ()
        hidden = set(pod.ips) if not namespace.is_global else set(unconfirmed)
        pod = self._at_its_node(pod)
        public = convert_pod(pod, number)
        private = convert_pod(pod, number, is_private=True) if hidden else {}
        self._claim_both(
            key,
            {address: value for address, value in public.items() if address.decode() not in hidden},
            {address: value for address, value in private.items() if address.decode() in hidden},
        )

    def _at_its_node(self, pod: PodIntent) -> PodIntent:
        """The pod with the address its node has now; a kubelet writes `hostIP` of running pods some time after its Node."""
        node = self.tables.nodes.get(pod.node)
        if node is None or pod.host_ip in [ip for _, ip in node.addresses]:
            return pod
        address = node.internal_ip(version=6 if ":" in pod.host_ip else 4)
        return replace(pod, host_ip=address) if address else pod

    def _is_believed(self, identity: int) -> bool:
        """Readers take identities of our range and those that mean the same everywhere; 0 is: not known yet."""
        return is_reserved(identity) or self._numbers.contains(NumericIdentity(identity))

    def _claim(self, owner: str, records: Mapping[bytes, bytes], *, is_global: bool = True) -> None:
        """The owner has exactly these records, of a global namespace or of one that peers must not know."""
        self._claim_both(owner, records if is_global else {}, {} if is_global else records)

    def _claim_both(self, owner: str, public: Mapping[bytes, bytes], private: Mapping[bytes, bytes]) -> None:
        if self.private is not None:
            publish(self.private, self._private_queue.set_claims(owner, private))
        publish(self.sink, self._queue.set_claims(owner, public))
