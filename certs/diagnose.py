# SPDX-License-Identifier: Apache-2.0
"""Say in one line why a TLS connection cannot be made.

gRPC reports every one of these as "unavailable"; a plain handshake with the standard library tells them apart.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

from certs.errors import CertificateError
from certs.inspect import CertInfo, load, parse
from certs.store import CertFiles
from meshkit.errors import MAXIMUM_TEXT

HTTP2: Final = "h2"
CONTEXTS: Final = 32
"""How many contexts are kept: each is asked for again and again, and its key goes through a file when it is made."""


class CertificateProblem(StrEnum):
    """What stands in the way, from the network upwards."""

    NONE = "none"
    NAME_UNKNOWN = "name-unknown"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NOT_TLS = "not-tls"
    OWN_CERTIFICATE = "own-certificate"
    UNKNOWN_CA = "unknown-ca"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    WRONG_NAME = "wrong-name"
    CLIENT_REJECTED = "client-rejected"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class CertificateFinding:
    """The verdict on one connection: `problem`, what was seen, and what to do about it."""

    problem: CertificateProblem
    detail: str = ""
    advice: str = ""
    server: CertInfo | None = None

    @property
    def is_ok(self) -> bool:
        """True if a client would get through."""
        return self.problem is CertificateProblem.NONE


ADVICE: Final = {
    CertificateProblem.NAME_UNKNOWN: "check the endpoint's host name and the host aliases in the peer's configuration file",
    CertificateProblem.REFUSED: "nothing listens there: check the address, the port, and that the peer's apiserver runs",
    CertificateProblem.UNREACHABLE: "no answer: check routes, firewalls and the exposed Service",
    CertificateProblem.NOT_TLS: "something else than a TLS server listens there: check the port",
    CertificateProblem.OWN_CERTIFICATE: "our own certificate, key or CA file cannot be used: issue it again",
    CertificateProblem.UNKNOWN_CA: "we do not trust the authority of the server: exchange CA certificates, connect again",
    CertificateProblem.EXPIRED: "the server's certificate has expired: renew it, or correct the clocks",
    CertificateProblem.NOT_YET_VALID: "the server's certificate is not valid yet: correct the clocks",
    CertificateProblem.WRONG_NAME: "the server certificate does not cover this name: issue it with it, or change the endpoint",
    CertificateProblem.CLIENT_REJECTED: "our certificate is not accepted there: see clustermesh certs show, then connect again",
    CertificateProblem.CLOSED: "the server closed the connection without a reason: read its log",
}

# verification results of OpenSSL (X509_V_ERR_*)
_VERIFY: Final = {
    9: CertificateProblem.NOT_YET_VALID,
    10: CertificateProblem.EXPIRED,
    62: CertificateProblem.WRONG_NAME,
    63: CertificateProblem.WRONG_NAME,
    64: CertificateProblem.WRONG_NAME,
}


async def diagnose(
    host: str, port: int, server_name: str, files: CertFiles, timeout_s: float = 5.0
) -> CertificateFinding:
    """Shake hands as a mesh client would and name the first thing that is wrong; never raises for a bad peer."""
    try:
        context = client_context(files)
    except CertificateError as exc:
        return _finding(CertificateProblem.OWN_CERTIFICATE, str(exc))
    return await _judge(host, port, server_name, context, timeout_s, is_known=True)


async def _judge(
    host: str, port: int, server_name: str, context: ssl.SSLContext, timeout_s: float, *, is_known: bool
) -> CertificateFinding:
    try:
        async with asyncio.timeout(timeout_s):
            return await _shake_hands(host, port, server_name, context, is_known=is_known)
    except TimeoutError:
        return _finding(CertificateProblem.UNREACHABLE, f"no answer in {timeout_s:g} s")
    except socket.gaierror as exc:
        return _finding(CertificateProblem.NAME_UNKNOWN, exc.strerror or "name not known")
    except ConnectionRefusedError:
        return _finding(CertificateProblem.REFUSED, "connection refused")
    except ssl.SSLError as exc:
        problem = classify(exc)
        server = await _server_certificate(host, port, server_name, timeout_s)
        return CertificateFinding(problem, (exc.reason or str(exc))[:MAXIMUM_TEXT], ADVICE[problem], server)
    except ConnectionError as exc:
        return _finding(CertificateProblem.CLOSED, exc.strerror or "connection closed")
    except OSError as exc:
        return _finding(CertificateProblem.UNREACHABLE, exc.strerror or str(exc))


async def diagnose_server(
    host: str, port: int, server_name: str, authority: bytes, timeout_s: float = 5.0
) -> CertificateFinding:
    """Name the first thing that is wrong with a server that does not know us yet; never raises for a bad peer.

    No client certificate is shown. With TLS 1.3, which every apiserver speaks, the server proves itself before it asks for one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([HTTP2])
    try:
        load(authority, "CA certificate")
        context.load_verify_locations(cadata=authority.decode("ascii"))
    except (CertificateError, ssl.SSLError, UnicodeDecodeError) as exc:
        return _finding(CertificateProblem.UNKNOWN_CA, str(exc))
    return await _judge(host, port, server_name, context, timeout_s, is_known=False)


