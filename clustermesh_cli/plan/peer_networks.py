# SPDX-License-Identifier: Apache-2.0
"""What a peer is let own: the pod networks written into its entry as `networks:`. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from clustermesh_cli.exit_code import CommandError, CommandRefusedError, ExitCode
from meshmodel.address import canonical_prefix

AUTO: Final = "auto"
NONE: Final = "none"
AROUND: Final = {4: 16, 6: 48}
"""`auto` allows the network of this length around what is announced: nodes that are added later get pod networks in it."""

Choices = Mapping[str, str | tuple[str, ...]]
"""By context of the peer: `auto`, `none`, or canonical prefixes. The entry of a peer without a choice stays as it is."""


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
    choice: str | tuple[str, ...] | None, announced: Iterable[str], others: Iterable[str]
) -> tuple[str, ...] | None:
    """The list to write: None leaves what is there, an empty one removes it. `others` are other clusters' pod networks.

    Raises: CommandRefusedError for `auto` where the peer announces nothing.
    """
    if choice is None:
        return None
    if choice == NONE:
        return ()
    if choice != AUTO:
        return tuple(choice)
    networks = [ipaddress.ip_network(text) for text in announced]
    if not networks:
        raise CommandRefusedError("--peer-networks auto: the peer announces no pod networks; give them, or none")
    foreign = [ipaddress.ip_network(text) for text in others]
    wide = [_around(network) for network in networks]
    chosen = [n if any(w.overlaps(f) for f in foreign) else w for n, w in zip(networks, wide, strict=True)]
    v4 = ipaddress.collapse_addresses(n for n in chosen if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in chosen if isinstance(n, ipaddress.IPv6Network))
    return tuple(str(network) for network in (*v4, *v6))


def _around(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    length = AROUND[network.version]
    return network if network.prefixlen <= length else network.supernet(new_prefix=length)


def _prefixes(text: str, value: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(canonical_prefix(part.strip()) for part in value.split(",")))
    except ValueError as exc:
        raise CommandError(f"--peer-networks {text}: {exc}; write none, auto or CIDR,...", ExitCode.USAGE) from exc
