# SPDX-License-Identifier: Apache-2.0
"""What a peer is let own: the pod networks written into its entry as `networks:`. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from clustermesh_cli.exit_code import CommandError, CommandRefusedError, ExitCode
from meshmodel.address import canonical_prefix

AUTO: Final = "auto"
NONE: Final = "none"
AROUND: Final = {4: 16, 6: 48}
"""`auto` allows the network of this length around what is announced: nodes that are added later get pod networks in it."""

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Choices = Mapping[str, str | tuple[str, ...]]
"""By context of the peer: `auto`, `none`, or canonical prefixes. Without a choice a list that is there stays; else `auto`."""


def parse_choices(given: Iterable[str], local: str, destinations: Sequence[str]) -> Choices:
    """What [CONTEXT=]none|auto|CIDR,... says. Without CONTEXT, words are for every peer, prefixes for the only destination.

    Raises: CommandError (usage) for what is no prefix or word, CommandRefusedError for a context that takes no part.
    """
    found: dict[str, str | tuple[str, ...]] = {}
    for text in given:
        context, equals, value = text.partition("=")
        value = value if equals else text
        if equals and context not in (local, *destinations):
            raise CommandRefusedError(f"--peer-networks {text}: {context} is not connected by this command")
        if not equals and value not in (AUTO, NONE) and len(destinations) != 1:
            raise CommandRefusedError(f"--peer-networks {text}: with several destinations write CONTEXT=CIDR,...")
        contexts = (context,) if equals else (local, *destinations) if value in (AUTO, NONE) else destinations
        found |= dict.fromkeys(contexts, value if value in (AUTO, NONE) else _prefixes(text, value))
    return found


def decide_networks(
    choice: str | tuple[str, ...], announced: Iterable[str], others: Iterable[str], ranges: Iterable[str] = ()
) -> tuple[str, ...]:
    """The list to write; an empty one removes it. `others` are other clusters' pod networks, `ranges` what the peer's objects
    say all its pods are in.

    `auto` allows the ranges, and what is announced outside of them with room around it; neither reaches into networks of
    others, unless that very network is announced. Raises: CommandRefusedError for `auto` where nothing is known.
    """
    if choice == NONE:
        return ()
    if choice != AUTO:
        return tuple(choice)
    foreign = [ipaddress.ip_network(text) for text in others]
    chosen = [r for r in map(ipaddress.ip_network, ranges) if not any(r.overlaps(f) for f in foreign)]
    for network in map(ipaddress.ip_network, announced):
        if not any(covers(r, network) for r in chosen):
            wide = _around(network)
            chosen.append(network if any(wide.overlaps(f) for f in foreign) else wide)
    if not chosen:
        raise CommandRefusedError("--peer-networks auto: the peer announces no pod networks; give them, or none")
    v4 = ipaddress.collapse_addresses(n for n in chosen if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in chosen if isinstance(n, ipaddress.IPv6Network))
    return tuple(str(network) for network in (*v4, *v6))


def outside(announced: Iterable[str], allowed: Iterable[str]) -> tuple[str, ...]:
    """What is announced and not inside the list."""
    lists = [ipaddress.ip_network(text) for text in allowed]
    return tuple(text for text in announced if not any(covers(a, ipaddress.ip_network(text)) for a in lists))


def covers(wide: Network, network: Network) -> bool:
    """Whether one network is inside the other."""
    return wide.version == network.version and wide.supernet_of(network)  # type: ignore[arg-type]


def _around(network: Network) -> Network:
    length = AROUND[network.version]
    return network if network.prefixlen <= length else network.supernet(new_prefix=length)


def _prefixes(text: str, value: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(canonical_prefix(part.strip()) for part in value.split(",")))
    except ValueError as exc:
        raise CommandError(f"--peer-networks {text}: {exc}; write none, auto or CIDR,...", ExitCode.USAGE) from exc
