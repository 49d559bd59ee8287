# SPDX-License-Identifier: Apache-2.0
"""Which endpoints of this node have which identity, as the endpoints table said last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from agent.tables import AgentDB, NamedPort
from meshkit.table import HistoryLostError
from meshmodel.identity import NumericIdentity
from meshpolicy.port import PROTOCOL_NUMBERS


class EndpointIdentities:
    """`forget` is told an identity that no endpoint has any more."""

    def __init__(self, db: AgentDB, forget: Callable[[NumericIdentity], None]) -> None:
        self._db, self._forget = db, forget
        self._seen = 0
        self._by_identity: dict[int, set[str]] = {}
        self._identity_of: dict[str, int] = {}

    def __contains__(self, identity: int) -> bool:
        return identity in self._by_identity

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_identity)

    def unknown(self) -> list[int]:
        """Identities of endpoints that have no row."""
        return [i for i in self._by_identity if self._db.identities.get(i) is None]

    def addresses(self, identities: Iterable[int]) -> set[str]:
        """Of the endpoints that have one of these identities."""
        return {a for identity in identities for a in self._by_identity.get(identity, ())}

    def take(self) -> set[str]:
        """Read the table; returns the addresses whose endpoint changed."""
        seen, self._seen = self._seen, self._db.endpoints.revision
        try:
            changed = {c.key for c in self._db.endpoints.changes_since(seen)}
        except HistoryLostError:
            changed = set(self._identity_of) | {row.address for row in self._db.endpoints.rows()}
        for address in changed:
            old, row = self._identity_of.get(address), self._db.endpoints.get(address)
            if row is not None and row.identity == old:
                continue
            if old is not None:
                del self._identity_of[address]
                self._leave(old, address)
            if row is not None:
                self._identity_of[address] = row.identity
                self._by_identity.setdefault(row.identity, set()).add(address)
        return changed

    def _leave(self, identity: int, address: str) -> None:
        users = self._by_identity[identity]
        users.discard(address)
        if not users:
            del self._by_identity[identity]
            self._forget(NumericIdentity(identity))


def named_ports(ports: tuple[NamedPort, ...]) -> dict[str, tuple[int, int]]:
    """A pod's port names as the engine takes them."""
    return {p.name: (p.port, PROTOCOL_NUMBERS.get(p.protocol, 0)) for p in ports}
