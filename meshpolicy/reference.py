# SPDX-License-Identifier: Apache-2.0
"""Names: which document, which rule inside it, which direction."""

from __future__ import annotations

import zlib
from enum import IntEnum, StrEnum
from typing import NamedTuple


class Direction(IntEnum):
    """Seen from the endpoint; the numbers are the direction bit of the policy map."""

    EGRESS = 0
    INGRESS = 1

    @property
    def word(self) -> str:
        """ "ingress" or "egress"."""
        return self.name.lower()


class PolicyKind(StrEnum):
    """The five kinds of documents, and the agent itself as the author of built-in rules."""

    CILIUM = "CiliumNetworkPolicy"
    CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
    KUBERNETES = "NetworkPolicy"
    TIERED = "ClusterNetworkPolicy"
    CIDR_GROUP = "CiliumCIDRGroup"
    BUILT_IN = "built-in"


_SHORT = {
    PolicyKind.CILIUM: "cnp",
    PolicyKind.CLUSTERWIDE: "ccnp",
    PolicyKind.KUBERNETES: "netpol",
    PolicyKind.TIERED: "kcnp",
    PolicyKind.CIDR_GROUP: "ccg",
    PolicyKind.BUILT_IN: "built-in",
}


class PolicyRef(NamedTuple):
    """One document. Prints as "cnp/default/allow-dns"."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        short = _SHORT.get(PolicyKind(self.kind), self.kind)
        return "/".join(part for part in (short, self.namespace, self.name) if part)


class RuleOrigin(NamedTuple):
    """One rule of one document. Prints as "cnp/default/allow-dns egress[0]"."""

    policy: PolicyRef
    section: str

    def __str__(self) -> str:
        return f"{self.policy} {self.section}".rstrip()

    @property
    def number(self) -> int:
        """A stable 32-bit name for map values and flow records; never 0."""
        return zlib.crc32(str(self).encode()) or 1


_BUILT_IN = PolicyRef(PolicyKind.BUILT_IN, "", "")
ALLOW_LOCALHOST = RuleOrigin(_BUILT_IN._replace(name="allow-localhost"), "")
ALLOW_ALL = RuleOrigin(_BUILT_IN._replace(name="allow-without-default-deny"), "")
HOST_GUARD = _BUILT_IN._replace(name="guard")
"""The rules for a node that no host policy overrules."""
HOST_UNKNOWN = _BUILT_IN._replace(name="unknown-node")
"""What closes a node of which nobody knows the labels any more."""
DEFAULT_DENY = RuleOrigin(_BUILT_IN._replace(name="default-deny"), "")
