# SPDX-License-Identifier: Apache-2.0
"""The HTTP face of a cluster: an ASGI application, and a server that runs it on the sockets it is given."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import platform
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from lab.devkube.api import discovery, openapi
from lab.devkube.api.accounts import Account, Authenticator
from lab.devkube.api.authorizer import Authorizer, asked_of_request
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.connection import connection_class, subject_of_scope
from lab.devkube.api.error import ApiError, bad_request, no_such_path
from lab.devkube.api.exec import ExecCall, parse_exec
from lab.devkube.api.exec_websocket import SUBPROTOCOLS, refuse_websocket, serve_websocket
from lab.devkube.api.http import (
    Receive,
    Request,
    Response,
    Scope,
    Send,
    Stream,
    error_response,
    headers_of,
    json_response,
    query_of,
    read_body,
    send_response,
    send_stream,
)  # fmt: skip
from lab.devkube.api.objects import Obj, timestamp
from lab.devkube.api.resource import REVIEWS
from lab.devkube.api.reviews import review
from lab.devkube.api.routes import RequestTarget, discovery_target, find_target
from lab.devkube.api.runtime import Runtime
from lab.devkube.api.subresources import Subresources
from lab.devkube.api.verbs import Verbs, method_not_allowed
from lab.devkube.api.watch import BOOKMARK_S, Stop

log = logging.getLogger(__name__)

MAJOR, MINOR = 1, 32
VERSION = f"v{MAJOR}.{MINOR}.0-dev"
_HEALTH = frozenset({"/healthz", "/livez", "/readyz"})
_KEEP_ALIVE_S = 120
_SHUTDOWN_S = 2


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate and key, and the authority whose client certificates are believed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Who may connect, by static bearer token, and how often idle watches hear from the server."""

    tokens: Mapping[str, Account] = field(default_factory=dict)
    bookmark_s: float = BOOKMARK_S


