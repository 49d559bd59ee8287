# SPDX-License-Identifier: Apache-2.0
"""A pod's volumes on this machine: written, kept up to date, and mounted where its containers want them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lab.devkube.api.error import ApiError
from lab.devkube.api.objects import Obj, items_of
from lab.devkube.kubelet.atomicdir import write_directory
from lab.devkube.kubelet.environment import DownwardFacts, MissingSourceError
from lab.devkube.kubelet.privileges import volume_group
from lab.devkube.kubelet.process import Mount
from lab.devkube.kubelet.site import NodeSite, Site
from lab.devkube.kubelet.volumes import Sources, host_path, mounts_of, volume_files, volumes_of

MUST_EXIST: Final = ("Directory", "File", "Socket", "CharDevice", "BlockDevice")


class PodVolumes:
    """The volumes of one pod, below `directory`."""

    def __init__(self, site: Site, node: NodeSite, directory: Path) -> None:
        self._site, self._node, self._directory = site, node, directory

    def write(self, pod: Obj, facts: DownwardFacts) -> None:
        """Every volume holds what its sources say now. Raises: MissingSourceError; nothing is written then."""
        sources = Sources(self._site.find, self._token)
        wanted = [(volume, volume_files(pod, volume, facts, sources)) for volume in volumes_of(pod)]
        for volume, files in wanted:
            if files is not None:
                write_directory(self._path(volume), files, volume_group(pod))
            elif "emptyDir" in volume:
                path = self._path(volume)
                if not path.exists():
                    path.mkdir(parents=True)
                    path.chmod(0o777)

    def mounts(self, pod: Obj, container: Obj) -> list[Mount]:
        """Where each volume appears in the container. Raises: MissingSourceError."""
        by_name = {volume["name"]: volume for volume in volumes_of(pod)}
        found = []
        for mount in mounts_of(pod, container):
            volume = by_name[mount["name"]]
            source = self._host_path(volume["hostPath"]) if "hostPath" in volume else self._path(volume)
            if sub_path := mount.get("subPath"):
                source = (source / sub_path).resolve()
                if not source.exists():
                    source.mkdir(parents=True)
            generated = not ("hostPath" in volume or "emptyDir" in volume)
            mode = "ro" if mount.get("readOnly") or generated else "rw"
            found.append(Mount(source, mount["mountPath"], mode))
        return found

    def _path(self, volume: Obj) -> Path:
        return self._directory / "volumes" / str(volume["name"])

    def _host_path(self, source: Obj) -> Path:
        path = host_path(source["path"], self._node.names.root, self._node.special_paths)
        kind = source.get("type") or ""
        if not path.exists():
            if kind in MUST_EXIST:
                raise MissingSourceError(f"hostPath type check failed: {source['path']} is not a {kind.lower()}")
            if kind == "FileOrCreate":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            else:
                path.mkdir(parents=True)
        return path

    def _token(self, namespace: str, account: str, audiences: Sequence[str]) -> str:
        try:
            return self._site.cluster.service_account_token(namespace, account, audiences)
        except ApiError as exc:
            raise MissingSourceError(exc.message) from exc


def source_names(pod: Obj) -> set[tuple[str, str]]:
    """Plural and name of every ConfigMap and Secret that the pod's volumes show."""
    found: set[tuple[str, str]] = set()
    for volume in volumes_of(pod):
        sources = [volume, *items_of(volume.get("projected") or {}, "sources")]
        for source in sources:
            if "configMap" in source:
                found.add(("configmaps", source["configMap"].get("name", "")))
            if "secret" in source:
                found.add(("secrets", source["secret"].get("secretName") or source["secret"].get("name", "")))
    return found
