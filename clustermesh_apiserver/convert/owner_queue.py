# SPDX-License-Identifier: Apache-2.0
"""Which value a key has when several objects claim it: the first claimant's, then the next one's when it leaves. Pure.

Without this, the late delete of an old pod takes away the record of the new pod that got its address.
"""

from __future__ import annotations

from collections.abc import Mapping


class OwnerQueue:
    """Every owner's claims, and for each key the value of its first owner."""

    def __init__(self) -> None:
        self._claims: dict[bytes, dict[str, bytes]] = {}
        self._owned: dict[str, tuple[bytes, ...]] = {}

    def set_claims(self, owner: str, values: Mapping[bytes, bytes]) -> dict[bytes, bytes | None]:
        """The owner claims exactly these keys; returns what is to be published now for every key this touches.

        None means that nobody claims the key any more. A key whose published value stays the same may be contained.
        """
        changed: dict[bytes, bytes | None] = {}
        for key in self._owned.get(owner, ()):
            if key not in values:
                claims = self._claims[key]
                del claims[owner]
                if not claims:
                    del self._claims[key]
                changed[key] = next(iter(claims.values()), None)
        for key, value in values.items():
            claims = self._claims.setdefault(key, {})
            claims[owner] = value  # a known owner keeps its place in the queue
            changed[key] = next(iter(claims.values()))
        if values:
            self._owned[owner] = tuple(values)
        else:
            self._owned.pop(owner, None)
        return changed

    def owners(self, key: bytes) -> tuple[str, ...]:
        """Who claims the key, the speaking one first."""
        return tuple(self._claims.get(key, ()))

    def __len__(self) -> int:
        return len(self._claims)
