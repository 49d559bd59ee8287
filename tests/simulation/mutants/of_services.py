# SPDX-License-Identifier: Apache-2.0
"""Wrong decisions about services: which backends, in which order they are written, and who has an address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.datapath.layout import BackendKey
from agent.loadbalancer import chooser, ops, select, writer
from agent.loadbalancer.addresses import AddressRules
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.ownership import Claim, claim_of
from agent.loadbalancer.registry import BackendRegistry
from clustermesh_apiserver.convert import exporter
from kubeintent import endpoint_slice
from meshmodel.annotations import Affinity
from tests.simulation.mutants.swap import swap
from tests.simulation.packets.packet_path import PacketPath


def _heads_first() -> None:
    def publish(self: Any, plans: Any) -> None:
        self._services.update([item for plan in plans for item in self._head_write(plan)])
        original(self, plans)

    original = LoadBalancerTarget._publish
    swap(LoadBalancerTarget, "_publish", publish)


def _affinity_swapped() -> None:
    def sides(counts: Any, *, is_global: bool, affinity: Affinity) -> Any:
        other = {Affinity.LOCAL: Affinity.REMOTE, Affinity.REMOTE: Affinity.LOCAL}
        return original(counts, is_global=is_global, affinity=other.get(affinity, affinity))

    original = select.sides
    swap(select, "sides", sides)
    swap(chooser, "sides", sides)


def _shared_ignored() -> None:
    swap(exporter, "is_shared", lambda service, _namespace: service.annotations.global_)


def _address_of_the_first_name() -> None:
    """Case: a Service asks by externalIPs for another's cluster IP, and its name comes first."""

    def claim(service: Any, ip: str) -> Claim | None:
        found = claim_of(service, ip)
        return None if found is None else found._replace(rank=0)

    swap(AddressRules, "refusal", lambda *_: "")
    swap(writer, "claim_of", claim)


def _one_bad_address_stops_all() -> None:
    """Case: `010.1.1.3` in a slice. It is believed, and what cannot be written takes its whole batch with it."""

    def all_or_none(rows: Any, key: Callable[[Any], Any], write: Callable[[Any], None]) -> dict[Any, Exception]:
        try:
            write(rows)
        except Exception as exc:
            return {key(row): exc for row in rows}
        return {}

    swap(endpoint_slice, "_addresses", lambda entry, _family, _problems: tuple(entry["addresses"]))
    swap(ops, "apply_rows", all_or_none)


def _deselected_is_gone() -> None:
    """Case: connections to a peer when an own pod becomes ready. Both guards are off: the agent's, and that of the programs,
    which go on to an address that is known to live."""

    def init(self: Any, backends: Any, _owner_of: Any = None) -> None:
        original(self, backends)
        self._owner_of = lambda *_: None

    original = BackendRegistry.__init__
    swap(BackendRegistry, "__init__", init)
    swap(PacketPath, "_is_gone", lambda self, value: self._maps.backends.get(BackendKey(value.backend_id)) is None)


MUTANTS: Final[Mapping[str, Callable[[], None]]] = {
    "heads-first": _heads_first,
    "affinity-swapped": _affinity_swapped,
    "shared-ignored": _shared_ignored,
    "address-of-the-first-name": _address_of_the_first_name,
    "one-bad-address-stops-all": _one_bad_address_stops_all,
    "deselected-is-gone": _deselected_is_gone,
}
