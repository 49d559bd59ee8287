# SPDX-License-Identifier: Apache-2.0
"""The cluster's own authority and the four certificates it signs, kept where they are good and renewed where not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import kube.resource as k
from certs import profile
from certs.authority import DEFAULT_AUTHORITY_DAYS, Authority
from certs.authority_secret import AuthorityPhase, KeptAuthority, read_authority
from certs.inspect import parse
from certs.leaf_secret import LeafAction, issue_leaf, judge_leaf
from certs.store import CertFiles, encode_data, secret_data
from clustermesh_cli.exit_code import CommandError, CommandRefusedError
from kube.client import KubeClient
from kube.server_clock import behind_s
from meshapi.installed import (
    CA_SECRET,
    CONFIG_MAP,
    LIFETIME_KEY,
    PART_OF,
)


def ensure_authority(client: KubeClient, namespace: str, cluster: str, wall_s: float) -> KeptAuthority:
    """The cluster's authority: the one in its Secret, else a new one stored there. Its key never leaves the cluster.

    A new one is valid by our clock and by the API server's.
    """
    found = client.get(k.SECRETS, CA_SECRET, namespace)
    if found is not None:
        return read_authority(found, CA_SECRET)
    authority = Authority.create(f"clustermesh {cluster}", wall_s, behind_s=behind_s(client, wall_s))
    data = encode_data({"ca.crt": authority.certificate_pem, "ca.key": authority.key_pem})
    client.apply(k.SECRETS, _secret(CA_SECRET, namespace, data))
    return KeptAuthority(authority, AuthorityPhase.SETTLED, authority.certificate_pem)


def are_issued(
    client: KubeClient, namespace: str, kept: KeptAuthority, shapes: Mapping[str, profile.Profile], wall_s: float
) -> bool:
    """Whether `ensure_certificates` would write nothing."""
    verdicts = (
        judge_leaf(client.get(k.SECRETS, name, namespace), name, shape, kept, labels=PART_OF, wall_s=wall_s)
        for name, shape in shapes.items()
    )
    return all(verdict.action is not LeafAction.ISSUE for verdict in verdicts)


@dataclass(frozen=True, slots=True)
class IssuedCertificates:
    """When the first one ends (wall s), which Secrets were written, and which somebody else keeps."""

    expires_s: float
    written: tuple[str, ...]
    foreign: tuple[str, ...]


def read_lifetime_s(config: Mapping[str, str]) -> float:
    """How long a new certificate lasts, as `enable` was told, else a year. Raises: CommandError for what is no number."""
    try:
        lifetime_s = float(config.get(LIFETIME_KEY, profile.DEFAULT_DAYS * profile.DAY_S))
        if not math.isfinite(lifetime_s):
            raise ValueError(lifetime_s)
        return lifetime_s
    except ValueError as exc:
        raise CommandError(
            f"ConfigMap {CONFIG_MAP}: {LIFETIME_KEY} is no number of seconds: run enable --certificate-lifetime"
        ) from exc


def check_lifetime(lifetime_s: float) -> None:
    """Raises: CommandRefusedError for a life that is too short to renew in time, or longer than an authority's."""
    if not profile.SHORTEST_LIFETIME_S <= lifetime_s <= DEFAULT_AUTHORITY_DAYS * profile.DAY_S:
        raise CommandRefusedError(
            f"--certificate-lifetime {lifetime_s:g} s: choose {profile.SHORTEST_LIFETIME_S:g}s to "
            f"{DEFAULT_AUTHORITY_DAYS * 24}h"
        )


def ensure_certificates(
    client: KubeClient,
    namespace: str,
    kept: KeptAuthority,
    shapes: Mapping[str, profile.Profile],
    wall_s: float,
    *,
    is_forced: bool = False,
) -> IssuedCertificates:
    """Every certificate of ours is signed by the authority, beside all that are trusted, and not due.

    All are issued anew if `is_forced`. New ones are valid by our clock and by the API server's.
    Raises: Conflict if one was changed meanwhile, by the apiserver for example: the next run judges what is there then;
    CertificateError if the API server's clock would refuse what it accepts now.
    """
    expiries, written, foreign = [], [], []
    for name, shape in shapes.items():
        secret = client.get(k.SECRETS, name, namespace)
        verdict = judge_leaf(secret, name, shape, kept, labels=PART_OF, wall_s=wall_s)
        info = verdict.current
        if verdict.action is LeafAction.FOREIGN:
            foreign.append(name)
        elif verdict.action is LeafAction.ISSUE or is_forced:
            issued = issue_leaf(kept, verdict, wall_s, behind_s(client, wall_s))
            files = CertFiles(ca=kept.trust_pem, cert=issued.cert_pem, key=issued.key_pem)
            if secret is None:
                client.create(k.SECRETS, _secret(name, namespace, secret_data(files)))
            else:
                data = {**(secret.get("data") or {}), **secret_data(files)}
                client.replace(k.SECRETS, {**secret, "data": data})
            info = parse(files.cert, name)[0]
            written.append(name)
        if info is not None:
            expiries.append(info.not_after_s)
    return IssuedCertificates(min(expiries, default=0.0), tuple(written), tuple(foreign))


def _secret(name: str, namespace: str, data: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(PART_OF)},
        "type": "Opaque",
        "data": data,
    }
