# SPDX-License-Identifier: Apache-2.0
"""Which name and id a cluster gets: what the user says, else what the cluster already says, else a stable choice."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from clustermesh_cli.exit_code import CommandRefusedError
from meshapi.installed import CLUSTER_ID_KEY, CLUSTER_NAME_KEY
from meshmodel.errors import ModelError
from meshmodel.names import ClusterId, ClusterName, check_cluster_id, parse_cluster_name


@dataclass(frozen=True, slots=True)
class ClusterIdentity:
    """Name and id of one cluster, and how many clusters the mesh may have (255 or 511)."""

    name: ClusterName
    id: ClusterId
    maximum: int


def decide_identity(
    *, name: str | None, id_: int | None, config: Mapping[str, str], context: str | None
) -> ClusterIdentity:
    """The identity `enable` will use.

    `config` is the data of ConfigMap clustermesh-config or, without one, of Cilium's own cilium-config. A name is
    derived from the context (kind's prefix dropped); an id from the name, so that asking twice gives the same answer.
    Raises CommandRefusedError when a value is not acceptable, or when a flag contradicts what the cluster already is.
    """
    try:
        maximum = int(config.get("max-connected-clusters", "255"))
        known_name, known_id = config.get(CLUSTER_NAME_KEY), config.get(CLUSTER_ID_KEY)
        chosen = name or (known_name if known_name not in (None, "", "default") else None) or _from_context(context)
        cluster_name = parse_cluster_name(chosen)
        number = id_ if id_ is not None else int(known_id) if known_id not in (None, "", "0") else 0
        if number == 0:
            number = zlib.crc32(cluster_name.encode()) % maximum + 1
        cluster_id = check_cluster_id(number, maximum)
    except (ModelError, ValueError) as exc:
        raise CommandRefusedError(f"{exc}; give --cluster-name and --cluster-id") from exc
    _refuse_change("name", known_name if known_name != "default" else None, str(cluster_name))
    _refuse_change("id", known_id if known_id != "0" else None, str(cluster_id))
    return ClusterIdentity(cluster_name, cluster_id, maximum)


def _from_context(context: str | None) -> str:
    if not context:
        raise ValueError("this cluster has no name yet and there is no context to derive one from")
    return context.removeprefix("kind-").rsplit("/", 1)[-1].lower()


def _refuse_change(what: str, known: str | None, wanted: str) -> None:
    if known and known != wanted:
        raise CommandRefusedError(
            f"this cluster already has the {what} {known}, which its identities are numbered by; "
            f"it cannot become {wanted}: run clustermesh disconnect with every peer, then clustermesh disable, then "
            "clustermesh enable again; where Cilium runs, its ConfigMap cilium-config must say the same"
        )
