# SPDX-License-Identifier: Apache-2.0
"""The map of endpoints by address: each under its address of IPv4, which names it, and under those of IPv6."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.datapath.layout import AddressKey, EndpointValue
from agent.datapath.maps import Map


class AddressEntries:
    """Remembers which addresses of IPv6 lead to which endpoint; one that another endpoint took stays that one's."""

    def __init__(self, by_address: Map[AddressKey, EndpointValue]) -> None:
        self._map = by_address
        self._ipv6: dict[str, tuple[str, ...]] = {}
        self._owners: dict[str, str] = {}

    def restore(self) -> list[EndpointValue]:
        """Every endpoint that the map holds, once; its further addresses are remembered."""
        found: dict[str, EndpointValue] = {}
        for key, value in list(self._map.items()):
            if key.address == value.address:
                found[value.address] = value
            else:
                found.setdefault(value.address, value)
                self._ipv6[value.address] = (*self._ipv6.get(value.address, ()), key.address)
                self._owners[key.address] = value.address
        return list(found.values())

    def ipv6_of(self, address: str) -> frozenset[str]:
        """Further addresses under which the map holds the endpoint: not those that another one took since."""
        return frozenset(each for each in self._ipv6.get(address, ()) if self._owners.get(each) == address)

    def publish(self, value: EndpointValue, ipv6: Iterable[str]) -> None:
        """The endpoint is found under its address and these, and under no other."""
        wanted = tuple(ipv6)
        self._map.update([(AddressKey(address), value) for address in (value.address, *wanted)])
        self._drop(value.address, self.ipv6_of(value.address).difference(wanted))
        if wanted:
            self._ipv6[value.address] = wanted
            self._owners.update(dict.fromkeys(wanted, value.address))

    def remove(self, address: str) -> None:
        """The endpoint is found under no address."""
        self._drop(address, self.ipv6_of(address))
        self._map.delete([AddressKey(address)])

    def torn(self, live: Mapping[str, EndpointValue]) -> set[str]:
        """Endpoints of which the map holds something else under one of their addresses."""
        held = {key.address: value for key, value in self._map.items()}
        return {value.address for address, value in self._wanted(live).items() if held.get(address) != value}

    def prune(self, live: Mapping[str, EndpointValue]) -> None:
        """The map has no addresses but those of these endpoints."""
        wanted = self._wanted(live)
        self._map.delete([key for key, _ in self._map.items() if key.address not in wanted])

    def _wanted(self, live: Mapping[str, EndpointValue]) -> dict[str, EndpointValue]:
        wanted = {address: value for address, value in live.items() if value.ifindex}
        return wanted | {ipv6: live[owner] for ipv6, owner in self._owners.items() if owner in wanted}

    def _drop(self, address: str, ipv6: Iterable[str]) -> None:
        doomed = list(ipv6)
        self._map.delete([AddressKey(each) for each in doomed])
        for each in doomed:
            del self._owners[each]
        self._ipv6.pop(address, None)
