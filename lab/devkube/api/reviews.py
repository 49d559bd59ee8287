# SPDX-License-Identifier: Apache-2.0
"""Answers to "who am I" and "may I": the first is true, the second always yes, since authorization is not enforced."""

from __future__ import annotations

from lab.devkube.api.accounts import Authenticator, User
from lab.devkube.api.objects import Obj, part

_REASON = "authorization is not enforced by this development server"
_EVERYTHING = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
_EVERY_URL = {"verbs": ["*"], "nonResourceURLs": ["*"]}


def review(kind: str, obj: Obj, user: User, authenticator: Authenticator) -> Obj:
    """The review object with its status; `obj` is what was asked."""
    match kind:
        case "TokenReview":
            status = _token_status(str(part(obj, "spec").get("token", "")), authenticator)
        case "SelfSubjectReview":
            status = {"userInfo": user.info()}
        case "SelfSubjectRulesReview":
            status = {"resourceRules": [_EVERYTHING], "nonResourceRules": [_EVERY_URL], "incomplete": False}
        case _:
            status = {"allowed": True, "reason": _REASON}
    return {**obj, "status": status}


def _token_status(token: str, authenticator: Authenticator) -> Obj:
    user = authenticator.by_token(token)
    if user is None:
        return {"authenticated": False, "user": {}, "error": "invalid bearer token"}
    return {"authenticated": True, "user": user.info()}
