# SPDX-License-Identifier: Apache-2.0
"""REST paths of the names that pods were told."""

from __future__ import annotations

from collections.abc import Callable

from agent.fqdn.name_cache import NameCache
from agent.fqdn.selected_names import SelectedNames
from meshapi.agent import NameRow, NamesForgotten
from meshkit.clock import Clock
from meshkit.rest import NotAnswered, Rest
from meshpolicy.dns_name import canonical, matches_pattern

_PATTERN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.*")


def add_name_routes(
    rest: Rest, cache: NameCache, selected: SelectedNames, forget: Callable[[Callable[[str], bool]], int], clock: Clock
) -> None:
    """`forget` lets answers about the names that are meant go."""

    @rest.get("/v1/fqdn/cache", list[NameRow], tag="policy", errors={400: "not a pattern of names"})
    async def names(*, endpoint: str = "", pattern: str = "*") -> list[NameRow]:
        """What pods of this node were told; of one pod by its address, and of names that match the pattern."""
        wanted, labels, now_s = _pattern(pattern), selected.labels(), clock.wall()
        return [
            NameRow(
                a.endpoint,
                a.name.rstrip("."),
                a.address,
                max(0.0, a.until_s - now_s),
                sorted(labels.get(a.address, ())),
            )
            for a in cache.answers()
            if endpoint in ("", a.endpoint) and matches_pattern(wanted, a.name)
        ]

    @rest.post("/v1/fqdn/cache/clean", NamesForgotten, tag="policy", errors={400: "not a pattern of names"})
    async def clean(*, pattern: str = "*") -> NamesForgotten:
        """What pods were told of names that match the pattern does not count any more, also for open connections."""
        wanted = _pattern(pattern)
        return NamesForgotten(forgotten=forget(lambda name: matches_pattern(wanted, name)))


def _pattern(text: str) -> str:
    found = canonical(text)
    if not text or not _PATTERN_CHARACTERS.issuperset(found):
        raise NotAnswered(400, f"{text[:64]!r} is not a pattern of names: write example.org, *.example.org or *")
    return found
