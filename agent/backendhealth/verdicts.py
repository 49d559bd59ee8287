# SPDX-License-Identifier: Apache-2.0
"""From answers to verdicts: a pod fails after FALL bad answers in a row, and is well again after RISE good ones. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from meshmodel.names import ServiceName

FALL: Final = 3
RISE: Final = 2


class Pod(NamedTuple):
    """One address of a service; a pod of two services is asked for each of them."""

    service: ServiceName
    address: str


def in_turn(pods: Iterable[Pod], limit: int) -> list[Pod]:
    """So many of them: the first of every namespace, then the second, and so on; no tenant takes the places of another."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, Pod]] = []
    for pod in sorted(pods):
        turns.append((seen[pod.service.namespace], pod))
        seen[pod.service.namespace] += 1
    return sorted(pod for _, pod in sorted(turns)[:limit])


class HealthVerdicts:
    """A pod that was never asked is well."""

    def __init__(self) -> None:
        self._failing: set[Pod] = set()
        self._streak: dict[Pod, int] = {}  # answers in a row that speak against the verdict

    def restore(self, failing: Iterable[Pod]) -> None:
        """What an earlier agent of this node found holds until the pods have answered otherwise."""
        self._failing.update(failing)

    def keep(self, pods: Collection[Pod]) -> None:
        """Nobody else is asked any more, and nothing is said of others."""
        self._failing.intersection_update(pods)
        self._streak = {pod: count for pod, count in self._streak.items() if pod in pods}

    def note(self, pod: Pod, *, is_well: bool) -> None:
        """The pod answered, or did not."""
        is_failing = pod in self._failing
        if is_well is not is_failing:
            self._streak.pop(pod, None)
            return
        count = self._streak.get(pod, 0) + 1
        if count < (RISE if is_failing else FALL):
            self._streak[pod] = count
            return
        self._streak.pop(pod, None)
        (self._failing.discard if is_failing else self._failing.add)(pod)

    def failing(self) -> Mapping[ServiceName, tuple[str, ...]]:
        """Addresses by service, in order."""
        found: dict[ServiceName, list[str]] = {}
        for pod in sorted(self._failing):
            found.setdefault(pod.service, []).append(pod.address)
        return {name: tuple(addresses) for name, addresses in found.items()}
