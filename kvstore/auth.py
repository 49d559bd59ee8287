# SPDX-License-Identifier: Apache-2.0
"""etcd's own users and roles, made equal to what is wanted: the second line of defence behind the facade.

A user is a client certificate's common name and has no password. Which roles read what is the caller's decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from kvstore.errors import Rejected
from kvstore.etcd import EtcdStore
from kvstore.methods import unary
from kvstore.proto import auth_pb2
from kvstore.proto import rpc_pb2 as pb
from kvstore.store import prefix_end

ROOT: Final = "root"

Range = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Role:
    """What a role may read: whole prefixes, and single keys."""

    name: str
    prefixes: tuple[bytes, ...] = ()
    keys: tuple[bytes, ...] = ()

    def ranges(self) -> frozenset[Range]:
        """The same as etcd's key ranges."""
        return frozenset([(prefix, prefix_end(prefix)) for prefix in self.prefixes] + [(key, b"") for key in self.keys])


async def ensure_auth(store: EtcdStore, roles: Sequence[Role], users: Mapping[str, str]) -> None:
    """Exactly these roles' ranges can be read, exactly these users (and root) exist with one role each, and
    authentication is on. `store` must speak as a user with role root, or run before authentication is on.

    Raises: KvError, Denied or Rejected; doing it again finishes what was begun.
    """
    admin = _Admin(store)
    wanted = {ROOT: ROOT, **users}
    await admin.create_role(ROOT)
    for role in roles:
        await admin.set_role(role)
    existing = await admin.users()
    for user, role_name in wanted.items():
        await admin.set_user(user, role_name, exists=user in existing)
    for user in existing - set(wanted):
        await admin.delete_user(user)
    await admin.enable()


class _Admin:
    """The Auth calls, each idempotent."""

    def __init__(self, store: EtcdStore) -> None:
        self._call, channel = store.call, store.channel
        self._enable = unary(channel, "Auth/AuthEnable", pb.AuthEnableRequest, pb.AuthResponse)
        self._user_add = unary(channel, "Auth/UserAdd", pb.AuthUserAddRequest, pb.AuthResponse)
        self._user_get = unary(channel, "Auth/UserGet", pb.AuthUserGetRequest, pb.AuthUserGetResponse)
        self._user_list = unary(channel, "Auth/UserList", pb.AuthUserListRequest, pb.AuthUserListResponse)
        self._user_delete = unary(channel, "Auth/UserDelete", pb.AuthUserDeleteRequest, pb.AuthResponse)
        self._user_grant = unary(channel, "Auth/UserGrantRole", pb.AuthUserGrantRoleRequest, pb.AuthResponse)
        self._user_revoke = unary(channel, "Auth/UserRevokeRole", pb.AuthUserRevokeRoleRequest, pb.AuthResponse)
        self._role_add = unary(channel, "Auth/RoleAdd", pb.AuthRoleAddRequest, pb.AuthResponse)
        self._role_get = unary(channel, "Auth/RoleGet", pb.AuthRoleGetRequest, pb.AuthRoleGetResponse)
        self._role_grant = unary(
            channel, "Auth/RoleGrantPermission", pb.AuthRoleGrantPermissionRequest, pb.AuthResponse
        )
        self._role_revoke = unary(
            channel, "Auth/RoleRevokePermission", pb.AuthRoleRevokePermissionRequest, pb.AuthResponse
        )

    async def enable(self) -> None:
        await self._call(self._enable, pb.AuthEnableRequest())

    async def create_role(self, name: str) -> None:
        try:
            await self._call(self._role_add, pb.AuthRoleAddRequest(name=name))
        except Rejected as exc:
            if "already exists" not in str(exc):
                raise

    async def set_role(self, role: Role) -> None:
        await self.create_role(role.name)
        answer = await self._call(self._role_get, pb.AuthRoleGetRequest(role=role.name))
        existing = {(perm.key, perm.range_end) for perm in answer.perm if perm.permType == auth_pb2.Permission.READ}
        excess = {(perm.key, perm.range_end) for perm in answer.perm} - role.ranges()
        for key, end in sorted(role.ranges() - existing):
            perm = auth_pb2.Permission(permType=auth_pb2.Permission.READ, key=key, range_end=end)
            await self._call(self._role_grant, pb.AuthRoleGrantPermissionRequest(name=role.name, perm=perm))
        for key, end in sorted(excess):
            request = pb.AuthRoleRevokePermissionRequest(role=role.name, key=key, range_end=end)
            await self._call(self._role_revoke, request)

    async def users(self) -> set[str]:
        return set((await self._call(self._user_list, pb.AuthUserListRequest())).users)

    async def set_user(self, user: str, role: str, *, exists: bool) -> None:
        roles: Iterable[str] = ()
        if exists:
            roles = (await self._call(self._user_get, pb.AuthUserGetRequest(name=user))).roles
        else:
            options = auth_pb2.UserAddOptions(no_password=True)
            await self._call(self._user_add, pb.AuthUserAddRequest(name=user, options=options))
        if role not in roles:
            await self._call(self._user_grant, pb.AuthUserGrantRoleRequest(user=user, role=role))
        for other in set(roles) - {role}:
            await self._call(self._user_revoke, pb.AuthUserRevokeRoleRequest(name=user, role=other))

    async def delete_user(self, user: str) -> None:
        await self._call(self._user_delete, pb.AuthUserDeleteRequest(name=user))
