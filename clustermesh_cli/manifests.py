# SPDX-License-Identifier: Apache-2.0
"""The YAML under deploy/, with its `${NAME}` marks filled in, as objects ready to apply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from string import Template
from typing import Any, Final

from clustermesh_cli.plan.program_settings import Known, read_known
from kube.client import KubeClient
from kube.resource import SERVICES
from meshapi.installed import PART_OF, RELAY_SERVICE
from meshkit.yamltext import load_documents

WORKLOADS: Final = ("rbac", "apiserver", "proxies", "agent")
RELAY: Final = "relay"
CERTIFICATES: Final = "certificates"


def load_crds() -> list[dict[str, Any]]:
    """Every CustomResourceDefinition we ship, by file name."""
    folder = files("deploy") / "crds"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [obj for name in names for obj in _objects((folder / name).read_text())]


def load_workloads(
    values: Mapping[str, str], *, with_relay: bool, with_certificates: bool = False
) -> list[dict[str, Any]]:
    """ServiceAccounts, roles, Services, Deployments and DaemonSets; with the Job that makes certificates first, if wanted.

    Raises: KeyError for a mark without a value.
    """
    folder = files("deploy") / "manifests"
    return [
        obj
        for name in (*([CERTIFICATES] if with_certificates else ()), *WORKLOADS, *([RELAY] if with_relay else ()))
        for obj in _objects(Template((folder / f"{name}.yaml").read_text()).substitute(values))
    ]


def relay_objects(namespace: str) -> list[dict[str, Any]]:
    """What there is of a relay, by kind and name; the rest of each object does not matter for its removal."""
    text = (files("deploy") / "manifests" / f"{RELAY}.yaml").read_text()
    return [*_objects(Template(text).safe_substitute({"NAMESPACE": namespace}))]


def is_foreign(client: KubeClient, obj: Mapping[str, Any]) -> bool:
    """The Service that has Hubble's name is there, and Cilium's: it is left alone. Raises: KubeError."""
    meta = obj["metadata"]
    if meta["name"] != RELAY_SERVICE:
        return False
    found = client.get(SERVICES, meta["name"], meta["namespace"])
    return found is not None and not PART_OF.items() <= (found["metadata"].get("labels") or {}).items()


def load_settings() -> Known:
    """What the programs can be told."""
    document: Any = next(load_documents((files("deploy") / "settings.yaml").read_text()))
    return read_known(document)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    yield from (obj for obj in load_documents(text) if isinstance(obj, dict))
