# SPDX-License-Identifier: Apache-2.0
"""The YAML under deploy/, with its `${NAME}` marks filled in, as objects ready to apply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from clustermesh_cli.plan.program_settings import Known, read_known

WORKLOADS = ("rbac", "apiserver", "agent")


def load_crds() -> list[dict[str, Any]]:
    """Every CustomResourceDefinition we ship, by file name."""
    folder = files("deploy") / "crds"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [obj for name in names for obj in _objects((folder / name).read_text())]


def load_workloads(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """ServiceAccounts, roles, Services, Deployment and DaemonSet. Raises KeyError for a mark without a value."""
    folder = files("deploy") / "manifests"
    return [
        obj
        for name in WORKLOADS
        for obj in _objects(Template((folder / f"{name}.yaml").read_text()).substitute(values))
    ]


def load_settings() -> Known:
    """What the programs can be told."""
    return read_known(yaml.safe_load((files("deploy") / "settings.yaml").read_text()))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    yield from (obj for obj in yaml.safe_load_all(text) if obj)