@lru_cache(CONTEXTS)
def client_context(files: CertFiles) -> ssl.SSLContext:
    """A verifying client context of these parts, the same one for those that were asked for lately.

    Raises: CertificateError if one of them cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([HTTP2])
    load(files.ca, "CA certificate")
    load(files.cert, "client certificate")
    try:
        context.load_verify_locations(cadata=files.ca.decode("ascii"))
        with tempfile.TemporaryDirectory(prefix="clustermesh-tls-") as name:  # 0700, as the key passes through
            pair = Path(name) / "pair.pem"
            pair.touch(mode=0o600)
            pair.write_bytes(files.key + b"\n" + files.cert)
            context.load_cert_chain(pair)
    except (ssl.SSLError, UnicodeDecodeError) as exc:
        raise CertificateError("client certificate", "certificate and key cannot be used together") from exc
    return context


def classify(exc: ssl.SSLError) -> CertificateProblem:
    """What a failed handshake means."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return _VERIFY.get(exc.verify_code, CertificateProblem.UNKNOWN_CA)
    reason = (exc.reason or "").upper()
    if "ALERT" in reason:
        return CertificateProblem.CLIENT_REJECTED
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"}:
        return CertificateProblem.NOT_TLS
    return CertificateProblem.CLOSED


async def _shake_hands(
    host: str, port: int, server_name: str, context: ssl.SSLContext, *, is_known: bool
) -> CertificateFinding:
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name)
    try:
        server = _peer_certificate(writer)
        if not is_known:
            return CertificateFinding(CertificateProblem.NONE, server=server)
        # in TLS 1.3 a refused client certificate shows only on the first read; an HTTP/2 server speaks first
        first = await reader.read(1)
        if not first:
            # gRPC closes without an alert when it does not like the client's certificate
            text = "closed as soon as our certificate was shown"
            return CertificateFinding(
                CertificateProblem.CLIENT_REJECTED, text, ADVICE[CertificateProblem.CLIENT_REJECTED], server
            )
        return CertificateFinding(CertificateProblem.NONE, server=server)
    finally:
        writer.transport.abort()


async def _server_certificate(host: str, port: int, server_name: str, timeout_s: float) -> CertInfo | None:
    """What the server shows when nothing is verified: for the report only, nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([HTTP2])
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name)
    except OSError:  # TimeoutError and SSLError are OSErrors too
        return None
    try:
        return _peer_certificate(writer)
    finally:
        writer.transport.abort()


def _peer_certificate(writer: asyncio.StreamWriter) -> CertInfo | None:
    connection = writer.get_extra_info("ssl_object")
    der = connection.getpeercert(binary_form=True) if connection is not None else None
    if not der:
        return None
    try:
        return parse(ssl.DER_cert_to_PEM_cert(der).encode("ascii"), "server certificate")[0]
    except CertificateError:
        return None


def _finding(problem: CertificateProblem, detail: str) -> CertificateFinding:
    return CertificateFinding(problem, detail[:MAXIMUM_TEXT], ADVICE[problem])
