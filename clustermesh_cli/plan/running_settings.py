# SPDX-License-Identifier: Apache-2.0
"""What a cluster is called, numbered and set to where its ConfigMap has lost it: what its programs run with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.program_settings import APISERVER, FIXED, OF_ENABLE, Known
from meshapi.installed import (
    CLUSTER_ID_KEY,
    CLUSTER_NAME_KEY,
    CONFIG_MAP,
    LIFETIME_KEY,
    MAXIMUM_KEY,
    MIRROR_KEY,
    SCOPE_KEY,
)

_KEPT: Final = (CLUSTER_NAME_KEY, CLUSTER_ID_KEY, MAXIMUM_KEY, SCOPE_KEY)
_NUMBERS: Final = (CLUSTER_ID_KEY, MAXIMUM_KEY)
_UNSET: Final = {CLUSTER_NAME_KEY: "default", CLUSTER_ID_KEY: "0"}
"""What Cilium's ConfigMap says of a cluster that has none."""
_LIFETIME: Final = "certificate-lifetime"
_OF_MANIFEST: Final = "--renew-certificates"
"""Given to every apiserver; --set can take it back."""
_MIRROR: Final = {"--mirror": "true", "--no-mirror": "false"}


def read_running(workloads: Iterable[Mapping[str, Any] | None]) -> dict[str, str]:
    """The settings in the arguments of the programs, under their keys of the ConfigMap."""
    found: dict[str, str] = {}
    for workload in workloads:
        for argument in _arguments(workload or {}):
            name, equals, value = argument.removeprefix("--").partition("=")
            if equals and name in _KEPT:
                found[name] = value
            elif argument in _MIRROR:
                found[MIRROR_KEY] = _MIRROR[argument]
    return found


def read_chosen(program: str, workload: Mapping[str, Any] | None, known: Known) -> dict[str, str]:
    """What `enable --set` and `--certificate-lifetime` gave a program, under their keys of the ConfigMap."""
    found: dict[str, str] = {}
    for argument in _arguments(workload or {}):
        if argument == _OF_MANIFEST:
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        if program == APISERVER and name == _LIFETIME and equals:
            found[LIFETIME_KEY] = value
        if not equals:
            value = "false" if name.startswith("no-") and name not in known[program] else "true"
            name = name if name in known[program] else name.removeprefix("no-")
        if name in known[program] and name not in FIXED[program] | OF_ENABLE[program]:
            found[f"{program}.{name}"] = value
    return found


def complete_config(config: Mapping[str, str], running: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The settings, with what is missing taken from the programs that run, and the names of what was taken.

    Raises: CommandRefusedError where both say a name, an id or a maximum and differ: records and identities of the cluster
    are named and numbered by what runs.
    """
    taken = [key for key, value in running.items() if not _is_set(key, config.get(key)) and _is_set(key, value)]
    for key in (CLUSTER_NAME_KEY, *_NUMBERS):
        if key in running and key not in taken and config.get(key) != running[key]:
            raise CommandRefusedError(
                f"ConfigMap {CONFIG_MAP} says {key} {config.get(key)}, and the programs of the cluster run with {running[key]}: "
                "put that back; for another one run clustermesh disconnect with every peer, clustermesh disable, then "
                "clustermesh enable; nothing was changed"
            )
    return {**config, **{key: running[key] for key in taken}}, tuple(taken)


def _is_set(key: str, value: str | None) -> bool:
    if not value or value == _UNSET.get(key):
        return False
    return key not in _NUMBERS or (value.isascii() and value.isdigit())


def _arguments(workload: Mapping[str, Any]) -> Iterable[str]:
    spec = ((workload.get("spec") or {}).get("template") or {}).get("spec") or {}
    for container in spec.get("containers") or ():
        yield from (str(argument) for argument in container.get("args") or ())
