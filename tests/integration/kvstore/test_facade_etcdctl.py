# SPDX-License-Identifier: Apache-2.0
"""Debian's own etcdctl reads and watches through the facade as through etcd."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.kvstore.facade_under_test import Facade
from tests.integration.kvstore.private_etcd import needs_etcd

pytestmark = [
    needs_etcd,
    pytest.mark.skipif(shutil.which("etcdctl") is None, reason="needs etcdctl (Debian: etcd-client)"),
]

ROOT = "cilium/state/ctl/"


class Etcdctl:
    """etcdctl with one client's certificates."""

    def __init__(self, facade: Facade, directory: Path, common_name: str = "remote-south") -> None:
        made = facade.pki.tls(common_name, facade.pki.south)
        for name, content in (("ca.crt", made.ca), ("tls.crt", made.cert), ("tls.key", made.key)):
            (directory / name).write_bytes(content)
        files = ("--cacert", directory / "ca.crt", "--cert", directory / "tls.crt", "--key", directory / "tls.key")
        self._command = ["etcdctl", "--endpoints", f"https://127.0.0.1:{facade.port}", *map(str, files)]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "ETCDCTL_API": "3"},
        )

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        process = await self.start(*arguments)
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


@pytest_asyncio.fixture
async def ctl(facade: Facade, tmp_path: Path) -> Etcdctl:
    for number in range(3):
        await facade.admin.put(f"{ROOT}{number}".encode(), b"v%d" % number)
    return Etcdctl(facade, tmp_path)


async def test_get_shows_keys_and_values(ctl: Etcdctl) -> None:
    assert await ctl.run("get", "--prefix", ROOT) == (0, "".join(f"{ROOT}{n}\nv{n}\n" for n in range(3)), "")
    code, out, _ = await ctl.run("get", "--prefix", ROOT, "--limit", "2", "--keys-only")
    assert (code, out.split()) == (0, [f"{ROOT}0", f"{ROOT}1"])
    code, out, _ = await ctl.run("get", f"{ROOT}1", "--print-value-only")
    assert (code, out) == (0, "v1\n")


async def test_watch_shows_history_and_changes(facade: Facade, ctl: Etcdctl) -> None:
    revision = await facade.admin.put(f"{ROOT}0".encode(), b"from history")
    process = await ctl.start("watch", "--prefix", ROOT, "--rev", str(revision))
    assert process.stdout is not None
    async with asyncio.timeout(10):
        assert [await process.stdout.readline() for _ in range(3)] == [
            b"PUT\n",
            f"{ROOT}0\n".encode(),
            b"from history\n",
        ]
        await facade.admin.apply({f"{ROOT}1".encode(): None})
        assert [await process.stdout.readline() for _ in range(2)] == [b"DELETE\n", f"{ROOT}1\n".encode()]
    process.kill()
    await process.communicate()


async def test_a_revoked_watch_is_told_so(facade: Facade, ctl: Etcdctl) -> None:
    process = await ctl.start("watch", "--prefix", ROOT, "--rev", "2")
    assert process.stdout is not None
    async with asyncio.timeout(10):
        await process.stdout.readline()
        facade.facade.revoke("remote-south")
        _, err = await process.communicate()
    assert b"permission denied" in err
    assert process.returncode != 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("put", f"{ROOT}0", "x"),
        ("del", "--prefix", ROOT),
        ("get", "--prefix", "cilium/state"),
        ("get", "--prefix", ""),
        ("compact", "2"),
        ("lease", "grant", "60"),
        ("lease", "list"),
        ("alarm", "list"),
        ("alarm", "disarm"),
        ("member", "list"),
        ("user", "list"),
        ("defrag",),
        ("endpoint", "status"),
        ("snapshot", "save", "/dev/null"),
    ],
    ids=" ".join,
)
async def test_everything_else_is_denied(ctl: Etcdctl, arguments: tuple[str, ...]) -> None:
    code, out, err = await ctl.run("--command-timeout=3s", *arguments)
    assert code != 0
    assert "permission denied" in out + err


async def test_the_facade_counts_as_healthy(ctl: Etcdctl) -> None:
    code, out, err = await ctl.run("endpoint", "health")
    assert code == 0
    assert "is healthy" in out + err
