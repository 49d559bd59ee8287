# SPDX-License-Identifier: Apache-2.0
"""meshpolicy: what network policies mean.

Here: the policy languages (CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, CiliumCIDRGroup, Kubernetes'
NetworkPolicy and ClusterNetworkPolicy), their validation, the engine that turns them and the known identities into map
entries, the lookup that decides a packet, and the tools that explain all of it. The agent enforces with it, the command
explains with it.
Not here: Kubernetes clients, kernel maps, clocks, sockets, files, logs. Pure: everything is a function of its arguments.
Imports meshmodel and meshkit's errors; imported by the programs.

The reference is Cilium. A part of a policy that cannot be enforced yet never widens anything: ports with HTTP, Kafka
or TLS rules are denied unless another rule allows them plainly; provider groups as peers select nobody in allow rules
and everybody they could mean in deny rules. Each is a problem of the accepted Policy. DNS names as peers select the
addresses that pods were told, if there is a proxy that sees it. A DNS
rule with the pattern `*` allows its port, as written; any other list of names denies it.
"""

from meshpolicy.context import Enforcement, PolicyContext
from meshpolicy.endpoint_policy import DirectionPolicy, EndpointPolicy, PolicyDiff
from meshpolicy.engine import Engine, PolicyChange
from meshpolicy.errors import PolicyError
from meshpolicy.mapstate import ANY_IDENTITY, EntryKey, MatchType, PolicyEntry, Verdict, lookup
from meshpolicy.parse import parse_policy, policy_ref
from meshpolicy.parse_cilium import parse_cidr_group
from meshpolicy.peer import ServicePeers
from meshpolicy.rebuild import closed, differences, rebuild
from meshpolicy.reference import Direction, PolicyKind, PolicyRef, RuleOrigin
from meshpolicy.rule import CidrGroup, Policy, Rule

__all__ = [
    "ANY_IDENTITY",
    "CidrGroup",
    "Direction",
    "DirectionPolicy",
    "EndpointPolicy",
    "Enforcement",
    "Engine",
    "EntryKey",
    "MatchType",
    "Policy",
    "PolicyChange",
    "PolicyContext",
    "PolicyDiff",
    "PolicyEntry",
    "PolicyError",
    "PolicyKind",
    "PolicyRef",
    "Rule",
    "RuleOrigin",
    "ServicePeers",
    "Verdict",
    "closed",
    "differences",
    "lookup",
    "parse_cidr_group",
    "parse_policy",
    "policy_ref",
    "rebuild",
]
