# SPDX-License-Identifier: Apache-2.0
"""What a program answers over the network without credentials, and that it answers nothing else without."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from meshkit.clock import Clock, SystemClock
from meshkit.rest import refuse
from meshkit.supervise import first_error

log = logging.getLogger(__name__)

REJUDGED_S: Final = 60.0
UNSURE_S: Final = 600.0
"""An answer that goes on is given so long to somebody about whom nobody can be asked any more."""
OPEN_PATHS: Final = frozenset(("/healthz", "/readyz", "/metrics"))
READING: Final = frozenset(("GET", "HEAD"))

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class NotAdmitted(NamedTuple):
    """Why a request is not answered: the HTTP status, and what to do about it."""

    status_code: int
    message: str


ONLY_READS: Final = NotAdmitted(HTTPStatus.FORBIDDEN, "over the network this program is only read: use its unix socket")

Admit = Callable[[str, str], Awaitable[NotAdmitted | None]]
"""Whether the holder of a token may read a path; None means yes."""


async def admit_nobody(_token: str, _path: str) -> NotAdmitted | None:
    """For a program that has nobody to ask who a token belongs to."""
    return NotAdmitted(HTTPStatus.FORBIDDEN, "this program asks no Kubernetes API: use its unix socket")


class NoLongerAdmittedError(Exception):
    """Who was admitted when the answer began is not any more; the text says why."""


class Guard:
    """An application in front of another: open paths pass, every other request needs a token that `admit` accepts.

    What is no reading request is refused, whatever its token: who changes something does so through the unix socket.
    The token is taken from one of `headers`, else from `Authorization: Bearer`. An answer that goes on ends with the token, or
    with what its holder may read: it is judged again before what is told REJUDGED_S after the last time.
    """

    def __init__(self, app: App, admit: Admit, *, headers: Iterable[str] = (), clock: Clock | None = None) -> None:
        self._app, self._admit, self._clock = app, admit, clock or SystemClock()
        self._headers = tuple(header.lower().encode() for header in headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and _is_open(scope)):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refused = await self._judge(scope)
        if refused is not None:
            await refuse(refused.status_code, refused.message)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, self._while_admitted(scope, send))
        except* NoLongerAdmittedError as errors:
            facts = {"path": scope["path"], "reason": str(first_error(errors))}
            log.info("answer ended, its reader is not admitted any more", extra=facts)

    def _while_admitted(self, scope: Scope, send: Send) -> Send:
        """Sends as `send` does. Raises: NoLongerAdmittedError."""
        admitted_s = judged_s = self._clock.monotonic()

        async def send_admitted(message: MutableMapping[str, Any]) -> None:
            nonlocal admitted_s, judged_s
            now_s = self._clock.monotonic()
            if now_s - judged_s >= REJUDGED_S:
                refused, judged_s = await self._judge(scope), now_s
                if refused is None:
                    admitted_s = now_s
                elif refused.status_code != HTTPStatus.SERVICE_UNAVAILABLE or now_s - admitted_s >= UNSURE_S:
                    raise NoLongerAdmittedError(refused.message)
            await send(message)

        return send_admitted

    async def _judge(self, scope: Scope) -> NotAdmitted | None:
        token = self._token(dict(scope["headers"]))
        if not token:
            return NotAdmitted(HTTPStatus.UNAUTHORIZED, "credentials are needed: a token of this program's audience")
        if scope["method"] not in READING:
            return ONLY_READS
        return await self._admit(token, scope["path"])

    def _token(self, headers: dict[bytes, bytes]) -> str:
        for name in self._headers:
            if name in headers:
                return headers[name].decode("latin-1").strip()
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


def _is_open(scope: Scope) -> bool:
    return scope["path"] in OPEN_PATHS and scope["method"] in READING
