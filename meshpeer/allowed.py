# SPDX-License-Identifier: Apache-2.0
"""What a person lets a peer own, from lists in its connection file. Pure.

```yaml
endpoints: [https://south.mesh.cilium.io:2379]
networks: [10.2.0.0/16]          # pods, health and ingress addresses
node-networks: [172.18.0.0/24]   # addresses of nodes
```
Both are optional, and other readers of the file, Cilium's among them, pass over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshkit.yamltext import load_documents
from meshmodel.address import canonical_prefix
from meshmodel.errors import ModelError

NETWORKS: Final = "networks"
NODE_NETWORKS: Final = "node-networks"
WIDEST: Final = {4: 8, 6: 16}
"""By IP version, the shortest prefix length of a network that a peer is believed to own, listed or not."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Canonical prefixes; no list allows everything that nobody else has."""

    networks: tuple[str, ...] = ()
    node_networks: tuple[str, ...] = ()


def parse_allowed(content: bytes) -> Allowed:
    """The lists of a connection file. Raises: ModelError: a list that cannot be understood lets the peer own nothing."""
    try:
        document = next(iter(load_documents(content.decode())), None)
    except ValueError as exc:
        raise ModelError(f"connection file: {exc}") from None
    if not isinstance(document, dict):
        raise ModelError("connection file: not a YAML mapping")
    return Allowed(_prefixes(document, NETWORKS), _prefixes(document, NODE_NETWORKS))


def _prefixes(document: dict[object, object], name: str) -> tuple[str, ...]:
    if name not in document:
        return ()
    found = document[name]
    if not isinstance(found, list) or not found:
        raise ModelError(f"connection file: {name} is no list of prefixes; leave it out to allow what nobody else has")
    try:
        return tuple(canonical_prefix(item if isinstance(item, str) else "") for item in found)
    except ValueError as exc:
        raise ModelError(f"connection file: {name}: {exc}") from None
