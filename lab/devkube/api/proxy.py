# SPDX-License-Identifier: Apache-2.0
"""services/<name>:<port>/proxy/... and pods/<name>:<port>/proxy/...: HTTP passed through from the control-plane node."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import quote

import h11

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.error import ApiError, bad_request
from lab.devkube.api.http import Request, Stream
from lab.devkube.api.objects import Obj, items_of, name_of, namespace_of, part
from lab.devkube.api.routes import RequestTarget
from lab.devkube.api.runtime import Runtime
from lab.devkube.api.selectors import parse_selector

_ANSWER_S = 30.0
_CHUNK_BYTES = 65536
_NOT_PASSED_ON = frozenset({
    "host", "connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "content-length",
    "authorization", "accept-encoding",
})  # fmt: skip
_NOT_PASSED_BACK = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "date", "server", "content-type"}
)


@dataclass(frozen=True, slots=True)
class ProxyBackend:
    """Where a proxied request goes."""

    host: str
    port: int
    tls: bool = False


class Proxy:
    """Finds the backend that a path names and passes the request on."""

    def __init__(self, cluster: Cluster, runtime: Runtime) -> None:
        self._cluster, self._runtime = cluster, runtime

    async def handle(self, target: RequestTarget, request: Request) -> Stream:
        """Raises ApiError 503 if nobody answers."""
        scheme, name, port = parse_proxy_name(target.name)
        obj = self._cluster.find(target.resource, target.namespace or "", name)
        host, number = self._pod(obj, port) if target.resource.kind == "Pod" else self._service(obj, port)
        path = "/" + quote(target.rest, safe="/:@!$&'()*+,;=~%")
        return await forward(self._runtime, ProxyBackend(host, number, scheme == "https"), request, path)

    def _pod(self, pod: Obj, port: str) -> tuple[str, int]:
        address = part(pod, "status").get("podIP")
        if not address:
            raise bad_request(f"address not allowed: pod {name_of(pod)} has no address")
        ports = [p for c in items_of(pod["spec"], "containers") for p in items_of(c, "ports")]
        if not port:
            return str(address), int(ports[0]["containerPort"]) if ports else 80
        named = [p["containerPort"] for p in ports if p.get("name") == port]
        if not named and not port.isdecimal():
            raise bad_request(f"cannot find port {port!r} in pod {name_of(pod)}")
        return str(address), int(named[0] if named else port)

    def _service(self, service: Obj, port: str) -> tuple[str, int]:
        ports = items_of(service["spec"], "ports")
        chosen = [p for p in ports if port in (p.get("name"), str(p.get("port")))] if port else ports[:1]
        if not chosen:
            raise _unavailable(f'no service port "{port}" found for service "{name_of(service)}"')
        slices = self._cluster.select(
            self._cluster.catalog.by_plural("endpointslices", "discovery.k8s.io"), namespace_of(service),
            parse_selector(f"kubernetes.io/service-name={name_of(service)}"),
        )  # fmt: skip
        backends = [b for one in slices for b in _ready_backends(one, str(chosen[0].get("name") or ""))]
        if not backends:
            raise _unavailable(f'no endpoints available for service "{name_of(service)}"')
        return self._cluster.rng.choice(backends)


def parse_proxy_name(text: str) -> tuple[str, str, str]:
    """Scheme, name and port of `[scheme:]name[:port]`; empty where left out. Raises ApiError 400."""
    match text.split(":"):
        case [name]:
            return "", name, ""
        case [name, port]:
            return "", name, port
        case [("" | "http" | "https") as scheme, name, port]:
            return scheme, name, port
        case _:
            raise bad_request(f"invalid proxy request {text!r}")


async def forward(runtime: Runtime, backend: ProxyBackend, request: Request, path: str) -> Stream:
    """The backend's answer as it arrives. Raises ApiError 503 if there is none."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await runtime.open_connection(backend.host, backend.port)
            if backend.tls:
                await writer.start_tls(_unverified_tls())
            connection = h11.Connection(h11.CLIENT)
            await _send_request(connection, writer, backend, request, path)
            answer = await _receive_head(connection, reader)
    except (OSError, TimeoutError, h11.ProtocolError) as exc:
        if writer is not None:
            writer.close()
        where = f"{backend.host}:{backend.port}"
        raise _unavailable(f"error trying to reach service: dial tcp {where}: {exc or type(exc).__name__}") from exc
    headers = [(name.decode(), value.decode("latin-1")) for name, value in answer.headers]
    kind = next((value for name, value in headers if name == "content-type"), "application/octet-stream")
    kept = [(name, value) for name, value in headers if name not in _NOT_PASSED_BACK]
    return Stream(_body(connection, reader, writer), kind, answer.status_code, kept)


async def _send_request(
    connection: h11.Connection, writer: asyncio.StreamWriter, backend: ProxyBackend, request: Request, path: str
) -> None:
    target = f"{path}?{request.raw_query}" if request.raw_query else path
    headers = [("host", f"{backend.host}:{backend.port}"), ("connection", "close")]
    headers += [(name, value) for name, value in request.headers.items() if name not in _NOT_PASSED_ON]
    if request.body:
        headers.append(("content-length", str(len(request.body))))
    events: list[h11.Event] = [h11.Request(method=request.method, target=target, headers=headers)]
    if request.body:
        events.append(h11.Data(data=request.body))
    for event in (*events, h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()


async def _receive_head(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Response:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK_BYTES))
        elif isinstance(event, h11.Response):
            return event
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("the backend closed the connection without an answer")


async def _body(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_CHUNK_BYTES))
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _ready_backends(endpoint_slice: Obj, port_name: str) -> list[tuple[str, int]]:
    ports = [
        p["port"] for p in items_of(endpoint_slice, "ports") if (p.get("name") or "") == port_name and p.get("port")
    ]
    return [
        (str(address), int(port))
        for endpoint in items_of(endpoint_slice, "endpoints")
        if part(endpoint, "conditions").get("ready") is not False
        for address in endpoint.get("addresses") or ()
        for port in ports
    ]


def _unverified_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)
