# SPDX-License-Identifier: Apache-2.0
"""A real etcd and the certificates of two clusters, for every test that must not trust a fake."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from certs import profile
from certs.authority import Authority, Issued
from kvstore.errors import NoSpace
from kvstore.etcd import EtcdStore
from kvstore.options import Options, Tls
from kvstore.process import EtcdCertificates, EtcdProcess, EtcdSettings

FAST_ELECTIONS = EtcdSettings(heartbeat_ms=20, election_ms=200)
QUICK = Options(backoff_minimum_s=0.02, backoff_maximum_s=0.2, call_timeout_s=3.0)

needs_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="needs the etcd binary (Debian: etcd-server)")


def _issued_s() -> float:
    """An hour ago: programs whose clock is somewhat behind accept what was issued then."""
    return time.time() - 3600


@dataclass
class Pki:
    """The authorities of cluster north (ours) and south (a peer), and what north's etcd needs."""

    north: Authority = field(default_factory=lambda: Authority.create("mesh CA", _issued_s(), 30))
    south: Authority = field(default_factory=lambda: Authority.create("mesh CA", _issued_s(), 30))

    def __post_init__(self) -> None:
        self.server = self.north.issue(profile.server("north", "kube-system"), _issued_s())
        self.admin = self.north.issue(profile.admin("north"), _issued_s())
        self.etcd = EtcdCertificates(
            self.north.certificate_pem,
            self.server.cert_pem,
            self.server.key_pem,
            self.admin.cert_pem,
            self.admin.key_pem,
        )

    def client(self, common_name: str, authority: Authority | None = None) -> Issued:
        """A client certificate with this name."""
        return (authority or self.north).issue(profile.Profile(common_name), _issued_s())

    def tls(self, common_name: str, authority: Authority | None = None) -> Tls:
        """A client that trusts north's server and shows a certificate with this name."""
        made = self.client(common_name, authority)
        return Tls(self.north.certificate_pem, made.cert_pem, made.key_pem, "north.mesh.cilium.io")


@asynccontextmanager
async def running_etcd(
    directory: Path, pki: Pki, settings: EtcdSettings = FAST_ELECTIONS
) -> AsyncIterator[EtcdProcess]:
    """An etcd that is up, and gone afterwards whatever happens."""
    process = EtcdProcess(directory, pki.etcd, settings)
    await process.start()
    try:
        yield process
    finally:
        await process.kill()


async def eventually(is_true: Callable[[], bool], what: str = "", timeout_s: float = 10.0) -> None:
    """Return as soon as it is true; fail loudly if it never is."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or is_true}")
        await asyncio.sleep(0.005)


async def fill(client: EtcdStore, prefix: bytes, *, keys: int) -> None:
    """So many keys of 100 kB were written over and over until the store took no more."""
    for number in range(1000):
        try:
            await client.put(prefix + b"%d" % (number % keys), os.urandom(100_000))
        except NoSpace:
            return
    raise AssertionError("100 MB fit: the store has no small quota")


class Relay:
    """A TCP relay in front of a server that can cut, stop, be slow, or break after so many bytes."""

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.budget: int | None = None
        self.accepts = True
        self.delay_s = 0.0
        self.connections = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Every connection breaks now."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self.accepts:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target())
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        try:
            await asyncio.gather(
                self._pump(reader, up_writer, counts=False), self._pump(up_reader, writer, counts=True)
            )
        finally:
            for each in (writer, up_writer):
                each.transport.abort()
                self._writers.discard(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        try:
            while data := await reader.read(4096):
                if counts and self.budget is not None:
                    self.budget -= len(data)
                    if self.budget < 0:
                        self.budget = None
                        self.cut()
                        return
                await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
