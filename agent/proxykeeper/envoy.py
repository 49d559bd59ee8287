# SPDX-License-Identifier: Apache-2.0
"""Envoy as a process: nobody's, with the one capability that it needs, and asked for a sign of life at a socket of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

import orjson

from agent.last_error import last_error
from agent.proxy_files import ACCESS_LOG, BOOTSTRAP, ENVOY_LOG, LISTENERS
from agent.proxykeeper.launch import launch
from meshkit import original_destination
from meshkit.privileges import NOBODY

_PRIVILEGES: Final = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs",
    "--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin", "--bounding-set=-all,+net_admin", "--pdeathsig=KILL",
)  # fmt: skip
_OWN_ADDRESSES: Final = (sys.executable, "-I", "-S", original_destination.__file__)
_WORKERS: Final = 2
_DRAIN_S: Final = 5
_LONGEST_LINE: Final = 4096
_TYPE: Final = "type.googleapis.com/envoy.extensions.filters"


class EnvoyProgram:
    """Envoy of one directory. It runs while its bootstrap and its listeners are there."""

    title: Final = "Envoy"

    def __init__(self, binary: Path, directory: Path) -> None:
        self._binary, self._directory = binary, directory.absolute()
        self._sign = ""

    def wanted(self) -> str:
        """What it is started with."""
        try:
            data = (self._directory / BOOTSTRAP).read_bytes()
        except OSError:
            return ""
        return hashlib.sha256(data).hexdigest() if (self._directory / LISTENERS).exists() else ""

    def start(self) -> subprocess.Popen[bytes]:
        """Raises: OSError."""
        _make_writable(self._directory / ACCESS_LOG)
        self._sign = f"clustermesh-envoy-{secrets.token_hex(8)}"
        binary = os.open(self._binary, os.O_RDONLY)  # nobody may not be able to enter where it is
        try:
            command = (*_OWN_ADDRESSES, *_PRIVILEGES, f"/proc/self/fd/{binary}", *self._arguments())
            return launch(command, self._directory / ENVOY_LOG, (binary,))
        finally:
            os.close(binary)

    async def ask(self) -> None:
        """One of its workers answers a request. Raises: OSError."""
        reader, writer = await asyncio.open_unix_connection(f"\0{self._sign}", limit=_LONGEST_LINE)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: keeper\r\n\r\n")
            line = await reader.readline()
        except ValueError as exc:
            raise OSError("no answer of Envoy's") from exc
        finally:
            writer.close()
        if b" 200 " not in line:
            raise OSError("no answer of Envoy's")

    def last_words(self) -> str:
        """As `last_error`."""
        return last_error(self._directory / ENVOY_LOG)

    def _arguments(self) -> list[str]:
        return [
            "--config-path", str(self._directory / BOOTSTRAP), "--config-yaml", _sign_of_life(self._sign),
            "--disable-hot-restart", "--concurrency", str(_WORKERS), "--drain-time-s", str(_DRAIN_S),
            "--drain-strategy", "immediate", "--file-flush-interval-msec", "50", "--log-level", "warning",
            "--service-node", "clustermesh", "--service-cluster", "clustermesh",
        ]  # fmt: skip


def _make_writable(path: Path) -> None:
    """Envoy may write the file, and root read and cut it, which has no right to the files of others."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW, 0o660)
    try:
        os.fchown(descriptor, 0, 0)  # what is nobody's, it may not change
        os.fchmod(descriptor, 0o660)
        os.fchown(descriptor, NOBODY, 0)
    finally:
        os.close(descriptor)


def _sign_of_life(name: str) -> str:
    """A listener that answers every request with 200, at an abstract socket of this name. JSON, which is YAML."""
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "sign-of-life",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_TYPE}.http.router.v3.Router"}},
        ],
    }
    listener = {
        "name": "sign-of-life",
        "address": {"pipe": {"path": f"@{name}"}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return orjson.dumps({"static_resources": {"listeners": [listener]}}).decode()
