# SPDX-License-Identifier: Apache-2.0
"""The answers that pods of this node got: names, their addresses, and until when each counts. Pure.

An answer counts until its TTL ends, and for `USE_S` in any case, since a client connects after it was told. Then its delete
is deferred while the pod has a connection to the address: it would be cut.

Source of the limits: Cilium's tofqdns-endpoint-max-ip-per-hostname and tofqdns-max-deferred-connection-deletes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from typing import Final, NamedTuple

from agent.answered_names import AnsweredAddress

ADDRESSES_OF_NAME: Final = 1000
"""Addresses of one name that count for one pod; those that end first are only kept for connections."""
DEFERRED_OF_POD: Final = 10_000
"""Answers of one pod that are only kept for connections."""
ANSWERS_OF_POD: Final = 20_000
ANSWERS_OF_NODE: Final = 200_000
USE_S: Final = 30.0
_KEPT_SHARE: Final = 0.75


class HeardAddress(NamedTuple):
    """A pod (by its address) was told that the name has the address. `until_s`: seconds since 1970."""

    endpoint: str
    name: str
    address: str
    until_s: float


class Pair(NamedTuple):
    """A pod and an address outside that it has a connection to."""

    endpoint: str
    address: str


class NameCache:
    """Answers by pod, name and address. Every change returns the addresses of which the names may be others now.

    `is_selected` says whether a policy means the name: answers about others are given up first. `given_up` counts answers
    that a limit ended before their time, `revision` changes whenever `names_for` may say something else.
    """

    def __init__(self, is_selected: Callable[[str], bool]) -> None:
        self._is_selected = is_selected
        self._answers: dict[str, dict[str, dict[str, float]]] = {}
        self._of_pod: Counter[str] = Counter()
        self._users: dict[str, Counter[str]] = {}  # of each address: how many pods know it by each name
        self.size = self.given_up = self.revision = 0

    def names_of(self, address: str) -> Iterable[str]:
        """The names that pods know the address by."""
        return self._users.get(address, {}).keys()

    def has_names(self, address: str) -> bool:
        """Whether some pod knows the address by a name."""
        return address in self._users

    def names_for(self, endpoint: str, address: str) -> list[str]:
        """The names by which one pod knows the address, sorted, without the dot at the end."""
        known = self._answers.get(endpoint, {})
        names = (name for name in self.names_of(address) if address in known.get(name, ()))
        return sorted(name.rstrip(".") for name in names)

    def endpoints(self) -> Set[str]:
        """Every pod that was told something."""
        return self._answers.keys()

    def addresses(self) -> Iterable[str]:
        """Every address that has a name."""
        return self._users.keys()

    def answers(self) -> Iterator[HeardAddress]:
        """Every answer, sorted by pod, name and address."""
        for endpoint, names in sorted(self._answers.items()):
            for name, addresses in sorted(names.items()):
                for address, until_s in sorted(addresses.items()):
                    yield HeardAddress(endpoint, name, address, until_s)

    def learn(self, endpoint: str, name: str, addresses: Sequence[AnsweredAddress], wall_s: float) -> set[str]:
        """The pod was told that the name has these addresses; what it was told earlier counts on."""
        if len(addresses) > ADDRESSES_OF_NAME:
            self.given_up += len(addresses) - ADDRESSES_OF_NAME
        changed = set[str]()
        for address, ttl_s in addresses[:ADDRESSES_OF_NAME]:
            changed |= self._put(HeardAddress(endpoint, name, address, wall_s + max(ttl_s, USE_S)))
        known = self._answers[endpoint][name]
        if len(known) > ADDRESSES_OF_NAME:
            alive = sorted((until_s, address) for address, until_s in known.items() if until_s > wall_s)
            for _, address in alive[: max(0, len(alive) - ADDRESSES_OF_NAME)]:
                known[address] = wall_s
        return changed | self._keep_limits(endpoint)

    def restore(self, answers: Iterable[HeardAddress]) -> set[str]:
        """Answers of an earlier agent count as before."""
        changed = set[str]()
        for answer in answers:
            changed |= self._put(answer)
            if self._of_pod[answer.endpoint] > ANSWERS_OF_POD or self.size > ANSWERS_OF_NODE:
                changed |= self._keep_limits(answer.endpoint)
        return changed

    def sweep(self, wall_s: float, connected: Collection[Pair]) -> set[str]:
        """Answers that ended are gone, but for those that a connection needs: `connected`, as they were seen after the end."""
        changed = set[str]()
        for endpoint in list(self._answers):
            ended = [a for a in self._answers_of(endpoint) if a.until_s <= wall_s]
            kept = sorted((a for a in ended if Pair(endpoint, a.address) in connected), key=lambda a: -a.until_s)
            self.given_up += len(kept[DEFERRED_OF_POD:])
            for answer in (*kept[DEFERRED_OF_POD:], *(a for a in ended if Pair(endpoint, a.address) not in connected)):
                changed |= self._drop(answer)
        return changed

    def forget(self, is_meant: Callable[[HeardAddress], bool]) -> tuple[int, set[str]]:
        """Answers that are meant are gone, also where a connection needs them; returns how many they were."""
        doomed = [answer for answer in self.answers() if is_meant(answer)]
        return len(doomed), set[str]().union(*(self._drop(answer) for answer in doomed))

    def ended(self, wall_s: float) -> Iterator[HeardAddress]:
        """Answers whose time is over."""
        return (
            answer for endpoint in self._answers for answer in self._answers_of(endpoint) if answer.until_s <= wall_s
        )

    def _answers_of(self, endpoint: str) -> Iterator[HeardAddress]:
        for name, addresses in self._answers[endpoint].items():
            for address, until_s in addresses.items():
                yield HeardAddress(endpoint, name, address, until_s)

    def _put(self, answer: HeardAddress) -> set[str]:
        endpoint, name, address, until_s = answer
        known = self._answers.setdefault(endpoint, {}).setdefault(name, {})
        before = known.get(address)
        known[address] = until_s if before is None else max(before, until_s)
        if before is not None:
            return set()
        self.size += 1
        self.revision += 1
        self._of_pod[endpoint] += 1
        users = self._users.setdefault(address, Counter())
        users[name] += 1
        return {address} if users[name] == 1 else set()

    def _drop(self, answer: HeardAddress) -> set[str]:
        endpoint, name, address, _ = answer
        names = self._answers[endpoint]
        del names[name][address]
        if not names[name]:
            del names[name]
        if not names:
            del self._answers[endpoint]
        self.size -= 1
        self.revision += 1
        self._of_pod[endpoint] -= 1
        if not self._of_pod[endpoint]:
            del self._of_pod[endpoint]
        users = self._users[address]
        users[name] -= 1
        if users[name]:
            return set()
        del users[name]
        if not users:
            del self._users[address]
        return {address}

    def _keep_limits(self, endpoint: str) -> set[str]:
        changed = set[str]()
        if self._of_pod[endpoint] > ANSWERS_OF_POD:
            changed |= self._shrink(endpoint)
        if self.size > ANSWERS_OF_NODE:
            changed |= self._shrink(self._of_pod.most_common(1)[0][0])
        return changed

    def _shrink(self, endpoint: str) -> set[str]:
        """A quarter of the pod's answers is given up: what no policy means, then what ends first."""
        selected = {name for name in self._answers[endpoint] if self._is_selected(name)}
        ranked = sorted(self._answers_of(endpoint), key=lambda a: (a.name in selected, a.until_s))
        doomed = ranked[: len(ranked) - int(len(ranked) * _KEPT_SHARE)]
        self.given_up += len(doomed)
        return set[str]().union(*(self._drop(answer) for answer in doomed))
