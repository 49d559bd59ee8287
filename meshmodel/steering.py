# SPDX-License-Identifier: Apache-2.0
"""Annotations of ours by which people say which clusters a global service prefers. Pure. A Cilium peer ignores them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from meshmodel.errors import ModelError
from meshmodel.names import parse_cluster_name

ORDER: Final = "mesh.clustermesh.io/affinity-order"
WEIGHTS: Final = "mesh.clustermesh.io/cluster-weights"
THRESHOLD: Final = "mesh.clustermesh.io/affinity-threshold"
SLOW_START: Final = "mesh.clustermesh.io/slow-start"
ON_UNREACHABLE: Final = "mesh.clustermesh.io/on-unreachable"
OWN: Final = "local"
OTHERS: Final = "*"
ALL: Final = (ORDER, WEIGHTS, ON_UNREACHABLE, THRESHOLD, SLOW_START)
MAXIMUM_WEIGHT: Final = 1000
MAXIMUM_CLUSTERS: Final = 511
_SHOWN: Final = 64
_DIGITS: Final = 9


class Unit(NamedTuple):
    """How a number of an annotation is written, and the largest there is."""

    suffix: str
    maximum: int
    what: str


PERCENT: Final = Unit("%", 100, "a percentage")
SECONDS: Final = Unit("s", 3600, "a number of seconds")


class Steering(NamedTuple):
    """`order`: clusters, the preferred first; OWN is the own one, OTHERS all that are not named; empty: no order.

    `weights`: shares of new connections by cluster; 0: none. `keeps_unreachable`: a peer that is withdrawn is still chosen.
    `threshold_percent`: a tier of which less is well passes some of its connections on; 0: only one of which nothing is.
    `slow_start_s`: how long the share of a new backend grows; 0: it has all at once.
    """

    order: tuple[str, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    keeps_unreachable: bool = False
    threshold_percent: int = 0
    slow_start_s: int = 0


NO_STEERING: Final = Steering()


def parse_steering(annotations: Mapping[str, str], problems: list[str]) -> Steering:
    """What the annotations say; one that cannot be read counts as absent and is told to the service's owner in `problems`."""
    if annotations.keys().isdisjoint(ALL):
        return NO_STEERING
    order, weights, what, least, window = (annotations.get(name) for name in ALL)
    if what is not None and what.strip().lower() not in ("keep", "withdraw"):
        problems.append(f'{ON_UNREACHABLE}: {what[:_SHOWN]!r} is neither "keep" nor "withdraw"; taken as withdraw')
    is_kept = (what or "").strip().lower() == "keep"
    return Steering(
        order=_order(order, problems),
        weights=_weights(weights, problems),
        keeps_unreachable=is_kept,
        threshold_percent=_number(THRESHOLD, least, PERCENT, problems),
        slow_start_s=_number(SLOW_START, window, SECONDS, problems),
    )


def _order(text: str | None, problems: list[str]) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        found = tuple(_cluster(word.strip()) for word in text.split(","))
        _check(found)
    except ModelError as exc:
        problems.append(f"{ORDER}: {exc}; the annotation has no effect")
        return ()
    return found


def _weights(text: str | None, problems: list[str]) -> tuple[tuple[str, int], ...]:
    if text is None:
        return ()
    try:
        found = tuple(_weight(word.strip()) for word in text.split(","))
        _check([name for name, _ in found])
    except ModelError as exc:
        problems.append(f"{WEIGHTS}: {exc}; the annotation has no effect")
        return ()
    return found


def _number(name: str, text: str | None, unit: Unit, problems: list[str]) -> int:
    """A number from 1 on, with or without its unit; 0 where nothing was said."""
    if text is None:
        return 0
    digits = text.strip().removesuffix(unit.suffix).rstrip()
    if len(digits) <= _DIGITS and digits.isascii() and digits.isdigit() and 1 <= int(digits) <= unit.maximum:
        return int(digits)
    what = f"{unit.what} from 1 to {unit.maximum}"
    problems.append(f"{name}: {text[:_SHOWN]!r} is not {what}; the annotation has no effect")
    return 0


def _cluster(word: str) -> str:
    return word if word in (OWN, OTHERS) else parse_cluster_name(word)


def _weight(word: str) -> tuple[str, int]:
    name, equals, number = word.partition("=")
    number = number.strip()
    if not equals or len(number) > _DIGITS or not number.isascii() or not number.isdigit():
        raise ModelError(f"{word[:_SHOWN]!r}: expected CLUSTER=NUMBER")
    weight = int(number)
    if weight > MAXIMUM_WEIGHT:
        raise ModelError(f"{word[:_SHOWN]!r}: the largest weight is {MAXIMUM_WEIGHT}")
    return _cluster(name.strip()), weight


def _check(clusters: Sequence[str]) -> None:
    if len(clusters) > MAXIMUM_CLUSTERS:
        raise ModelError(f"{len(clusters)} clusters are named, {MAXIMUM_CLUSTERS} at most")
    twice = next((name for name, count in Counter(clusters).items() if count > 1), None)
    if twice is not None:
        raise ModelError(f"{twice} is named twice")
