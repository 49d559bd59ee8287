# SPDX-License-Identifier: Apache-2.0
"""Label selectors as objects spell them, and which nodes take which pods. Pure."""

from __future__ import annotations

from lab.devkube.api.objects import Obj, items_of, labels_of, part

EFFECTS_THAT_KEEP_PODS_OFF = ("NoSchedule", "NoExecute")


def tolerates(spec: Obj, taint: Obj) -> bool:
    """Whether a pod with this specification may stay with the taint."""
    return any(_tolerates(toleration, taint) for toleration in items_of(spec, "tolerations"))


def _tolerates(toleration: Obj, taint: Obj) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def obstacle(spec: Obj, node: Obj) -> str:
    """Why a pod with this specification cannot go to the node, in the scheduler's words; empty if it can."""
    if not part(spec, "nodeSelector").items() <= labels_of(node).items():
        return "node(s) didn't match Pod's node affinity/selector"
    for taint in items_of(node["spec"], "taints"):
        if taint.get("effect") in EFFECTS_THAT_KEEP_PODS_OFF and not tolerates(spec, taint):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value') or ''}}}"
    return ""
