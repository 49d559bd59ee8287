# SPDX-License-Identifier: Apache-2.0
"""How controllers write: the wanted object, whatever was there; equal objects cause no event."""

from __future__ import annotations

import hashlib
from typing import Final

import orjson

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj, items_of, name_of, namespace_of, part, timestamp, uid_of

HASH_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"


def ensure(cluster: Cluster, plural: str, wanted: Obj, group: str = "") -> Obj:
    """The object exists and has the wanted fields, labels and owners; its status is left alone."""
    current = cluster.get(plural, name_of(wanted), namespace_of(wanted), group)
    if current is None:
        return cluster.create(plural, wanted, group)
    meta = current["metadata"]
    for field in ("labels", "annotations", "ownerReferences"):
        if field in wanted["metadata"]:
            meta[field] = wanted["metadata"][field]
    current |= {field: value for field, value in wanted.items() if field != "metadata"}
    return cluster.update(plural, current, group)


def set_status(cluster: Cluster, plural: str, obj: Obj, status: Obj, group: str = "") -> Obj:
    """The object has exactly this status; an object that has gone meanwhile is left alone."""
    current = cluster.get(plural, name_of(obj), namespace_of(obj), group)
    if current is None or uid_of(current) != uid_of(obj):
        return obj
    current["status"] = {key: value for key, value in status.items() if value not in (None, [], {})}
    return cluster.update(plural, current, group, subresource="status")


def condition(previous: Obj, kind: str, now_s: float, *, holds: bool, reason: str = "", message: str = "") -> Obj:
    """A condition whose transition time is the one before as long as its status is."""
    status = str(holds)
    before = next((c for c in items_of(previous, "conditions") if c.get("type") == kind), {})
    same = before.get("status") == status
    since = before.get("lastTransitionTime") if same else timestamp(now_s)
    found = {"type": kind, "status": status, "lastTransitionTime": since}
    return found | {k: v for k, v in (("reason", reason), ("message", message)) if v}


def is_true(obj: Obj, kind: str) -> bool:
    """Whether the object's status has this condition with status True."""
    conditions = items_of(part(obj, "status"), "conditions")
    return any(c.get("type") == kind and c.get("status") == "True" for c in conditions)


def owner_reference(owner: Obj) -> Obj:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_uid(obj: Obj) -> str:
    """The uid of the object that controls this one; empty if none does."""
    owners = items_of(obj["metadata"], "ownerReferences")
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def short_hash(value: object, length: int = 10) -> str:
    """Letters that are the same for equal values, in the alphabet Kubernetes uses for names."""
    number = int.from_bytes(hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest())
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(HASH_LETTERS))
        letters.append(HASH_LETTERS[index])
    return "".join(letters)
