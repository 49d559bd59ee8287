# SPDX-License-Identifier: Apache-2.0
"""A served cluster with fake workloads, and how to run kubectl against it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import termios
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from certs.authority import Authority
from certs.profile import Profile
from lab.devkube.api.accounts import ADMIN
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.server import ApiServer, ServerOptions, TlsFiles
from tests.integration.devkube.fake_workloads import FakeRuntime, FakeWorkloads

TOKEN = "test-admin-token"
REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Served:
    """A cluster and how to reach it."""

    cluster: Cluster
    server: ApiServer
    url: str
    ca: Path
    client_certificate: Path
    client_key: Path
    kubeconfig: Path


@contextlib.asynccontextmanager
async def serve(authority: Authority, folder: Path, cluster: Cluster, bookmark_s: float = 60) -> AsyncIterator[Served]:
    """Serve `cluster` with fake workloads until the block ends."""
    files = _write_certificates(authority, folder)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    server = ApiServer(cluster, FakeRuntime(), ServerOptions({TOKEN: ADMIN}, bookmark_s))
    tls = TlsFiles(files["server.crt"], files["server.key"], files["ca.crt"])
    async with asyncio.TaskGroup() as group:
        workloads = group.create_task(FakeWorkloads(cluster).run())
        serving = group.create_task(server.serve([listener], tls))
        kubeconfig = _write_kubeconfig(folder, url, files["ca.crt"])
        try:
            yield Served(cluster, server, url, files["ca.crt"], files["client.crt"], files["client.key"], kubeconfig)
        finally:
            server.stop()
            await serving
            workloads.cancel()


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Running:
    """A command whose output is read line by line."""

    process: asyncio.subprocess.Process

    async def shows(self, text: str) -> None:
        """A later line than the ones read before contains the text; fails after ten seconds."""
        assert self.process.stdout is not None
        async with asyncio.timeout(10):
            while text not in (line := (await self.process.stdout.readline()).decode()):
                assert line, f"the output ended before {text!r}"


async def eventually(holds: Callable[[], object]) -> None:
    """Fails if it does not hold within ten seconds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Kubectl:
    """One kubectl binary against one server, in a namespace of its own."""

    binary: str
    version: str
    kubeconfig: Path
    home: Path
    namespace: str

    async def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> Result:
        process = await asyncio.create_subprocess_exec(
            self.binary, "-n", self.namespace, *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self._environment(environment),
        )  # fmt: skip
        try:
            async with asyncio.timeout(30):
                out, err = await process.communicate(stdin.encode())
        except TimeoutError:
            process.kill()
            out, err = await process.communicate()
            pytest.fail(f"kubectl {' '.join(arguments)} did not end: {out.decode()} {err.decode()}")
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())

    async def in_terminal(self, rows: int, columns: int, *arguments: str, **environment: str) -> Result:
        """As a person would run it, in a terminal of this size."""
        terminal, inner = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = await asyncio.create_subprocess_exec(
            "setsid", "--ctty", "--wait", self.binary, "-n", self.namespace, *arguments,
            stdin=inner, stdout=inner, stderr=inner, env=self._environment(environment),
        )  # fmt: skip
        os.close(inner)
        output = asyncio.create_task(asyncio.to_thread(_read_terminal, terminal))
        try:
            async with asyncio.timeout(20):
                code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            shown = await output
            os.close(terminal)
        return Result(code, shown, "")

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        plain = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home), "PATH": os.environ["PATH"]}
        return plain | {"TERM": "xterm"} | more

    @contextlib.asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[Running]:
        """A command that goes on by itself until the block ends."""
        process = await asyncio.create_subprocess_exec(
            self.binary, "-n", self.namespace, *arguments, stdout=asyncio.subprocess.PIPE,
            env=self._environment({}),
        )  # fmt: skip
        try:
            yield Running(process)
        finally:
            process.kill()
            await process.communicate()

    async def ok(self, *arguments: str, stdin: str = "", **environment: str) -> str:
        """The output of a command that must succeed."""
        result = await self(*arguments, stdin=stdin, **environment)
        assert result.code == 0, f"kubectl {' '.join(arguments)}: {result.out}{result.err}"
        return result.out


def _read_terminal(terminal: int) -> str:
    output = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the last user of the other side is gone
            return output.decode()
        output += data


# Debian's own is 1.20, which checks fields by a document that the lab's API does not serve, and has no `create token`
CURRENT_MINOR = 25


def find_kubectl(version: str) -> str | None:
    """The binary of a version ("current": the installed one, unless it is older); None if this machine has none."""
    named = os.environ.get(f"KUBECTL_{version.replace('.', '').upper()}")
    if named:
        return named
    built = REPOSITORY / "build" / "tools" / f"kubectl-{version}"
    if built.exists():
        return str(built)
    installed = shutil.which("kubectl")
    return installed if version == "current" and installed and _minor(installed) >= CURRENT_MINOR else None


def _minor(binary: str) -> int:
    command = [binary, "version", "--client", "--output=json"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)
    return int(re.sub(r"\D", "", shown["clientVersion"]["minor"]))


def _write_certificates(authority: Authority, folder: Path) -> dict[str, Path]:
    server = authority.issue(Profile("apiserver", ("localhost",), ("127.0.0.1",), is_server=True), time.time())
    client = authority.issue(Profile("jyn"), time.time())
    contents = {
        "ca.crt": authority.certificate_pem,
        "server.crt": server.cert_pem,
        "server.key": server.key_pem,
        "client.crt": client.cert_pem,
        "client.key": client.key_pem,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def _write_kubeconfig(folder: Path, url: str, ca: Path) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path
