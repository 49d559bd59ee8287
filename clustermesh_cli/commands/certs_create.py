# SPDX-License-Identifier: Apache-2.0
"""`clustermesh certs create`: what programs mount, where the manifests are not applied by `enable`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from certs.profile import own_shapes
from clustermesh_cli.cluster_facts import is_mirrored, read_config
from clustermesh_cli.console import Console
from clustermesh_cli.credentials import check_lifetime, read_lifetime_s
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.mounted_objects import ensure_mounted, ensure_peer_files, find_trusting
from clustermesh_cli.plan.cluster_identity import decide_identity
from kube.client import KubeClient
from meshapi.installed import CLUSTER_NAME_KEY, CONFIG_MAP, MIRROR_KEY


@dataclass(frozen=True, slots=True)
class CertificateWish:
    """What the user asked for; None means "as it is, or the default". `advertise` are further names in the server's."""

    cluster_name: str | None = None
    advertise: Sequence[str] = ()
    lifetime_s: float | None = None


def create(client: KubeClient, namespace: str, wish: CertificateWish, console: Console, wall_s: float) -> None:
    """What is there and good is kept, as `enable` keeps it.

    Raises: CommandError (usage) where nothing says the cluster's name; CommandRefusedError for another name than it has, and
    for a new authority while peers trust the one that was lost.
    """
    config = read_config(client, namespace)
    if not wish.cluster_name and CLUSTER_NAME_KEY not in config:
        raise CommandError(
            f"this cluster has no name yet: give --cluster-name, or apply ConfigMap {CONFIG_MAP} first", ExitCode.USAGE
        )
    name = decide_identity(name=wish.cluster_name, id_=None, config=config, context=None).name
    chosen_s = wish.lifetime_s if wish.lifetime_s is not None else read_lifetime_s(config)
    check_lifetime(chosen_s)
    find_trusting(client, namespace, name, may_be_new=False)
    kept, issued = ensure_mounted(
        client, namespace, name, own_shapes(name, namespace, chosen_s, wish.advertise), wall_s
    )
    ensure_peer_files(client, namespace, is_mirrored=MIRROR_KEY not in config or is_mirrored(config))
    for secret in issued.foreign:
        console.warn(f"Secret {secret} is kept by somebody else and was left alone")
    expires = datetime.fromtimestamp(issued.expires_s, UTC)
    written = f"{len(issued.written)} certificates were issued" if issued.written else "no certificate was due"
    console.ok(
        f"Cluster {name}: authority SHA-256 {kept.authority.fingerprint[:16]}, {written}; they last until {expires:%Y-%m-%d}"
    )
