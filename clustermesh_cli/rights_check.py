# SPDX-License-Identifier: Apache-2.0
"""Before the first write: whether this account may do all of it. Half of an installation is worse than none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.needed_rights import needed_rights
from kube.access import missing
from kube.client import KubeClient
from kube.errors import Forbidden, KubeError, NotFound
from kube.resource import from_manifest

SHOWN = 5


def check_rights(client: KubeClient, objects: Sequence[Mapping[str, Any]], namespace: str) -> None:
    """Raises: CommandRefusedError naming what this account may not do; nothing was changed."""
    lacked: list[str] = []
    with suppress(Forbidden, NotFound):  # a server that answers no such question refuses what it must by itself
        lacked = [str(right) for right in missing(client, needed_rights(objects, namespace))]
    lacked = lacked or [said for obj in objects if (said := _refused_role(client, obj))]
    if lacked:
        more = f" and {len(lacked) - SHOWN} more" if len(lacked) > SHOWN else ""
        raise CommandRefusedError(
            f"Nothing was changed: this account may not {'; '.join(lacked[:SHOWN])}{more}. Run it as an administrator of the "
            "cluster, or give the objects of --print to one"
        )


def _refused_role(client: KubeClient, obj: Mapping[str, Any]) -> str:
    """Why the server refuses a role: nobody gives rights that they do not hold. Only the server knows, so it is tried there."""
    if obj["kind"] not in ("Role", "ClusterRole"):
        return ""
    try:
        client.apply(from_manifest(dict(obj)), dict(obj), is_trial=True)
    except Forbidden as exc:
        return f"give the rights of {obj['kind']} {obj['metadata']['name']}: {exc.detail}"
    except KubeError:
        return ""
    return ""
