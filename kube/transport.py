# SPDX-License-Identifier: Apache-2.0
"""One pooled HTTP connection set to an API server; foreign exceptions end here."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeAlias
from urllib.parse import urlencode

import orjson
import urllib3
import urllib3.exceptions

from kube.blocking import Blocking, SystemBlocking
from kube.credentials import Credentials
from kube.errors import KubeError, Silent, Unreachable, error_for
from kube.kept_connection import Exchange, exchanging, keep_account

CONNECT_TIMEOUT_S = 5.0
MAX_STATUS_BYTES = 1 << 20
PART_BYTES = 1 << 18
SLOWEST_BYTES_PER_S = 1 << 16
"""An answer that takes longer than the limit goes on as long as it comes at this rate."""
MERGE_PATCH = "application/merge-patch+json"
UNAUTHORIZED, CONFLICT = 401, 409

Query: TypeAlias = Mapping[str, str | int | float | bool]


class Transport:
    """Requests to one API server with its credentials; safe to use from several threads."""

    def __init__(
        self,
        server: str,
        pool: urllib3.PoolManager,
        credentials: Credentials,
        *,
        agent: str,
        blocking: Blocking | None = None,
    ) -> None:
        self.server, self.blocking = server.rstrip("/"), blocking or SystemBlocking()
        self._pool, self._credentials, self._agent = pool, credentials, agent
        keep_account(pool)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """One exchange: HTTP status and whole body, whatever the status is. `headers` go beside our own.

        What may be done twice is sent once more where a kept connection ended before an answer began; a GET also where the
        answer broke off. Raises: Unreachable if no complete answer came, or if the repeated write met a conflict.
        """
        exchange = Exchange(method)
        try:
            reply, data = self._send(
                exchange, path, query, timeout_s, body=body, content_type=content_type, extra=headers
            )
        except Unreachable as lost:
            if not _is_sent_again(exchange, content_type, lost.__cause__):
                raise
            again = Exchange(method, needs_new=True)
            reply, data = self._send(again, path, query, timeout_s, body=body, content_type=content_type, extra=headers)
            if reply.status == CONFLICT and method != "GET":
                raise  # the first one may have been carried out, and be what this one is in conflict with
        return reply.status, data

    def answer_headers(self, path: str, *, timeout_s: float) -> dict[str, str]:
        """What stands above the answer to a GET, by names in lower case, whatever its status is. Raises: Unreachable."""
        reply, _ = self._send(Exchange("GET"), path, None, timeout_s)
        return {name.lower(): value for name, value in reply.headers.items()}

    def stream(
        self, path: str, *, query: Query, read_timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> LineStream:
        """An answer that is read as it comes.

        Raises: Unreachable if no answer came; KubeError if the server refused.
        """
        reply, _ = self._send(Exchange("GET"), path, query, read_timeout_s, stream=True, extra=headers)
        if reply.status != 200:
            try:
                data = reply.read(MAX_STATUS_BYTES)
            except urllib3.exceptions.HTTPError as exc:
                raise Unreachable(f"GET {path}", detail=repr(exc)) from exc
            finally:
                reply.close()
            raise refusal(f"GET {path}", reply.status, data)
        return LineStream(path, reply)

    def open(self, path: str, *, read_timeout_s: float, headers: Mapping[str, str] | None = None) -> OpenAnswer:
        """An answer to GET with whatever status it has, read as it comes. Raises: Unreachable if none came."""
        reply, _ = self._send(Exchange("GET"), path, None, read_timeout_s, stream=True, extra=headers)
        found = {name.lower(): value for name, value in reply.headers.items()}
        return OpenAnswer(reply.status, found, LineStream(path, reply))

    def close(self) -> None:
        self._pool.clear()

    def _send(
        self,
        exchange: Exchange,
        path: str,
        query: Query | None,
        timeout_s: float,
        *,
        body: bytes | None = None,
        content_type: str = "",
        stream: bool = False,
        extra: Mapping[str, str] | None = None,
    ) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        """The answer and its whole body; of a `stream` nothing is read yet.

        Where the API server refuses our credentials they are renewed, and the request is sent once more. With `extra` it may
        be a program behind the API server that refuses: then whoever sent them decides.
        """
        headers = {**(extra or {}), "Accept": "application/json", "User-Agent": self._agent}
        if body is not None:
            headers["Content-Type"] = content_type
        url = f"{self.server}{path}"
        if query:
            url += ("&" if "?" in path else "?") + urlencode({name: _text(value) for name, value in query.items()})
        send = partial(self._exchange, exchange, url, body, timeout_s, is_stream=stream)
        authorization = self._credentials.authorization()
        reply, data = send(_with(headers, authorization))
        if reply.status == UNAUTHORIZED and not extra and self._credentials.renew(authorization):
            reply.close()  # nothing was carried out for a stranger, so any request may be sent again
            reply, data = send(_with(headers, self._credentials.authorization()))
        return reply, data

    def _exchange(
        self,
        exchange: Exchange,
        url: str,
        body: bytes | None,
        timeout_s: float,
        headers: Mapping[str, str],
        *,
        is_stream: bool,
    ) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        limits = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s)
        try:
            with exchanging(exchange):
                deadline_s = self.blocking.monotonic() + timeout_s
                reply = self._pool.request(
                    exchange.method,
                    url,
                    body=body,
                    headers=headers,
                    timeout=limits,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
                return reply, b"" if is_stream else self._read_whole(reply, deadline_s)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            where = url.partition("?")[0]
            raise Unreachable(f"{exchange.method} {where}", detail=_why(exc, timeout_s)) from exc

    def _read_whole(self, reply: urllib3.BaseHTTPResponse, deadline_s: float) -> bytes:
        """The body. Raises: ReadTimeoutError where it comes so slowly that it may as well not come."""
        parts, received = [], 0
        while part := reply.read1(PART_BYTES):
            parts.append(part)
            received += len(part)
            if self.blocking.monotonic() > deadline_s + received / SLOWEST_BYTES_PER_S:
                reply.close()
                raise urllib3.exceptions.ReadTimeoutError(self._pool, None, "too slow")  # type: ignore[arg-type]
        return b"".join(parts)


class LineStream:
    """The body of one long answer: `read` in one thread, `stop` from any."""

    def __init__(self, path: str, reply: urllib3.BaseHTTPResponse) -> None:
        self._path, self._reply = path, reply
        self._lock = threading.Lock()
        self._ended = False

    def read(self, size: int = 1 << 18) -> bytes:
        """What has arrived, at least one byte; empty at the end.

        Raises: Silent if nothing came for the read time-out; Unreachable if the connection broke.
        """
        try:
            return self._reply.read1(size)
        except urllib3.exceptions.ReadTimeoutError as exc:
            raise Silent(f"watch {self._path}", detail=str(exc)) from exc
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            raise Unreachable(f"watch {self._path}", detail=str(exc) or repr(exc)) from exc

    def stop(self) -> None:
        """The reader wakes up and sees the end."""
        with self._lock, suppress(ValueError, RuntimeError, OSError, NotImplementedError):
            if not self._ended:
                self._reply.shutdown()

    def close(self) -> None:
        with self._lock, suppress(OSError, ValueError):
            self._ended = True
            self._reply.close()


class OpenAnswer(NamedTuple):
    """An answer of which the body is still to be read; headers by names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: LineStream


