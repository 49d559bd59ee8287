# SPDX-License-Identifier: Apache-2.0
"""What files a pod's volumes hold. Pure: from the pod and the objects it refers to, to paths and contents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.devkube.api.objects import Obj, items_of, namespace_of, part
from lab.devkube.kubelet.environment import DownwardFacts, Find, MissingSourceError, field_value, lookup, source_data

ACCOUNT_MOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
ACCOUNT_VOLUME: Final = "kube-api-access"
ROOT_CA: Final = "kube-root-ca.crt"
DEFAULT_MODE: Final = 0o644
# below these a host path is the node's own, below all others the machine's, as an image's files are
NODE_OWN: Final = ("etc", "home", "mnt", "opt", "root", "run", "srv", "tmp", "var")

Token = Callable[[str, str, Sequence[str]], str]
"""Namespace, service account and audiences to a bearer token."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume. Units: mode in octal permission bits."""

    content: bytes
    mode: int = DEFAULT_MODE


@dataclass(frozen=True, slots=True)
class Sources:
    """Where volumes get their contents from."""

    find: Find
    token: Token


def account_volume() -> Obj:
    """The volume every pod gets, as the admission of a real cluster would add it."""
    sources = [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return {"name": ACCOUNT_VOLUME, "projected": {"sources": sources}}


def volumes_of(pod: Obj) -> list[Obj]:
    """The pod's volumes, the one with its service account's token included."""
    named = items_of(pod["spec"], "volumes")
    return named if pod["spec"].get("automountServiceAccountToken") is False else [*named, account_volume()]


def mounts_of(pod: Obj, container: Obj) -> list[Obj]:
    """The container's volume mounts, the one with its service account's token included."""
    named = items_of(container, "volumeMounts")
    own = {mount["mountPath"].rstrip("/") for mount in named}
    if pod["spec"].get("automountServiceAccountToken") is not False and ACCOUNT_MOUNT not in own:
        named = [*named, {"name": ACCOUNT_VOLUME, "mountPath": ACCOUNT_MOUNT, "readOnly": True}]
    return named


def volume_files(pod: Obj, volume: Obj, facts: DownwardFacts, sources: Sources) -> dict[str, File] | None:
    """Relative paths and contents; None for a volume whose contents are not ours (emptyDir, hostPath).

    Raises: MissingSourceError if something it needs is absent and not optional.
    """
    for field in ("configMap", "secret", "downwardAPI"):
        if field in volume:
            return _source_files(pod, {field: volume[field]}, facts, sources)
    if "projected" in volume:
        files: dict[str, File] = {}
        for source in items_of(volume["projected"], "sources"):
            files |= _source_files(pod, source, facts, sources)
        return files
    if "emptyDir" in volume or "hostPath" in volume:
        return None
    kind = next((field for field in volume if field != "name"), "nothing")
    raise MissingSourceError(f"volume {volume.get('name')!r}: the lab has no volumes of kind {kind}")


def host_path(path: str, node_root: Path, special: Mapping[str, Path]) -> Path:
    """Where a host path leads: the node's own bpffs and control group, its own directory, or the machine's files."""
    clean = "/" + path.strip("/")
    for prefix, target in special.items():
        if clean == prefix or clean.startswith(prefix + "/"):
            return target / clean[len(prefix) :].strip("/")
    first = clean.strip("/").split("/", 1)[0]
    return node_root / clean.strip("/") if first in NODE_OWN else Path(clean)


def _source_files(pod: Obj, source: Obj, facts: DownwardFacts, sources: Sources) -> dict[str, File]:
    if "serviceAccountToken" in source:
        account = pod["spec"].get("serviceAccountName") or "default"
        asked = source["serviceAccountToken"]
        audiences = (asked["audience"],) if asked.get("audience") else ()
        return {asked["path"]: File(sources.token(namespace_of(pod), account, audiences).encode())}
    if "downwardAPI" in source:
        items = items_of(source["downwardAPI"], "items")
        return {
            i["path"]: File(field_value(pod, part(i, "fieldRef").get("fieldPath", ""), facts).encode()) for i in items
        }
    for field, kind in (("configMap", "configmaps"), ("secret", "secrets")):
        if field in source:
            return _object_files(pod, kind, source[field], sources)
    raise MissingSourceError(f"projected volume: unknown source {', '.join(source)}")


def _object_files(pod: Obj, kind: str, reference: Obj, sources: Sources) -> dict[str, File]:
    name = reference.get("name") or reference.get("secretName") or ""
    found = lookup(pod, kind, name, reference, sources.find)
    if found is None:
        return {}
    data = source_data(kind, found)
    mode = reference.get("defaultMode") or DEFAULT_MODE
    items = items_of(reference, "items")
    if not items:
        return {key: File(content, mode) for key, content in data.items()}
    files = {}
    for item in items:
        if item["key"] in data:
            files[item["path"].lstrip("/")] = File(data[item["key"]], item.get("mode") or mode)
        elif not reference.get("optional"):
            raise MissingSourceError(f"references non-existent {kind[:-1]} key: {item['key']}")
    return files
