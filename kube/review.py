# SPDX-License-Identifier: Apache-2.0
"""Who holds a token and what they may read, asked of the API server and remembered for a short while."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from http import HTTPStatus
from typing import Any, Final

import msgspec

from kube.client import KubeClient, in_thread
from kube.errors import KubeError
from kube.resource import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS
from meshkit.clock import Clock
from meshkit.decoding import convert_as
from meshkit.errors import MAXIMUM_TEXT
from meshkit.guard import NotAdmitted

log = logging.getLogger(__name__)

ADMITTED_S: Final = 60.0
REFUSED_S: Final = 10.0
MAX_REMEMBERED: Final = 1024
MAX_TOKEN_BYTES: Final = 16_384
AT_ONCE: Final = 4
MAX_WAITING: Final = 32


class _Holder(msgspec.Struct):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _TokenStatus(msgspec.Struct):
    authenticated: bool = False
    audiences: list[str] | None = None
    user: _Holder = msgspec.field(default_factory=_Holder)


class AccessReviewer:
    """Admits a token that the API server accepts for our audience and whose holder may `get` the path there.

    An answer is remembered for ADMITTED_S or REFUSED_S seconds; a burst of unknown tokens costs the API server AT_ONCE
    requests at a time, and those beyond MAX_WAITING are refused unasked.
    """

    def __init__(self, client: KubeClient, audience: str, clock: Clock) -> None:
        self._client, self._audience, self._clock = client, audience, clock
        self._known: dict[bytes, tuple[float, NotAdmitted | None]] = {}
        self._room, self._waiting = asyncio.Semaphore(AT_ONCE), 0

    async def admit(self, token: str, path: str) -> NotAdmitted | None:
        """None if the holder of the token may read the path."""
        if len(token) > MAX_TOKEN_BYTES:
            return NotAdmitted(HTTPStatus.UNAUTHORIZED, "this is no token")
        key = hashlib.sha256(f"{path}\0{token}".encode()).digest()
        known = self._known.get(key)
        if known is not None and known[0] > self._clock.monotonic():
            return known[1]
        if self._waiting >= MAX_WAITING:
            return NotAdmitted(HTTPStatus.SERVICE_UNAVAILABLE, "too many tokens are being checked")
        self._waiting += 1
        try:
            async with self._room:
                refused = await in_thread(self._review, token, path)
        except (KubeError, msgspec.ValidationError) as exc:
            log.warning("token not checked", extra={"error": str(exc)[:MAXIMUM_TEXT]})
            return NotAdmitted(HTTPStatus.SERVICE_UNAVAILABLE, "the Kubernetes API cannot be asked about the token now")
        finally:
            self._waiting -= 1
        self._remember(key, refused)
        return refused

    def _remember(self, key: bytes, refused: NotAdmitted | None) -> None:
        self._known.pop(key, None)
        while len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        kept_s = ADMITTED_S if refused is None else REFUSED_S
        self._known[key] = (self._clock.monotonic() + kept_s, refused)

    def _review(self, token: str, path: str) -> NotAdmitted | None:
        spec: dict[str, Any] = {"token": token, "audiences": [self._audience]}
        reviewed = self._client.create(TOKEN_REVIEWS, {"metadata": {}, "spec": spec}).get("status") or {}
        found = convert_as(reviewed, _TokenStatus)
        if not found.authenticated or self._audience not in (found.audiences or ()):
            hint = f"kubectl create token makes one: --audience {self._audience}"
            return NotAdmitted(HTTPStatus.UNAUTHORIZED, f"the token is not valid for audience {self._audience}; {hint}")
        holder = found.user
        wanted = {
            "user": holder.username,
            "groups": holder.groups or [],
            "uid": holder.uid,
            "extra": holder.extra or {},
            "nonResourceAttributes": {"path": path, "verb": "get"},
        }
        answer = self._client.create(SUBJECT_ACCESS_REVIEWS, {"metadata": {}, "spec": wanted}).get("status") or {}
        if answer.get("allowed") is True:
            return None
        return NotAdmitted(HTTPStatus.FORBIDDEN, f"{holder.username} may not get the non-resource URL {path}")
