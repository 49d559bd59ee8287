# SPDX-License-Identifier: Apache-2.0
"""The certificates in the Secrets of a cluster's mesh: its authority, its own, and the authorities of its peers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import kube.resource as k
from certs.authority_secret import AuthorityPhase, phase_of
from certs.errors import CertificateError
from certs.inspect import issued_by, parse
from certs.store import CA_FILE, CERT_FILE, decode_entry
from certs.validity import KeptCertificates
from clustermesh_cli.plan.authority_choice import RESTORE
from kube.client import KubeClient
from meshapi.installed import (
    ADMIN_SECRET,
    CA_SECRET,
    CA_SUFFIX,
    LOCAL_SECRET,
    MIRROR_SECRET,
    OBSERVER_SECRET,
    PEERS_SECRET,
    RELAY_SECRET,
    RELAY_SERVER_SECRET,
    REMOTE_SECRET,
    SERVER_SECRET,
)

ROTATE: Final = "run clustermesh certs rotate"
PHASES: Final = {
    AuthorityPhase.ANNOUNCED: "the new one is announced, the old one signs",
    AuthorityPhase.REPLACED: "the new one signs, the old one is still trusted",
    AuthorityPhase.RETIRED: "the new one signs, peers are told to forget the old one",
}
_OWN: Final = (
    (SERVER_SECRET, "server certificate"),
    (ADMIN_SECRET, "certificate of the store's administrator"),
    (LOCAL_SECRET, "certificate of this cluster's agents"),
    (REMOTE_SECRET, "certificate that peers know this cluster by"),
    (OBSERVER_SECRET, "certificate of the nodes' observers of flows"),
    (RELAY_SECRET, "certificate that observers and peers know the relay by"),
    (RELAY_SERVER_SECRET, "certificate of the relay"),
)


def read_certificates(client: KubeClient, namespace: str) -> tuple[KeptCertificates, ...]:
    """Everything that Secrets of the mesh hold; private keys are not looked at. Raises: KubeError."""
    authority = (
        "run clustermesh certs rotate --ca before it ends; once it has ended, "
        f"delete Secret {namespace}/{CA_SECRET}, run clustermesh enable --new-ca, then clustermesh connect with every peer"
    )
    kept = client.get(k.SECRETS, CA_SECRET, namespace)
    own = _read(kept, CA_SECRET, CA_FILE, "authority of this cluster", authority)
    found = [own if own.certificates else replace(own, remedy=RESTORE)]
    found += [_read_own(client.get(k.SECRETS, name, namespace), name, what, kept) for name, what in _OWN]
    for name in (PEERS_SECRET, MIRROR_SECRET):  # which of them has the authorities depends on who connects to peers
        found += _peer_authorities(client.get(k.SECRETS, name, namespace), name)
    return tuple(found)


def replacement_notice(client: KubeClient, namespace: str) -> str:
    """That the authority is being replaced, in which phase, and what to run; empty while it is not. Raises: KubeError."""
    phase = phase_of((client.get(k.SECRETS, CA_SECRET, namespace) or {}).get("data") or {})
    if phase is AuthorityPhase.SETTLED:
        return ""
    return (
        f"the authority of this cluster is being replaced ({PHASES[phase]}): run clustermesh certs rotate --ca to go on"
    )


def _peer_authorities(secret: Mapping[str, Any] | None, secret_name: str) -> Iterable[KeptCertificates]:
    for entry in sorted((secret or {}).get("data") or {}):
        if entry.endswith(CA_SUFFIX):
            name = entry.removesuffix(CA_SUFFIX)
            remedy = f"renew the authority of {name}, then run clustermesh connect with {name} again"
            yield _read(secret, secret_name, entry, f"authority of peer {name}", remedy)


def _read_own(
    secret: Mapping[str, Any] | None, name: str, what: str, authority: Mapping[str, Any] | None
) -> KeptCertificates:
    """A certificate of this cluster, which its own authority signed or, where somebody else keeps it, the one beside it."""
    found = _read(secret, name, CERT_FILE, what, ROTATE)
    if secret is None or not found.certificates:
        return found
    beside = [entry for holder in (secret, authority) if (entry := _authorities(holder))]
    if not beside:
        return found
    leaf = decode_entry(secret.get("data"), CERT_FILE, f"Secret {name}")
    return replace(found, is_trusted=any(issued_by(leaf, pem) for pem in beside))


def _authorities(secret: Mapping[str, Any] | None) -> bytes:
    """The text with the authorities in a Secret; empty where none can be read."""
    try:
        pem = decode_entry((secret or {}).get("data"), CA_FILE, "")
        parse(pem)
    except CertificateError:
        return b""
    return pem


def _read(secret: Mapping[str, Any] | None, name: str, entry: str, what: str, remedy: str) -> KeptCertificates:
    if secret is None:
        return KeptCertificates(what, (), remedy, f"Secret {name} is missing")
    try:
        return KeptCertificates(
            what, tuple(parse(decode_entry(secret.get("data"), entry, f"Secret {name}"), entry)), remedy
        )
    except CertificateError as exc:
        return KeptCertificates(what, (), remedy, str(exc))
