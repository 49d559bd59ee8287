# SPDX-License-Identifier: Apache-2.0
"""Events as `kubectl describe` shows them; the same thing happening again is counted, not repeated."""

from __future__ import annotations

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.error import ApiError
from lab.devkube.api.objects import Obj, name_of, namespace_of, timestamp, uid_of
from lab.devkube.controllers.desired import short_hash

NORMAL = "Normal"
WARNING = "Warning"


class EventRecorder:
    """Writes events in the name of one component."""

    def __init__(self, cluster: Cluster, component: str, host: str = "") -> None:
        self._cluster, self._component, self._host = cluster, component, host

    def emit(self, about: Obj, reason: str, message: str, kind: str = NORMAL) -> None:
        """The object has this event; an object whose namespace is ending gets none."""
        now = timestamp(self._cluster.wall())
        namespace = namespace_of(about) or "default"
        name = f"{name_of(about)}.{short_hash([uid_of(about), reason, message, self._component, self._host], 16)}"
        known = self._cluster.get("events", name, namespace)
        if known:
            known |= {"count": known.get("count", 1) + 1, "lastTimestamp": now}
            self._cluster.update("events", known)
            return
        source = {"component": self._component} | ({"host": self._host} if self._host else {})
        event = {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": name_of(about),
                "namespace": namespace_of(about),
                "uid": uid_of(about),
            },
            "reason": reason,
            "message": message,
            "type": kind,
            "source": source,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }
        try:
            self._cluster.create("events", event)
        except ApiError as exc:
            if exc.code not in (403, 404):
                raise
