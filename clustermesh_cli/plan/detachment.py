# SPDX-License-Identifier: Apache-2.0
"""How agents are told to remove everything from their nodes, and which of them have confirmed it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

DETACH_FLAG: Final = "--detach"


def detaching_patch(daemon: Mapping[str, Any]) -> dict[str, Any]:
    """Merge patch of the agents' DaemonSet by which every node's agent is replaced, at once, by one that detaches."""
    spec = daemon["spec"]["template"]["spec"]
    containers = [
        {**container, "args": [*_without_flag(container), DETACH_FLAG]} for container in spec.get("containers") or ()
    ]
    return {
        "spec": {
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {"spec": {"containers": containers}},
        }
    }


def is_leaving(daemon: Mapping[str, Any]) -> bool:
    """The agents of this DaemonSet are told to detach: somebody began to take the cluster out of the mesh."""
    return _is_told(daemon["spec"]["template"]["spec"]) if "spec" in daemon else False


def unconfirmed_nodes(nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """Nodes whose agent has not said yet that nothing of ours is left there, by name. `pods` are those of the agents."""
    confirmed = {pod["spec"].get("nodeName", "") for pod in pods if _has_detached(pod)}
    return sorted({str(node["metadata"]["name"]) for node in nodes} - confirmed)


def abandoned_nodes(nodes: Iterable[Mapping[str, Any]], leases: Iterable[Mapping[str, Any]]) -> list[str]:
    """Nodes whose agent, by its Lease, was never seen to have removed what is ours there, by name."""
    held = {str((lease.get("spec") or {}).get("holderIdentity", "")) for lease in leases}
    return sorted({str(node["metadata"]["name"]) for node in nodes} & held)


def _without_flag(container: Mapping[str, Any]) -> list[str]:
    return [word for word in container.get("args") or () if word != DETACH_FLAG]


def _has_detached(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return _is_told(pod["spec"]) and any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _is_told(pod_spec: Mapping[str, Any]) -> bool:
    return any(DETACH_FLAG in (container.get("args") or ()) for container in pod_spec.get("containers") or ())
