# SPDX-License-Identifier: Apache-2.0
"""Which pods of this node are confirmed, and by which name: a table of addresses that only grows while their pods stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.tables import Endpoint, Prefix


class ConfirmedPods:
    """Pod uids by address, or namespace/name where no record ever said the uid.

    A pod that was confirmed, by this agent or an earlier one, stays so while its endpoint exists: programs that are lost for a
    moment take nothing back. Uids are kept longer, also those that an earlier agent wrote: records of announced pods do not say
    them, and an interface may be made anew.
    """

    def __init__(self) -> None:
        self._heard: dict[str, tuple[str, str]] = {}  # by address: namespace/name and uid
        self._earlier: dict[str, str] = {}
        self.confirmed: dict[str, str] = {}

    def restore(self, pods: Mapping[str, str]) -> None:
        """What an earlier agent of this node wrote."""
        self._earlier = dict(pods)

    def hear(self, pod: Prefix, uid: str) -> None:
        """A record of a pod of this node. One without uid takes none away: the pod was announced meanwhile."""
        address, name = pod.prefix.partition("/")[0], f"{pod.namespace}/{pod.name}"
        before = self._heard.get(address)
        if not uid and before is not None and before[0] == name:
            return
        self._heard[address] = (name, uid)
        if uid and self._earlier.get(address) not in (None, uid):
            del self._earlier[address]

    def step(self, endpoints: Iterable[Endpoint], enforces: Callable[[Endpoint], bool]) -> bool:
        """`confirmed` is of now; true if it has something that it did not have before."""
        rows = {address: row for row in endpoints for address in (row.address, *row.ipv6)}
        found: dict[str, str] = {}
        for address, row in rows.items():
            name = self._name(address)
            if name and (name in (self.confirmed.get(address), self._earlier.get(address)) or enforces(row)):
                found[address] = name
        has_more = any(self.confirmed.get(address) != name for address, name in found.items())
        self.confirmed = found
        return has_more

    def _name(self, address: str) -> str:
        name, uid = self._heard.get(address, ("", ""))
        return uid or self._earlier.get(address, "") or name
