# SPDX-License-Identifier: Apache-2.0
"""Which users may read through the facade: the list in users.yaml. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import yaml

from certs.profile import admin_user, local_user, remote_user
from kvstore.auth import ROOT
from meshkit.errors import PermanentError
from meshmodel.readers import LOCAL, REMOTE

ROLES: Final = frozenset({REMOTE, LOCAL, ROOT})


class UsersError(PermanentError):
    """users.yaml cannot be used as it is; the users known before stay."""


@dataclass(frozen=True, slots=True)
class User:
    """One user by common name, and the role it has."""

    name: str
    role: str


def parse_users(text: str, own_cluster: str) -> tuple[User, ...]:
    """The listed users, in order of name; entries that would speak for our own cluster are left out.

    Shape:  {users: [{name: remote-green, role: remote}]}
    Raises: UsersError naming the entry that is wrong.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise UsersError(f"users.yaml is not YAML: {str(exc)[:200]}") from exc
    entries = document.get("users") if isinstance(document, dict) else None
    if document is None or (isinstance(document, dict) and entries is None):
        return ()
    if not isinstance(entries, list):
        raise UsersError("users.yaml: expected a list under `users`")
    own = {own_cluster, remote_user(own_cluster), local_user(own_cluster), admin_user(own_cluster)}
    users = {user.name: user for user in map(_user, entries) if user.name not in own}
    return tuple(users[name] for name in sorted(users))


def _user(entry: object) -> User:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise UsersError(f"users.yaml: {str(entry)[:80]} has no name")
    role = entry.get("role", REMOTE)
    if role not in ROLES:
        raise UsersError(f"users.yaml: {entry['name']} has role {str(role)[:40]!r}, expected one of {sorted(ROLES)}")
    return User(entry["name"], role)
