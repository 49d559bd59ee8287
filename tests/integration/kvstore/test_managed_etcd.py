# SPDX-License-Identifier: Apache-2.0
"""The private etcd: how it starts, stops, dies with us, and whom it lets in."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from clustermesh_apiserver.serve.access import mesh_roles
from kvstore.auth import Role, ensure_auth
from kvstore.errors import Denied, KvError, Rejected, Unavailable
from kvstore.etcd import EtcdStore
from kvstore.options import Options
from kvstore.process import EtcdProcess, EtcdSettings
from tests.integration.kvstore.private_etcd import FAST_ELECTIONS, QUICK, Pki, eventually, needs_etcd, running_etcd

pytestmark = needs_etcd

USERS = {"admin-north": "root", "remote-south": "remote", "local-north": "local"}


def is_gone(pid: int) -> bool:
    """True if no such process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def command_line(pid: int) -> str:
    """What everybody on the machine can see of it."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def listening_addresses(pid: int) -> set[str]:
    """The addresses a process listens on, as the kernel writes them (0100007F is 127.0.0.1)."""
    opened = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.add(link.readlink().name)
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in opened:
                found.add(local.split(":")[0])
    return found


async def test_every_start_is_an_empty_store_with_its_own_id(tmp_path: Path) -> None:
    async with running_etcd(tmp_path, Pki()) as etcd:
        client = etcd.connect(QUICK)
        await client.put(b"a", b"1")
        first, port = await client.status(), etcd.port
        await client.close()
        await etcd.stop()
        await etcd.start()
        assert etcd.port == port, "clients find the way back"
        client = etcd.connect(QUICK)
        second = await client.status()
        assert await client.get(b"a") is None
        assert second.cluster_id != first.cluster_id
        await client.close()


async def test_data_survives_when_it_is_meant_to(tmp_path: Path) -> None:
    async with running_etcd(tmp_path, Pki()) as etcd:
        client = etcd.connect(QUICK)
        await client.put(b"a", b"1")
        first = await client.status()
        await client.close()
        await etcd.kill()
        await etcd.start(keep_data=True)
        client = etcd.connect(QUICK)
        assert (await client.get(b"a")) is not None
        assert (await client.status()).cluster_id == first.cluster_id
        await client.close()


async def test_it_listens_on_loopback_and_its_files_are_private(tmp_path: Path) -> None:
    async with running_etcd(tmp_path, Pki()) as etcd:
        assert etcd.target.startswith("127.0.0.1:")
        assert etcd.pid is not None
        assert listening_addresses(etcd.pid) == {"0100007F"}
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
        assert "PRIVATE KEY" not in command_line(etcd.pid)


async def test_a_client_without_a_certificate_of_ours_gets_nothing(tmp_path: Path) -> None:
    pki = Pki()
    async with running_etcd(tmp_path, pki) as etcd:
        stranger = EtcdStore([etcd.target], pki.tls("admin-north", pki.south), Options(call_timeout_s=1.0))
        with pytest.raises(Unavailable):
            await stranger.get(b"a")
        await stranger.close()


async def test_a_start_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    process = EtcdProcess(tmp_path, Pki().etcd, EtcdSettings(extra=("--no-such-flag",)))
    with pytest.raises(Unavailable, match="no-such-flag"):
        await process.start()
    assert process.pid is None


async def test_run_ends_with_the_log_when_etcd_dies_and_stops_it_when_cancelled(tmp_path: Path) -> None:
    etcd = EtcdProcess(tmp_path, Pki().etcd, FAST_ELECTIONS)
    task = asyncio.create_task(etcd.run())
    await etcd.ready.wait()
    os.kill(etcd.pid or 0, signal.SIGKILL)
    with pytest.raises(Unavailable, match="etcd ended with"):
        await task
    task = asyncio.create_task(etcd.run())
    await etcd.ready.wait()
    assert etcd.starts == 2
    pid = etcd.pid
    task.cancel()
    await asyncio.wait([task])
    assert is_gone(pid or 0)


PARENT = """
import asyncio, pathlib, sys
from kvstore.process import EtcdProcess
from tests.integration.kvstore.private_etcd import FAST_ELECTIONS, Pki
async def main():
    etcd = EtcdProcess(pathlib.Path(sys.argv[1]), Pki().etcd, FAST_ELECTIONS)
    await etcd.start()
    print(etcd.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_etcd_dies_with_its_parent_even_when_that_is_killed(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), stdout=asyncio.subprocess.PIPE, cwd=Path.cwd()
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert not is_gone(pid)
    parent.kill()
    await parent.wait()

    await eventually(lambda: is_gone(pid), "etcd must not be left behind")


async def test_users_read_what_their_role_says_and_write_nothing(tmp_path: Path) -> None:
    pki = Pki()
    async with running_etcd(tmp_path, pki) as etcd:
        admin = etcd.connect(QUICK)
        await ensure_auth(admin, mesh_roles("north"), USERS)
        for key in (b"cilium/state/a", b"cilium/cache/a", b"cilium/cluster-config/north", b"cilium/.heartbeat", b"x"):
            await admin.put(key, b"1")
        await admin.put(b"cilium/cluster-config/south", b"1")
        await admin.put(b"clustermesh/private/ip/v1/default/10.1.0.9", b"1")
        allowed = {
            "remote-south": {b"cilium/state/a", b"cilium/cluster-config/north", b"cilium/.heartbeat"},
            "local-north": {
                b"cilium/state/a",
                b"cilium/cache/a",
                b"cilium/cluster-config/north",
                b"cilium/cluster-config/south",
                b"cilium/.heartbeat",
                b"clustermesh/private/ip/v1/default/10.1.0.9",
            },
            "remote-west": set(),
        }
        for user, readable in allowed.items():
            client = EtcdStore([etcd.target], pki.tls(user), QUICK)
            for key in allowed["local-north"] | {b"x"}:
                if key in readable:
                    assert await client.get(key) is not None, (user, key)
                else:
                    with pytest.raises(Denied):
                        await client.get(key)
                with pytest.raises(Denied):
                    await client.put(key, b"2")
            await client.close()
        await admin.close()


async def test_users_and_roles_are_made_equal_to_what_is_wanted(tmp_path: Path) -> None:
    pki = Pki()
    async with running_etcd(tmp_path, pki) as etcd:
        admin = etcd.connect(QUICK)
        old = (Role("remote", prefixes=(b"old/",), keys=(b"single",)), Role("local", prefixes=(b"cilium/",)))
        await ensure_auth(admin, old, {**USERS, "remote-west": "remote", "remote-south": "local"})
        await ensure_auth(admin, mesh_roles("north"), USERS)
        await ensure_auth(admin, mesh_roles("north"), USERS)
        await admin.put(b"old/a", b"1")
        south = EtcdStore([etcd.target], pki.tls("remote-south"), QUICK)
        with pytest.raises(Denied):
            await south.get(b"old/a")
        with pytest.raises(Denied):
            await south.get(b"cilium/cache/a")
        assert await south.get(b"cilium/state/a") is None
        west = EtcdStore([etcd.target], pki.tls("remote-west"), QUICK)
        with pytest.raises(Denied):
            await west.get(b"cilium/state/a")
        for client in (south, west, admin):
            await client.close()


async def test_calls_go_on_while_users_are_edited(tmp_path: Path) -> None:
    """etcd refuses calls that began before an edit ended; nothing was applied, so they are repeated unseen."""
    pki = Pki()
    async with running_etcd(tmp_path, pki) as etcd:
        admin = etcd.connect(QUICK)
        await ensure_auth(admin, mesh_roles("north"), USERS)
        writer = etcd.connect(QUICK)

        async def write() -> int:
            for number in range(300):
                await writer.put(b"cilium/state/a", b"%d" % number)
            return 300

        async def edit() -> None:
            for number in range(15):
                await ensure_auth(admin, mesh_roles("north"), {**USERS, f"remote-c{number}": "remote"})

        written, _ = await asyncio.gather(write(), edit())
        assert written == 300
        await writer.close()
        await admin.close()


async def test_a_value_that_etcd_refuses_is_told_apart_from_a_failure(tmp_path: Path) -> None:
    async with running_etcd(tmp_path, Pki()) as etcd:
        client = etcd.connect(QUICK)
        with pytest.raises(Rejected):
            await client.put(b"a", b"x" * (3 << 20))
        await client.close()
        with pytest.raises(KvError):
            await client.get(b"a")
