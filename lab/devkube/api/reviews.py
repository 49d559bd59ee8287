# SPDX-License-Identifier: Apache-2.0
"""Answers to "who am I" and "may I"."""

from __future__ import annotations

from collections.abc import Iterable

from lab.devkube.api.accounts import API_AUDIENCE, Account, Authenticator
from lab.devkube.api.authorizer import Authorizer, asked_of_review
from lab.devkube.api.objects import Obj, part

_REASON = "only service accounts with roles are held to them by this development server"
_EVERYTHING = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
_EVERY_URL = {"verbs": ["*"], "nonResourceURLs": ["*"]}


def review(kind: str, obj: Obj, user: Account, authenticator: Authenticator, authorizer: Authorizer) -> Obj:
    """The review object with its status; `obj` is what was asked."""
    match kind:
        case "TokenReview":
            spec = part(obj, "spec")
            status = _token_status(str(spec.get("token", "")), spec.get("audiences") or (API_AUDIENCE,), authenticator)
        case "SelfSubjectReview":
            status = {"userInfo": user.info()}
        case "SelfSubjectRulesReview":
            status = {"resourceRules": [_EVERYTHING], "nonResourceRules": [_EVERY_URL], "incomplete": False}
        case "SubjectAccessReview" | "LocalSubjectAccessReview":
            holder = Account(str(part(obj, "spec").get("user", "")))
            status = {"allowed": authorizer.allows(holder, asked_of_review(obj)), "reason": _REASON}
        case _:
            status = {"allowed": authorizer.allows(user, asked_of_review(obj)), "reason": _REASON}
    return {**obj, "status": status}


def _token_status(token: str, audiences: Iterable[str], authenticator: Authenticator) -> Obj:
    holders = {audience: authenticator.by_token(token, audience) for audience in audiences}
    valid = {audience: user for audience, user in holders.items() if user is not None}
    if not valid:
        return {"authenticated": False, "user": {}, "error": "invalid bearer token"}
    return {"authenticated": True, "user": next(iter(valid.values())).info(), "audiences": list(valid)}
