# SPDX-License-Identifier: Apache-2.0
"""Who may read what through the facade. Pure: the signing authority, the common name and users.yaml decide.

`meshmodel.readers` says which keys each kind of reader may read. Certificates that our own authority signed are accepted
for our own users, `admin-<own>` and `local-<own>`. Certificates that a peer's authority signed are accepted for that
peer only, as `remote-<peer>` or under the shared name `remote`, and only while users.yaml lists that name. No other
certificate reads anything. Clusters that share one authority are told apart by the common name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from certs.bundle import TrustBundle
from certs.errors import CertificateError
from certs.inspect import parse
from certs.profile import SHARED_REMOTE_USER, admin_user, local_user, remote_user
from clustermesh_apiserver.serve.users import User
from kvstore.auth import Role
from kvstore.facade.grant import Grant
from meshmodel.readers import ADMIN_READS, LOCAL, REMOTE, Readable, agent_reads, peer_reads


class Access:
    """The decision for one state of trust and users; a new state is a new Access."""

    def __init__(self, cluster: str, trust: TrustBundle, users: Iterable[User]) -> None:
        self._cluster, self._trust = cluster, trust
        self._remote_users = frozenset(user.name for user in users if user.role == REMOTE)

    def grant(self, cert_pem: bytes) -> Grant | None:
        """What the bearer of this certificate may read, None if nothing."""
        try:
            name = parse(cert_pem)[0].subject_cn
        except CertificateError:
            return None
        signers = self._trust.signers(cert_pem)
        if self._cluster in signers:
            if name == admin_user(self._cluster):
                return _grant(name, ADMIN_READS)
            if name == local_user(self._cluster):
                return replace(_grant(name, agent_reads()), is_per_address=True)
        if name not in self._remote_users:
            return None
        peers = [signer for signer in signers if signer != self._cluster]
        if any(name in (remote_user(peer), SHARED_REMOTE_USER) for peer in peers):
            return _grant(name, peer_reads(self._cluster))
        return None

    def admits(self, name: str) -> bool:
        """Whether a certificate with this name may read something, if the right one of the trusted authorities signed it."""
        if name in (admin_user(self._cluster), local_user(self._cluster)):
            return self._cluster in self._trust.names()
        peers = [peer for peer in self._trust.names() if peer != self._cluster]
        return name in self._remote_users and any(name in (remote_user(peer), SHARED_REMOTE_USER) for peer in peers)


def mesh_roles(cluster: str) -> tuple[Role, Role]:
    """etcd's roles `remote` (peers) and `local` (the cluster's own agents) of the named cluster."""
    return _role(REMOTE, peer_reads(cluster)), _role(LOCAL, agent_reads())


def _grant(name: str, readable: Readable) -> Grant:
    return Grant(name, readable.prefixes, readable.keys)


def _role(name: str, readable: Readable) -> Role:
    return Role(name, readable.prefixes, readable.keys)
