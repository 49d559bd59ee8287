# SPDX-License-Identifier: Apache-2.0
"""Who may read what through the facade. Pure: the signing authority, the common name and users.yaml decide.

Our own authority speaks for our own users, `admin-<own>` and `local-<own>`. A peer's authority speaks for that peer
only, as `remote-<peer>` or under the shared name `remote`, and only while users.yaml lists that name. Nobody else reads
anything. Clusters that share one authority are told apart by the common name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from certs.bundle import TrustBundle
from certs.errors import CertificateError
from certs.inspect import parse
from certs.profile import admin_user, local_user, remote_user
from clustermesh_apiserver.users import User
from kvstore.facade.grant import Grant
from meshmodel.private_keys import PRIVATE

SHARED_REMOTE_USER: Final = "remote"
HEARTBEAT_PREFIX: Final = b"cilium/.heartbeat"


class Access:
    """The decision for one state of trust and users; a new state is a new Access."""

    def __init__(self, cluster: str, trust: TrustBundle, users: Iterable[User]) -> None:
        self._cluster, self._trust = cluster, trust
        self._remote_users = frozenset(user.name for user in users if user.role == "remote")

    def grant(self, cert_pem: bytes) -> Grant | None:
        """What the bearer of this certificate may read, None if nothing."""
        try:
            name = parse(cert_pem)[0].subject_cn
        except CertificateError:
            return None
        signers = self._trust.signers(cert_pem)
        if self._cluster in signers:
            if name == admin_user(self._cluster):
                return Grant(name, prefixes=(b"cilium/", PRIVATE), keys=())
            if name == local_user(self._cluster):
                return self._local(name)
        if name not in self._remote_users:
            return None
        peers = [signer for signer in signers if signer != self._cluster]
        if any(name in (remote_user(peer), SHARED_REMOTE_USER) for peer in peers):
            return self._remote(name)
        return None

    def _remote(self, name: str) -> Grant:
        own = self._cluster.encode()
        prefixes = (HEARTBEAT_PREFIX, b"cilium/state/", b"cilium/synced/" + own + b"/")
        return Grant(name, prefixes=prefixes, keys=(b"cilium/cluster-config/" + own,))

    def _local(self, name: str) -> Grant:
        """Our own agents: mirrored peers, our own records as a peer would read them, and those that no peer may read."""
        read = (b"cilium/cache/", b"cilium/cluster-config/", b"cilium/synced/", b"cilium/state/", PRIVATE)
        return Grant(name, prefixes=(HEARTBEAT_PREFIX, *read), keys=())
