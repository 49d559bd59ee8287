# SPDX-License-Identifier: Apache-2.0
"""etcd's own users and roles, equal to who may read the facade: the second line of defence behind it."""

from __future__ import annotations

from collections.abc import Iterable

from certs import profile
from clustermesh_apiserver.publish.own_store import OwnStore
from clustermesh_apiserver.serve.access import mesh_roles
from clustermesh_apiserver.serve.users import User
from kvstore.auth import ROOT, ensure_auth
from meshmodel.names import ClusterName
from meshmodel.readers import LOCAL, REMOTE


async def set_users(store: OwnStore, cluster: ClusterName, users: Iterable[User]) -> None:
    """etcd itself knows exactly these users with their roles: the second line of defence behind the facade."""
    wanted = {profile.admin_user(cluster): ROOT, profile.local_user(cluster): LOCAL, profile.SHARED_REMOTE_USER: REMOTE}
    wanted |= {user.name: user.role for user in users}
    await ensure_auth(store.client, mesh_roles(cluster), wanted)
