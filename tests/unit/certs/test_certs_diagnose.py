# SPDX-License-Identifier: Apache-2.0
"""Each reason why a TLS connection fails is told by its own name."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from certs import profile
from certs.authority import Authority, Issued
from certs.diagnose import ADVICE, CertificateProblem, diagnose, diagnose_server
from certs.store import CertFiles

NAME = "north.mesh.cilium.io"
DAY = 86_400.0


@pytest.fixture(scope="module")
def north() -> Authority:
    return Authority.create("mesh CA", time.time() - 100 * DAY, 3650)


def client(authority: Authority, trusts: Authority, wall_s: float | None = None) -> CertFiles:
    made = authority.issue(profile.remote("south"), time.time() if wall_s is None else wall_s)
    return CertFiles(trusts.certificate_pem, made.cert_pem, made.key_pem)


@asynccontextmanager
async def tls_server(tmp_path: Path, made: Issued, clients: Authority, *, tls12: bool = False) -> AsyncIterator[int]:
    """A TLS server that speaks first, as HTTP/2 does."""
    (tmp_path / "pair.pem").write_bytes(made.key_pem + made.cert_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    context.load_verify_locations(cadata=clients.certificate_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\x04\0\0\0\0\0")
        await writer.drain()

    async with plain_server(greet, context) as port:
        yield port


@asynccontextmanager
async def plain_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionError):
            await serve(reader, writer)

    server = await asyncio.start_server(keep, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


@pytest.mark.parametrize("tls12", [False, True])
async def test_a_good_connection_has_no_problem(tmp_path: Path, north: Authority, *, tls12: bool) -> None:
    made = north.issue(profile.server("north", "ns"), time.time())
    async with tls_server(tmp_path, made, north, tls12=tls12) as port:
        finding = await diagnose("127.0.0.1", port, NAME, client(north, north))
    assert finding.is_ok
    assert finding.server is not None
    assert NAME in finding.server.sans


async def test_a_server_of_an_unknown_authority(tmp_path: Path, north: Authority) -> None:
    other = Authority.create("mesh CA", time.time(), 10)
    async with tls_server(tmp_path, other.issue(profile.server("north", "ns"), time.time()), north) as port:
        finding = await diagnose("127.0.0.1", port, NAME, client(north, north))
    assert finding.problem is CertificateProblem.UNKNOWN_CA


async def test_an_expired_server_certificate(tmp_path: Path, north: Authority) -> None:
    made = north.issue(profile.Profile("x", dns_names=(NAME,), is_server=True, days=1), time.time() - 10 * DAY)
    async with tls_server(tmp_path, made, north) as port:
        finding = await diagnose("127.0.0.1", port, NAME, client(north, north))
    assert finding.problem is CertificateProblem.EXPIRED
    assert finding.server is not None
    assert finding.server.not_after_s < time.time()


async def test_a_server_certificate_from_the_future(tmp_path: Path, north: Authority) -> None:
    made = north.issue(profile.server("north", "ns"), time.time() + 10 * DAY)
    async with tls_server(tmp_path, made, north) as port:
        finding = await diagnose("127.0.0.1", port, NAME, client(north, north))
    assert finding.problem is CertificateProblem.NOT_YET_VALID


async def test_a_server_certificate_for_another_name(tmp_path: Path, north: Authority) -> None:
    made = north.issue(profile.server("north", "ns"), time.time())
    async with tls_server(tmp_path, made, north) as port:
        finding = await diagnose("127.0.0.1", port, "north.example.org", client(north, north))
    assert finding.problem is CertificateProblem.WRONG_NAME
    assert finding.server is not None
    assert NAME in finding.server.sans


async def test_a_client_of_an_authority_the_server_does_not_know(tmp_path: Path, north: Authority) -> None:
    stranger = Authority.create("mesh CA", time.time(), 10)
    made = north.issue(profile.server("north", "ns"), time.time())
    async with tls_server(tmp_path, made, north) as port:
        finding = await diagnose("127.0.0.1", port, NAME, client(stranger, north))
    assert finding.problem is CertificateProblem.CLIENT_REJECTED


async def test_an_expired_client_certificate(tmp_path: Path, north: Authority) -> None:
    made = north.issue(profile.server("north", "ns"), time.time())
    old = north.issue(profile.Profile("remote-south", days=1), time.time() - 10 * DAY)
    async with tls_server(tmp_path, made, north) as port:
        files = CertFiles(north.certificate_pem, old.cert_pem, old.key_pem)
        finding = await diagnose("127.0.0.1", port, NAME, files)
    assert finding.problem is CertificateProblem.CLIENT_REJECTED


async def test_nothing_listens(north: Authority) -> None:
    async with plain_server(lambda _reader, _writer: asyncio.sleep(0)) as port:
        pass
    finding = await diagnose("127.0.0.1", port, NAME, client(north, north))
    assert finding.problem is CertificateProblem.REFUSED


async def test_something_else_listens(north: Authority) -> None:
    async def shout(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with plain_server(shout) as port:
        finding = await diagnose("127.0.0.1", port, NAME, client(north, north))
    assert finding.problem is CertificateProblem.NOT_TLS


async def test_nobody_answers(north: Authority) -> None:
    async with plain_server(lambda reader, _writer: reader.read()) as port:
        finding = await diagnose("127.0.0.1", port, NAME, client(north, north), timeout_s=0.2)
    assert finding.problem is CertificateProblem.UNREACHABLE


async def test_the_connection_is_dropped(north: Authority) -> None:
    async def drop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with plain_server(drop) as port:
        finding = await diagnose("127.0.0.1", port, NAME, client(north, north))
    assert finding.problem is CertificateProblem.CLOSED


async def test_the_name_is_not_known(north: Authority) -> None:
    finding = await diagnose("no-such-host.invalid", 2379, NAME, client(north, north))
    assert finding.problem is CertificateProblem.NAME_UNKNOWN


@pytest.mark.parametrize("broken", ["ca", "cert", "key"])
async def test_our_own_files_are_unusable(north: Authority, broken: str) -> None:
    good = client(north, north)
    parts = {"ca": good.ca, "cert": good.cert, "key": good.key, broken: b"nonsense"}
    finding = await diagnose("127.0.0.1", 1, NAME, CertFiles(**parts))
    assert finding.problem is CertificateProblem.OWN_CERTIFICATE


def test_every_problem_has_an_advice() -> None:
    assert set(ADVICE) == set(CertificateProblem) - {CertificateProblem.NONE}


async def test_a_server_that_does_not_know_us_yet_is_judged_by_its_own_certificate(
    tmp_path: Path, north: Authority
) -> None:
    made = north.issue(profile.server("north", "ns"), time.time())
    stranger = Authority.create("mesh CA", time.time() - DAY, 3650)
    async with tls_server(tmp_path, made, north) as port:
        assert (await diagnose_server("127.0.0.1", port, NAME, north.certificate_pem)).is_ok
        finding = await diagnose_server("127.0.0.1", port, NAME, stranger.certificate_pem)
        assert finding.problem is CertificateProblem.UNKNOWN_CA
        finding = await diagnose_server("127.0.0.1", port, "north.example.org", north.certificate_pem)
        assert finding.problem is CertificateProblem.WRONG_NAME
        finding = await diagnose_server("127.0.0.1", port, NAME, b"no certificate")
        assert finding.problem is CertificateProblem.UNKNOWN_CA