def _is_sent_again(exchange: Exchange, content_type: str, cause: BaseException | None) -> bool:
    """Whether the same request has the same effect twice, and its first sending ended with its connection."""
    if exchange.method == "GET":
        return isinstance(cause, urllib3.exceptions.ProtocolError) or _has_ended(cause)
    is_repeatable = exchange.method in ("PUT", "DELETE") or (exchange.method == "PATCH" and content_type == MERGE_PATCH)
    return is_repeatable and exchange.was_kept and _has_ended(cause)


def _has_ended(cause: BaseException | None) -> bool:
    """The connection was closed or reset before an answer began, as opposed to a time-out or an answer cut short."""
    inner = cause.args[-1] if isinstance(cause, urllib3.exceptions.HTTPError) and cause.args else cause
    return isinstance(inner, ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError)


def refusal(what: str, status: int, body: bytes) -> KubeError:
    """The error for a refused request, with the words of its Status object where there is one."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return error_for(what, status, "", body[:200].decode("utf-8", "replace"))
    return error_for(what, status, str(document.get("reason") or ""), str(document.get("message") or ""))


def _why(exc: Exception, timeout_s: float) -> str:
    """Words for a person: how long was waited, else what the library says."""
    if isinstance(exc, urllib3.exceptions.ReadTimeoutError):
        return f"no answer within {timeout_s:g} s"
    if type(exc) is urllib3.exceptions.ConnectTimeoutError:  # what is derived from it is a refusal, not silence
        return f"no connection within {min(CONNECT_TIMEOUT_S, timeout_s):g} s"
    return str(exc) or repr(exc)


def _with(headers: Mapping[str, str], authorization: str | None) -> Mapping[str, str]:
    return {**headers, "Authorization": authorization} if authorization else headers


def _text(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