class ApiServer:
    """Serves one cluster. Callers are authenticated; service accounts with roles are held to them (`Authorizer`)."""

    def __init__(self, cluster: Cluster, runtime: Runtime, options: ServerOptions | None = None) -> None:
        options = options or ServerOptions()
        self.cluster, self.runtime = cluster, runtime
        self.authenticator = Authenticator(options.tokens, cluster.accounts)
        self.authorizer = Authorizer(cluster)
        self._stop = Stop()
        self._verbs = Verbs(cluster, self.authorizer, self._stop, options.bookmark_s)
        self._subresources = Subresources(cluster, runtime)
        self._documents = openapi.Documents(cluster.catalog, cluster.custom)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:
                await _lifespan(receive, send)

    async def serve(
        self,
        sockets: Sequence[socket.socket] | None = None,
        tls: TlsFiles | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 6443,
    ) -> None:
        """Serve until cancelled or stopped. Sockets are taken over; without any, listen on a loopback address.

        Raises: ValueError for a host that is not loopback: a development server is exposed by explicit sockets only.
        """
        if sockets is None and not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"refusing to listen on {host}: hand over a socket to expose a development server")
        for one in sockets or ():
            # asyncio does it for sockets of its own making only; without it small answers wait 40 ms for an ACK
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = _Server(self._config(tls, host, port))
        running = asyncio.create_task(server.serve(list(sockets) if sockets is not None else None), name="api server")
        stopping = asyncio.create_task(self._stop.requested.wait(), name="api server stop")
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stop()
            server.should_exit = True
            stopping.cancel()
            await running

    def stop(self) -> None:
        """All watches end, and with them `serve`."""
        self._stop.request()

    def resolve_exec(self, scope: Scope) -> ExecCall:
        """Raises ApiError if the caller is unknown or the call makes no sense."""
        self._authenticate(scope, headers_of(scope))
        return parse_exec(self.cluster, scope["path"], query_of(scope))

    def _config(self, tls: TlsFiles | None, host: str, port: int) -> uvicorn.Config:
        return uvicorn.Config(
            self, host=host, port=port, log_config=None, access_log=False, proxy_headers=False,
            http=connection_class(self), ws="wsproto",
            lifespan="off", timeout_keep_alive=_KEEP_ALIVE_S, timeout_graceful_shutdown=_SHUTDOWN_S,
            ws_per_message_deflate=False,
            ssl_certfile=tls.certificate if tls else None, ssl_keyfile=tls.key if tls else None,
            ssl_ca_certs=str(tls.client_ca) if tls and tls.client_ca else None,
            ssl_cert_reqs=ssl.CERT_OPTIONAL if tls and tls.client_ca else ssl.CERT_NONE,
        )  # fmt: skip

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except ApiError as exc:
            answer = error_response(exc)
        if isinstance(answer, Stream):
            await send_stream(receive, send, answer)
        else:
            await send_response(send, answer)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | Stream:
        path, headers = scope["path"], headers_of(scope)
        if path in _HEALTH:
            return Response(200, b"ok", "text/plain")
        if path == "/version":
            return json_response(200, _version(self.cluster.wall()))
        user = self._authenticate(scope, headers)
        raw_query = scope.get("query_string", b"").decode("latin-1")
        body = await read_body(receive)
        request = Request(scope["method"], path, query_of(scope), headers, body, raw_query, user)
        if (document := self._discover(request)) is not None:
            return document
        target = find_target(self.cluster.catalog, path)
        self._authorize(target, request)
        if target.resource in REVIEWS:
            if request.method != "POST":
                raise method_not_allowed()
            return json_response(201, self._review(target.resource.kind, request))
        if target.subresource in ("", "status"):
            return self._verbs.handle(target, request)
        return await self._subresources.handle(target, request)

    def _review(self, kind: str, request: Request) -> Obj:
        return review(kind, request.object(), request.user, self.authenticator, self.authorizer)

    def _authorize(self, target: RequestTarget, request: Request) -> None:
        asked = asked_of_request(target, request)
        is_about_oneself = target.resource.kind.startswith("Self")
        if not is_about_oneself and not self.authorizer.allows(request.user, asked):
            raise ApiError(403, "Forbidden", f'User "{request.user.name}" cannot {asked}')

    def _authenticate(self, scope: Scope, headers: Mapping[str, str]) -> Account:
        user = self.authenticator.identify(headers.get("authorization", ""), subject_of_scope(scope))
        if user is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return user

    def _discover(self, request: Request) -> Response | None:
        catalog, path = self.cluster.catalog, request.path.rstrip("/") or "/"
        if path in ("/api", "/apis"):
            if "as=APIGroupDiscoveryList" in request.accept and "v=v2;" in request.accept + ";":
                made = json_response(200, discovery.aggregated(catalog, core=path == "/api"))
                made.content_type = discovery.AGGREGATED_TYPE
                return made
            listed = discovery.api_versions() if path == "/api" else discovery.group_list(catalog)
            return json_response(200, listed)
        if path.startswith("/openapi/"):
            return self._openapi(path)
        if (group_version := discovery_target(path)) is not None:
            return _found(discovery.resource_list(catalog, *group_version))
        if path.startswith("/apis/") and path.count("/") == 2:
            return _found(discovery.group(catalog, path.removeprefix("/apis/")))
        return None

    def _openapi(self, path: str) -> Response:
        if path == "/openapi/v2":
            return Response(200, b"", openapi.EMPTY_V2_TYPE)
        if path == "/openapi/v3":
            return json_response(200, openapi.index(self.cluster.catalog))
        wanted = discovery_target(path.removeprefix("/openapi/v3"))
        answer = _found(self._documents.document(*wanted) if wanted else None)
        answer.headers.append(("cache-control", "public, max-age=31536000, immutable"))
        return answer

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        subprotocol = next((name for name in SUBPROTOCOLS if name in scope.get("subprotocols", ())), None)
        try:
            call = self.resolve_exec(scope)
            if subprotocol is None:
                raise bad_request(f"the subprotocol must be one of {', '.join(SUBPROTOCOLS)}")
        except ApiError as exc:
            await refuse_websocket(send, error_response(exc))
            return
        await serve_websocket(self.runtime, call, subprotocol, receive, send)


class _Server(uvicorn.Server):
    """A server inside a larger program, which keeps its own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _found(document: Obj | None) -> Response:
    if document is None:
        raise no_such_path()
    return json_response(200, document)


def _version(wall_s: float) -> Obj:
    return {
        "major": str(MAJOR), "minor": str(MINOR), "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "",
        "buildDate": timestamp(wall_s), "goVersion": "", "compiler": platform.python_implementation(),
        "platform": f"linux/{platform.machine()}",
    }  # fmt: skip


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
