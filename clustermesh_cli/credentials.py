# SPDX-License-Identifier: Apache-2.0
"""The cluster's own authority and the four certificates it signs, kept where they are good and renewed where not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kube.resource as k
from certs import profile
from certs.authority import Authority
from certs.inspect import issued_by, parse
from certs.rotation import Rotation, decide
from certs.store import CertFiles, encode_data, from_secret_data, secret_data
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.plan.cluster_identity import ClusterIdentity
from kube.client import KubeClient
from meshapi.installed import ADMIN_SECRET, CA_SECRET, LOCAL_SECRET, PART_OF, REMOTE_SECRET, SERVER_SECRET
from meshkit.errors import MeshError


def ensure_authority(client: KubeClient, namespace: str, identity: ClusterIdentity, wall_s: float) -> Authority:
    """The cluster's authority: the one in its Secret, else a new one stored there. Its key never leaves the cluster."""
    found = client.get(k.SECRETS, CA_SECRET, namespace)
    if found is not None:
        files = found.get("data") or {}
        missing = [name for name in ("ca.crt", "ca.key") if not files.get(name)]
        if missing:
            raise CommandError(
                f"Secret {CA_SECRET} has no {' and no '.join(missing)}: put the Secret back from a backup"
            )
        parts = from_secret_data(
            {"ca.crt": files["ca.crt"], "tls.crt": files["ca.crt"], "tls.key": files["ca.key"]}, CA_SECRET
        )
        return Authority.load(parts.ca, parts.key)
    authority = Authority.create(f"clustermesh {identity.name}", wall_s)
    data = encode_data({"ca.crt": authority.certificate_pem, "ca.key": authority.key_pem})
    client.apply(k.SECRETS, _secret(CA_SECRET, namespace, data))
    return authority


def ensure_certificates(
    client: KubeClient,
    namespace: str,
    identity: ClusterIdentity,
    authority: Authority,
    *,
    advertised: Iterable[str],
    wall_s: float,
) -> float:
    """Every certificate signed by `authority` and not due for renewal; returns when the first one expires (wall s)."""
    wanted = {
        SERVER_SECRET: profile.server(identity.name, namespace, tuple(advertised)),
        ADMIN_SECRET: profile.admin(identity.name),
        LOCAL_SECRET: profile.local(identity.name),
        REMOTE_SECRET: profile.remote(identity.name),
    }
    expiries = []
    for name, shape in wanted.items():
        files = _current(client.get(k.SECRETS, name, namespace), name, authority, shape, wall_s)
        if files is None:
            issued = authority.issue(shape, wall_s)
            files = CertFiles(ca=authority.certificate_pem, cert=issued.cert_pem, key=issued.key_pem)
            client.apply(k.SECRETS, _secret(name, namespace, secret_data(files)))
        expiries.append(parse(files.cert, name)[0].not_after_s)
    return min(expiries)


def _current(
    secret: dict[str, Any] | None, name: str, authority: Authority, shape: profile.Profile, wall_s: float
) -> CertFiles | None:
    """What the Secret holds, or None when it must be issued anew: missing, unreadable, foreign, wrong names, or old."""
    if secret is None:
        return None
    try:
        files = from_secret_data(secret.get("data"), name)
        info = parse(files.cert, name)[0]
        ours = issued_by(files.cert, authority.certificate_pem)
    except MeshError:
        return None
    names = {*shape.dns_names, *(str(a) for a in shape.addresses)}
    fresh = decide(wall_s, info) is Rotation.KEEP
    return files if ours and fresh and info.subject_cn == shape.common_name and names <= set(info.sans) else None


def _secret(name: str, namespace: str, data: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(PART_OF)},
        "type": "Opaque",
        "data": data,
    }
