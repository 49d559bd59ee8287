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
ON_UNREACHABLE: Final = "mesh.clustermesh.io/on-unreachable"
OWN: Final = "local"
OTHERS: Final = "*"
MAXIMUM_WEIGHT: Final = 1000
MAXIMUM_CLUSTERS: Final = 511
_SHOWN: Final = 64
_DIGITS: Final = 9


class Steering(NamedTuple):
    """`order`: clusters, the preferred first; OWN is the own one, OTHERS all that are not named; empty: no order.

    `weights`: shares of new connections by cluster; 0: none. `keeps_unreachable`: a peer that is withdrawn is still chosen.
    """

    order: tuple[str, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    keeps_unreachable: bool = False


NO_STEERING: Final = Steering()


def parse_steering(annotations: Mapping[str, str], problems: list[str]) -> Steering:
    """What the annotations say; one that cannot be read counts as absent and is told to the service's owner in `problems`."""
    order, weights, what = (annotations.get(name) for name in (ORDER, WEIGHTS, ON_UNREACHABLE))
    if order is None and weights is None and what is None:
        return NO_STEERING
    if what is not None and what.strip().lower() not in ("keep", "withdraw"):
        problems.append(f'{ON_UNREACHABLE}: {what[:_SHOWN]!r} is neither "keep" nor "withdraw"; taken as withdraw')
    is_kept = (what or "").strip().lower() == "keep"
    return Steering(_order(order, problems), _weights(weights, problems), is_kept)


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
