# SPDX-License-Identifier: Apache-2.0
"""From what a kubeconfig or a service account says to TLS, a connection pool and the header of each request."""

from __future__ import annotations

import base64
import binascii
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection

from kube.credentials import Credentials, credentials_of
from kube.errors import ConfigError
from kube.exec_plugin import ExecPlugin
from kube.kubeconfig import Chosen
from kube.proxy import choose_proxy

POOL_SIZE: Final = 16
KEPT_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
)
"""A link that is gone is seen after a minute, whatever the server has to say on it. Seconds; the last in milliseconds."""


def connect_chosen(chosen: Chosen) -> tuple[urllib3.PoolManager, Credentials]:
    """The pool and the credentials of a kubeconfig's context; nothing is sent yet. Raises: ConfigError."""
    cluster, user = chosen.cluster, chosen.user
    plugin = ExecPlugin(user["exec"], chosen.folder, cluster) if _uses_plugin(user) else None
    certificate = _bytes(user, "client-certificate"), _bytes(user, "client-key")
    if plugin is not None and not all(certificate):
        given = plugin.credential()
        certificate = given.certificate_pem.encode(), given.key_pem.encode()
    server = str(cluster["server"])
    context = make_tls(
        _bytes(cluster, "certificate-authority"),
        certificate,
        is_insecure=bool(cluster.get("insecure-skip-tls-verify")),
        what=f"context {chosen.context}",
    )
    pool = make_pool(server, context, str(cluster.get("tls-server-name") or ""), str(cluster.get("proxy-url") or ""))
    return pool, plugin if plugin is not None else credentials_of(user)


def make_tls(
    ca_pem: bytes | None, certificate: tuple[bytes | None, bytes | None], *, is_insecure: bool, what: str
) -> ssl.SSLContext:
    """TLS as a client: the server proves itself by `ca_pem`, the machine's authorities when None. Raises: ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if is_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif ca_pem:
            context.load_verify_locations(cadata=ca_pem.decode("ascii", "ignore"))
        else:
            context.load_default_certs()
        cert, key = certificate
        if cert and key:
            with _as_file(cert) as cert_path, _as_file(key) as key_path:
                context.load_cert_chain(cert_path, key_path, password=lambda: "")  # never asks on the terminal
    except (ssl.SSLError, ValueError, OSError) as exc:
        raise ConfigError(what, detail=f"its certificates cannot be used: {exc}") from exc
    return context


def make_pool(server: str, context: ssl.SSLContext, tls_server_name: str, proxy_url: str) -> urllib3.PoolManager:
    """Connections to one server, through the proxy that stands between. Raises: ConfigError."""
    options: dict[str, Any] = {"maxsize": POOL_SIZE, "retries": False, "ssl_context": context}
    options["socket_options"] = [*HTTPConnection.default_socket_options, *KEPT_ALIVE]
    if context.verify_mode == ssl.CERT_NONE:
        options |= {"cert_reqs": "CERT_NONE", "assert_hostname": False}
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the user chose it, as with kubectl
    if tls_server_name:
        options["server_hostname"] = tls_server_name
    proxy = choose_proxy(server, proxy_url, os.environ)
    if proxy is None:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy)
    if parts.scheme.startswith("socks"):
        try:
            from urllib3.contrib.socks import SOCKSProxyManager
        except ImportError as exc:
            raise ConfigError(f"proxy {parts.hostname}", detail="a SOCKS proxy needs the package PySocks") from exc
        return SOCKSProxyManager(proxy, **options)
    if parts.username:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=user)
    return urllib3.ProxyManager(proxy, **options)


def _uses_plugin(user: Mapping[str, Any]) -> bool:
    return bool(user.get("exec")) and not (user.get("token") or user.get("tokenFile"))


def _bytes(entry: Mapping[str, Any], name: str) -> bytes | None:
    """`NAME-data` decoded, else what the file at `NAME` holds, else None. Raises: ConfigError."""
    try:
        if entry.get(f"{name}-data"):
            return base64.b64decode(str(entry[f"{name}-data"]), validate=False)
        return Path(str(entry[name])).read_bytes() if entry.get(name) else None
    except (OSError, binascii.Error) as exc:
        raise ConfigError(f"kubeconfig {name}", detail=str(exc)) from exc


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to the content, which is a key perhaps: in memory where the system can, else a file that only we may read."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("clustermesh")
        try:
            os.write(handle, content)
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.name
