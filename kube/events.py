# SPDX-License-Identifier: Apache-2.0
"""Kubernetes Events: one line to the owner of an object, where `kubectl describe` shows it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from kube.client import KubeClient
from kube.errors import NotFound
from kube.resource import EVENTS, KubeObject

MAX_MESSAGE = 1024


def emit_event(
    client: KubeClient,
    involved_object: KubeObject,
    reason: str,
    message: str,
    *,
    type_: str = "Warning",
    component: str = "",
) -> None:
    """The object carries this Event; saying the same again raises its count instead of adding another.

    Raises: KubeError if the server refuses.
    """
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    meta = involved_object["metadata"]
    namespace = meta.get("namespace") or "default"
    digest = hashlib.sha256("\0".join((str(meta.get("uid")), component, reason, message)).encode()).hexdigest()[:16]
    name = f"{meta['name']}.{digest}"
    known = client.get(EVENTS, name, namespace)
    if known is not None:
        try:
            client.patch_merge(
                EVENTS, name, {"count": int(known.get("count") or 1) + 1, "lastTimestamp": stamp}, namespace
            )
        except NotFound:  # it expired between the two requests
            pass
        else:
            return
    client.create(
        EVENTS,
        {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": involved_object.get("apiVersion", ""),
                "kind": involved_object.get("kind", ""),
                "namespace": meta.get("namespace", ""),
                "name": meta["name"],
                "uid": meta.get("uid", ""),
            },
            "reason": reason,
            "message": message[:MAX_MESSAGE],
            "type": type_,
            "source": {"component": component},
            "reportingComponent": component,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        },
    )
