# SPDX-License-Identifier: Apache-2.0
"""What the switch policy-default-local-cluster, or the end of a peering, changes: which peers, not only whether any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from meshmodel.identity import NumericIdentity
from meshmodel.labels import Labels
from meshpolicy.context import PolicyContext
from meshpolicy.documents import Document, load_documents
from meshpolicy.engine import Engine
from meshpolicy.node_peer import peer_text
from meshpolicy.peer import CidrSelector, PeerSelector
from meshpolicy.prefix import Cidr, parse_prefix
from meshpolicy.reference import RuleOrigin
from meshpolicy.rule import CidrGroup, Policy
from meshpolicy.rule_forms import Peers, rule_forms
from meshpolicy.selector import LabelSelector, reserved


class ScopeChange(NamedTuple):
    """One rule that means other peers with the switch on than with it off."""

    origin: RuleOrigin
    deny: bool
    selectors: tuple[str, ...]
    """The peers of the rule as they read without the switch."""
    lost: tuple[NumericIdentity, ...]
    """Identities that the rule selects now and would not select with the switch on."""
    kept: tuple[NumericIdentity, ...]


class Widening(NamedTuple):
    """An allow rule for addresses that would admit pods of a cluster once it is not a peer any more."""

    origin: RuleOrigin
    selector: str
    prefixes: tuple[str, ...]


def inspect_default_local_cluster(
    documents: Iterable[Document], context: PolicyContext, identities: Mapping[NumericIdentity, Labels]
) -> tuple[ScopeChange, ...]:
    """Every rule whose peers differ under the two positions of the switch, with the peers that it loses.

    A rule with unscoped selectors that lose nobody today is listed too: a meshed cluster may add such pods.
    """
    kept = tuple(documents)
    wide = _Side(kept, replace(context, default_local_cluster=False), identities)
    narrow = _Side(kept, replace(context, default_local_cluster=True), identities)
    changes = []
    for pair in zip(wide.policies, narrow.policies, strict=True):
        for rule in rule_forms(*pair):
            if rule.wide == rule.narrow:
                continue
            old, new = wide.selected(rule.wide), narrow.selected(rule.narrow)
            changed = dict.fromkeys(peer_text(peer) for peer in rule.wide or () if peer not in (rule.narrow or ()))
            lost, stays = tuple(sorted(old - new)), tuple(sorted(old & new))
            changes.append(ScopeChange(rule.origin, rule.deny, tuple(changed), lost, stays))
    return tuple(changes)


class _Side:
    """The documents under one position of the switch."""

    def __init__(
        self, documents: tuple[Document, ...], context: PolicyContext, identities: Mapping[NumericIdentity, Labels]
    ) -> None:
        self.engine = Engine(context)
        self.policies: list[Policy] = []
        for number, labels in identities.items():
            self.engine.set_identity(number, labels)
        for item in load_documents(documents, context):
            if isinstance(item, CidrGroup):
                self.engine.set_cidr_group(item)
            elif isinstance(item, Policy):
                self.policies.append(item)

    def selected(self, peers: Peers) -> set[NumericIdentity]:
        return {number for peer in peers or () for number in self.engine.selected_by(peer)}


def find_widening(policies: Iterable[Policy], peer_prefixes: Iterable[str]) -> tuple[Widening, ...]:
    """The allow rules that would begin to match addresses of a cluster that is drained.

    While a cluster is a peer its pods have identities and are neither world nor an address range; afterwards their
    addresses are both. Prefixes are the pod ranges of that cluster; text that is no prefix is left out.
    """
    prefixes = tuple(prefix for text in peer_prefixes if (prefix := _parsed(text)) is not None)
    found = []
    for policy in policies:
        for rule in policy.rules:
            if rule.deny or rule.passes or rule.unenforced or rule.peers is None:
                continue
            names: dict[str, None] = {}
            admitted: dict[str, None] = {}
            for peer in rule.peers:
                for prefix in prefixes:
                    if _would_match(peer, prefix):
                        names["the world" if isinstance(peer, LabelSelector) else str(peer)] = None
                        admitted[str(prefix)] = None
            if admitted:
                found.append(Widening(rule.origin, ", ".join(names), tuple(admitted)))
    return tuple(found)


def _would_match(peer: PeerSelector, prefix: Cidr) -> bool:
    if isinstance(peer, CidrSelector):
        overlaps = peer.prefix.covers(prefix) or prefix.covers(peer.prefix)
        return overlaps and not any(hole.covers(prefix) for hole in peer.excepts)
    worlds = (reserved("world"), reserved(f"world-ipv{prefix.version}"))
    return isinstance(peer, LabelSelector) and peer in worlds


def _parsed(text: str) -> Cidr | None:
    try:
        return parse_prefix(text)
    except ValueError:
        return None
