# SPDX-License-Identifier: Apache-2.0
"""What a kubeconfig says: its files merged as kubectl merges them, a context chosen, paths made whole. Nothing is opened
but the files themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kube.errors import ConfigError
from meshkit.yamltext import YamlTextError, load_documents

DEFAULT_FILE: Final = "~/.kube/config"
EXEC_EXTENSION: Final = "client.authentication.k8s.io/exec"
_KINDS: Final = {"clusters": "cluster", "users": "user", "contexts": "context"}
_PATHS: Final = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
    "context": (),
}
_TEXTS: Final = {
    "cluster": ("server", "certificate-authority", "certificate-authority-data", "tls-server-name", "proxy-url"),
    "user": (
        *("client-certificate", "client-certificate-data", "client-key", "client-key-data"),
        *("token", "tokenFile", "username", "password"),
    ),
    "context": ("cluster", "user", "namespace"),
}
"""What kubectl takes as text alone."""


@dataclass(frozen=True, slots=True)
class Context:
    """One named way to reach a cluster, as a kubeconfig lists it."""

    name: str
    cluster: str
    user: str
    namespace: str
    current: bool


@dataclass(frozen=True, slots=True)
class Chosen:
    """The context that is used, with its cluster and its user as they stand in the kubeconfig, paths made whole.

    `folder` is where the user's entry stands: a plugin that is named by a relative path is found from there.
    """

    context: str
    cluster: Mapping[str, Any]
    user: Mapping[str, Any]
    folder: Path


@dataclass(slots=True)
class Kubeconfig:
    """The merged files: entries by kind and name; of two entries of one name the first is taken."""

    where: str
    current: str = ""
    entries: dict[str, dict[str, Mapping[str, Any]]] = field(
        default_factory=lambda: {kind: {} for kind in _KINDS.values()}
    )
    folders: dict[str, Path] = field(default_factory=dict)

    def contexts(self) -> list[Context]:
        """Every context, in order."""
        return [
            Context(
                name=name,
                cluster=str(entry.get("cluster") or ""),
                user=str(entry.get("user") or ""),
                namespace=str(entry.get("namespace") or "default"),
                current=name == self.current,
            )
            for name, entry in self.entries["context"].items()
        ]

    def choose(self, name: str | None) -> Chosen:
        """The context of this name, the current one when None. Raises: ConfigError."""
        wanted = name or self.current
        what = f"kubeconfig {self.where}" + (f" context {wanted}" if wanted else "")
        if not wanted:
            raise ConfigError(what, detail="no current-context is set: name one with --context")
        context = self.entries["context"].get(wanted)
        if context is None:
            raise ConfigError(what, detail="there is no such context")
        cluster = self.entries["cluster"].get(str(context.get("cluster") or ""))
        if cluster is None:
            raise ConfigError(what, detail=f"there is no cluster {context.get('cluster')!r}")
        if not cluster.get("server"):
            raise ConfigError(what, detail=f"cluster {context.get('cluster')!r} has no server")
        user_name = str(context.get("user") or "")
        user = self.entries["user"].get(user_name)
        if user is None and user_name:
            raise ConfigError(what, detail=f"there is no user {user_name!r}")
        return Chosen(wanted, cluster, user or {}, self.folders.get(user_name, Path()))


def read_kubeconfig(kubeconfig: str | None) -> Kubeconfig:
    """The files of a list separated as PATH is, the user's own when None; those that do not exist are left out.

    Raises: ConfigError if there is none, or one cannot be read.
    """
    where = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_FILE
    merged = Kubeconfig(where)
    paths = [Path(part).expanduser() for part in where.split(os.pathsep) if part]
    found = [path for path in paths if path.exists()]
    if not found:
        raise ConfigError(f"kubeconfig {where}", detail="there is no such file")
    for path in found:
        _merge(merged, path, _load(path))
    return merged


def _load(path: Path) -> Mapping[str, Any]:
    try:
        documents = list(load_documents(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, YamlTextError) as exc:
        raise ConfigError(f"kubeconfig {path}", detail=str(exc)) from exc
    document = documents[0] if documents else None
    if not isinstance(document, dict) or not document:
        raise ConfigError(f"kubeconfig {path}", detail="it is no kubeconfig: a map with clusters, users and contexts")
    return document


def _merge(merged: Kubeconfig, path: Path, document: Mapping[str, Any]) -> None:
    folder = path.absolute().parent
    merged.current = merged.current or _text(path, "current-context", document)
    for plural, kind in _KINDS.items():
        for name, entry in _named(path, plural, kind, document.get(plural) or ()):
            if name not in merged.entries[kind]:
                merged.entries[kind][name] = _with_whole_paths(entry, folder, _PATHS[kind])
                if kind == "user":
                    merged.folders[name] = folder


def _named(path: Path, plural: str, kind: str, items: object) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if not isinstance(items, list | tuple):
        raise ConfigError(f"kubeconfig {path}", detail=f"{plural} is no list")
    for item in items:
        entry = item.get(kind) if isinstance(item, dict) else None
        if not isinstance(item, dict) or "name" not in item or not isinstance(entry or {}, dict):
            raise ConfigError(f"kubeconfig {path}", detail=f"an entry of {plural} has no name, or no {kind}")
        name = _text(path, "name", item, of=f"an entry of {plural}")
        for member in _TEXTS[kind]:
            _text(path, member, entry or {}, of=f"{kind} {name}")
        yield name, entry or {}


def _text(path: Path, member: str, entry: Mapping[str, Any], *, of: str = "it") -> str:
    """The member, empty where there is none. Raises: ConfigError for what is no text: `y`, `no` and 12 are none in YAML."""
    value = entry.get(member)
    if value is not None and not isinstance(value, str):
        shown = json.dumps(value) if isinstance(value, bool | int | float) else type(value).__name__
        raise ConfigError(
            f"kubeconfig {path}", detail=f"{of} has {member} {shown}, which is no text: write it in quotes"
        )
    return value or ""


def _with_whole_paths(entry: Mapping[str, Any], folder: Path, names: Iterable[str]) -> Mapping[str, Any]:
    return {**entry, **{name: str(folder / str(entry[name])) for name in names if entry.get(name)}}
