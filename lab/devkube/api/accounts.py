# SPDX-License-Identifier: Apache-2.0
"""Who a request comes from: bearer tokens, service-account tokens and client certificates."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lab.devkube.api.objects import Obj

ALL_AUTHENTICATED = "system:authenticated"
API_AUDIENCE = "https://kubernetes.default.svc"


@dataclass(frozen=True, slots=True)
class Account:
    """An authenticated caller, named as Kubernetes names it."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""

    def info(self) -> Obj:
        """The userInfo part of review objects."""
        groups = [*self.groups, *(() if ALL_AUTHENTICATED in self.groups else (ALL_AUTHENTICATED,))]
        return {"username": self.name, "groups": groups} | ({"uid": self.uid} if self.uid else {})


ADMIN = Account("kubernetes-admin", ("system:masters",))


def service_account_user(namespace: str, name: str, uid: str = "") -> Account:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    return Account(f"system:serviceaccount:{namespace}:{name}", groups, uid)


class ServiceAccountTokens:
    """Opaque tokens per service account and audiences. They hold until the account is removed; there is no expiry.

    `exists` tells whether an account with this namespace, name and uid is still there. No audience means the API server's.
    """

    def __init__(self, exists: Callable[[str, str, str], bool]) -> None:
        self._exists = exists
        self._by_token: dict[str, tuple[tuple[str, str, str], tuple[str, ...]]] = {}
        self._by_holder: dict[tuple[tuple[str, str, str], tuple[str, ...]], str] = {}

    def token(self, namespace: str, name: str, uid: str, audiences: Iterable[str] = ()) -> str:
        """The account's token for these audiences; the same one each time."""
        holder = ((namespace, name, uid), tuple(sorted(set(audiences) - {API_AUDIENCE})))
        if holder not in self._by_holder:
            token = f"dev-{secrets.token_urlsafe(32)}"
            self._by_holder[holder] = token
            self._by_token[token] = holder
        return self._by_holder[holder]

    def user(self, token: str, audience: str = API_AUDIENCE) -> Account | None:
        """Who holds this token, if anybody still does and the token is for this audience."""
        account, audiences = self._by_token.get(token, (None, ()))
        if account is None or not self._exists(*account):
            return None
        return service_account_user(*account) if audience in (audiences or (API_AUDIENCE,)) else None


class Authenticator:
    """Answers who a request comes from; None means nobody known."""

    def __init__(self, tokens: Mapping[str, Account], accounts: ServiceAccountTokens) -> None:
        self._tokens = dict(tokens)
        self._accounts = accounts

    def by_token(self, token: str, audience: str = API_AUDIENCE) -> Account | None:
        """Who holds the token, if it is for this audience; static tokens are for the API server only."""
        for known, user in self._tokens.items():
            if secrets.compare_digest(known.encode(), token.encode()):
                return user if audience == API_AUDIENCE else None
        return self._accounts.user(token, audience)

    def by_subject(self, subject: Mapping[str, tuple[str, ...]]) -> Account | None:
        """By the subject of a verified client certificate: common name is the user, organizations are its groups."""
        names = subject.get("commonName", ())
        return Account(names[0], subject.get("organizationName", ())) if names else None

    def identify(self, authorization: str, subject: Mapping[str, tuple[str, ...]] | None) -> Account | None:
        """A certificate goes before a token, as in a production server."""
        if subject and (user := self.by_subject(subject)):
            return user
        scheme, _, token = authorization.partition(" ")
        return self.by_token(token.strip()) if scheme.lower() == "bearer" and token.strip() else None
