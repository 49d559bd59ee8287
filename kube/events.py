# SPDX-License-Identifier: Apache-2.0
"""Kubernetes Events: one line to the owner of an object, where `kubectl describe` shows it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from kube.client import KubeClient
from kube.errors import AlreadyExists
from kube.resource import EVENTS, KubeObject

MAX_MESSAGE = 1024


def emit_event(
    client: KubeClient,
    involved_object: KubeObject,
    reason: str,
    message: str,
    *,
    wall_s: float,
    type_: str = "Warning",
    component: str = "",
) -> None:
    """The object carries this Event; saying the same again, at `wall_s`, renews it instead of adding another.

    Needs the verbs create and patch on events, nothing more.
    Raises: KubeError if the server refuses.
    """
    stamp = datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = _event(involved_object, reason, message[:MAX_MESSAGE], type_=type_, component=component, stamp=stamp)
    try:
        client.create(EVENTS, event)
    except AlreadyExists:
        meta = event["metadata"]
        client.patch_merge(EVENTS, meta["name"], {"lastTimestamp": stamp}, meta["namespace"])


def _event(involved: KubeObject, reason: str, message: str, *, type_: str, component: str, stamp: str) -> KubeObject:
    meta = involved["metadata"]
    digest = hashlib.sha256("\0".join((str(meta.get("uid")), component, reason, message)).encode()).hexdigest()[:16]
    return {
        "metadata": {"name": f"{meta['name']}.{digest}", "namespace": meta.get("namespace") or "default"},
        "involvedObject": {
            "apiVersion": involved.get("apiVersion", ""),
            "kind": involved.get("kind", ""),
            "namespace": meta.get("namespace", ""),
            "name": meta["name"],
            "uid": meta.get("uid", ""),
        },
        "reason": reason,
        "message": message,
        "type": type_,
        "source": {"component": component},
        "reportingComponent": component,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
