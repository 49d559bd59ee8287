# SPDX-License-Identifier: Apache-2.0
"""A facade in front of a real etcd with users and roles, and plain clients of both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import grpc.aio

from certs.bundle import TrustBundle
from certs.inspect import parse
from clustermesh_apiserver.serve.access import mesh_roles
from kvstore.auth import ensure_auth
from kvstore.channel import open_channel
from kvstore.etcd import EtcdStore
from kvstore.facade.grant import ClientLimits, Grant
from kvstore.facade.server import ReadOnlyFacade, ServerTls
from kvstore.methods import Methods
from kvstore.options import Options, Tls
from kvstore.process import EtcdProcess
from kvstore.proto import rpc_pb2 as pb
from meshkit.clock import Clock
from tests.integration.kvstore.private_etcd import QUICK, Pki

STATE = b"cilium/state/"
USERS = {"admin-north": "root", "remote-south": "remote", "local-north": "local"}


@dataclass
class Facade:
    """North's etcd and the facade in front of it; `bundle` holds the trusted authorities."""

    pki: Pki
    etcd: EtcdProcess
    admin: EtcdStore
    bundle: TrustBundle
    facade: ReadOnlyFacade = field(init=False)
    port: int = 0
    revoked: set[str] = field(default_factory=set)
    clients: list[EtcdStore] = field(default_factory=list)

    def server_tls(self) -> ServerTls:
        return ServerTls(self.bundle.union_pem, self.pki.server.cert_pem, self.pki.server.key_pem)

    def authorize(self, pem: bytes) -> Grant | None:
        remote, local = mesh_roles("north")
        signers, name = self.bundle.signers(pem), parse(pem)[0].subject_cn
        if name in self.revoked:
            return None
        if signers == ("south",) and name in {"remote-south", "remote"}:
            return Grant(name, remote.prefixes, remote.keys)
        if signers == ("north",) and name == "local-north":
            return Grant(name, local.prefixes, local.keys)
        return None

    def admits(self, name: str) -> bool:
        signer = {"remote-south": "south", "local-north": "north"}.get(name, "")
        return name not in self.revoked and signer in self.bundle.names()

    def south(self) -> Tls:
        """The peer as its own authority certifies it."""
        return self.pki.tls("remote-south", self.pki.south)

    def client(self, tls: Tls | None = None, options: Options = QUICK) -> EtcdStore:
        """Our own client, through the facade."""
        self.clients.append(EtcdStore([f"127.0.0.1:{self.port}"], tls or self.south(), options))
        return self.clients[-1]


@asynccontextmanager
async def facade_for(
    pki: Pki, etcd: EtcdProcess, limits: ClientLimits | None = None, clock: Clock | None = None
) -> AsyncIterator[Facade]:
    """A facade that serves, and is gone afterwards."""
    admin = etcd.connect(QUICK)
    await ensure_auth(admin, mesh_roles("north"), USERS)
    bundle = TrustBundle({"north": pki.north.certificate_pem, "south": pki.south.certificate_pem})
    running = Facade(pki, etcd, admin, bundle)
    running.facade = ReadOnlyFacade(
        admin, running.authorize, running.server_tls(), limits, admits=running.admits, clock=clock
    )
    running.port = await running.facade.start("127.0.0.1", 0)
    try:
        yield running
    finally:
        for client in running.clients:
            await client.close()
        await running.facade.stop()
        await admin.close()


class Plain:
    """A bare client: messages in, messages out, nothing retried."""

    def __init__(self, port: int, tls: Tls) -> None:
        self.channel = open_channel([f"127.0.0.1:{port}"], tls, Options())
        self.methods = Methods(self.channel)

    async def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        return await self.methods.range(request, timeout=5)

    async def raw(self, method: str, request: bytes = b"") -> bytes:
        """Any method of etcd by name, as bytes."""
        call = self.channel.unary_unary(f"/etcdserverpb.{method}")
        answer: bytes = await call(request, timeout=5)
        return answer

    def watch(self) -> PlainWatch:
        return PlainWatch(self.methods.watch())

    async def close(self) -> None:
        await self.channel.close()


class PlainWatch:
    """One Watch call."""

    def __init__(self, call: grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse]) -> None:
        self.call = call

    async def create(self, key: bytes, range_end: bytes = b"", **fields: object) -> None:
        request = pb.WatchCreateRequest(key=key, range_end=range_end, **fields)  # type: ignore[arg-type]
        await self._send(pb.WatchRequest(create_request=request))

    async def cancel(self, watch_id: int) -> None:
        await self._send(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)))

    async def progress(self) -> None:
        await self._send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    async def _send(self, request: pb.WatchRequest) -> None:
        # a call that was refused before the request was written says so to whoever reads it or asks for its status
        with suppress(grpc.aio.AioRpcError):
            await self.call.write(request)

    async def read(self, timeout_s: float = 5.0) -> pb.WatchResponse:
        """The next answer. A timeout ends the call, so it is for tests that fail."""
        async with asyncio.timeout(timeout_s):
            answer = await self.call.read()
        assert isinstance(answer, pb.WatchResponse), f"stream ended: {await self.call.code()}"
        return answer

    async def events(self, count: int) -> list[tuple[bytes, int]]:
        """Key and revision of exactly so many events."""
        found: list[tuple[bytes, int]] = []
        while len(found) < count:
            found += [(event.kv.key, event.kv.mod_revision) for event in (await self.read()).events]
        return found

    async def status(self, timeout_s: float = 5.0) -> tuple[grpc.StatusCode, str]:
        """How the call ended, which it must do on its own."""
        async with asyncio.timeout(timeout_s):
            code = await self.call.code()
            return code, await self.call.details() or ""
