# SPDX-License-Identifier: Apache-2.0
"""Wrong decisions about policies: changes that are not carried through to every endpoint and peer that they concern."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from agent.ipcache import ops as ipcache_ops
from agent.policy import plan
from agent.policy.feature import PolicyFeature
from agent.policy.ops import EndpointTarget
from meshmodel.identity import Reserved
from meshpolicy.endpoint_views import PolicyViews
from meshpolicy.engine import Engine, PolicyChange
from meshpolicy.mapstate import ANY_IDENTITY
from tests.simulation.mutants.swap import swap


def _edited_rule_keeps_its_peers() -> None:
    """Case: two policies edited three times with a denial between: who is named only by a rule that went is not asked again."""

    def touch_rules(self: Any, rules: Any) -> set[int]:
        touched: set[int] = set()
        for active in rules:
            touched |= self._mark(active, {ANY_IDENTITY})
        return touched

    swap(PolicyViews, "touch_rules", touch_rules)


def _new_identity_unheard() -> None:
    swap(PolicyViews, "touch_identity", lambda self, number, _known: self.touch_endpoint(number))


def _group_change_unheard() -> None:
    swap(Engine, "_reload_groups", lambda self: PolicyChange(self.revision, frozenset()))


def _denial_is_no_rule() -> None:
    def value(entry: Any) -> Any:
        return original(entry)._replace(deny=0)

    original = plan.policy_value
    swap(plan, "policy_value", value)


def _unknown_is_world() -> None:
    def value(row: Any) -> Any:
        found = original(row)
        return found if found.identity else found._replace(identity=int(Reserved.WORLD))

    original = ipcache_ops.ipcache_value
    swap(ipcache_ops, "ipcache_value", value)


def _enforced_before_listed() -> None:
    """A restarted agent writes its pods before it has heard of any policy."""

    def reconcilers(self: Any) -> Any:
        return [replace(each, waits_for=(), before_first=lambda: None) for each in original(self)]

    original = PolicyFeature.reconcilers
    swap(PolicyFeature, "reconcilers", reconcilers)


def _revision_stays() -> None:
    """Open connections are not judged again when the policies of their pod change."""
    swap(EndpointTarget, "_next_revision", lambda _self: 1)


MUTANTS: Final[Mapping[str, Callable[[], None]]] = {
    "edited-rule-keeps-its-peers": _edited_rule_keeps_its_peers,
    "new-identity-unheard": _new_identity_unheard,
    "group-change-unheard": _group_change_unheard,
    "denial-is-no-rule": _denial_is_no_rule,
    "unknown-is-world": _unknown_is_world,
    "enforced-before-listed": _enforced_before_listed,
    "revision-stays": _revision_stays,
}
