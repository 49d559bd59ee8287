# SPDX-License-Identifier: Apache-2.0
"""A private etcd run by one of our programs: on loopback, client certificates only, a new store at every start."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from kvstore.errors import Denied, KvError, Unavailable
from kvstore.etcd import EtcdStore
from kvstore.options import Options, Tls
from meshkit.atomic import write_atomic

log = logging.getLogger(__name__)

LOG_LINES: Final = 50
STOP_TIMEOUT_S: Final = 5.0
START_TIMEOUT_S: Final = 30.0
SERVING: Final = "serving client traffic securely"
NAME: Final = "clustermesh"
LOOPBACK_BACKOFF_S: Final = 0.5
DEFAULT_QUOTA_BYTES: Final = 2 << 30
# an hour of history would be Cilium's choice; by revisions it stays bounded whatever the rate is
DEFAULT_RETAINED_REVISIONS: Final = 10_000


@dataclass(frozen=True, slots=True)
class EtcdCertificates:
    """PEM texts: what the server shows, which clients it lets in, and our own admin client."""

    ca: bytes
    server_cert: bytes
    server_key: bytes
    admin_cert: bytes
    admin_key: bytes

    def __repr__(self) -> str:
        return "EtcdCertificates(...)"


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """How the process runs; the timings are etcd's own unless a test wants faster elections."""

    binary: str = "etcd"
    address: str = "127.0.0.1"
    heartbeat_ms: int = 100
    election_ms: int = 1000
    quota_bytes: int = DEFAULT_QUOTA_BYTES
    retained_revisions: int = DEFAULT_RETAINED_REVISIONS
    extra: tuple[str, ...] = ()


class EtcdProcess:
    """One etcd child process. It dies with us; its data is a cache of Kubernetes and is emptied at every start,
    with a new cluster token, so that readers can tell the new store from the old one. `ready` is set while it serves.
    """

    def __init__(self, directory: Path, certificates: EtcdCertificates, settings: EtcdSettings | None = None) -> None:
        self._directory, self._certificates = directory, certificates
        self._settings = settings or EtcdSettings()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._serving: asyncio.Future[int] | None = None
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self.ready = asyncio.Event()
        self.port = 0
        self.starts = 0

    @property
    def target(self) -> str:
        """Where clients connect, "host:port"."""
        return f"{self._settings.address}:{self.port}"

    @property
    def quota_bytes(self) -> int:
        """How large its file may become before it takes no writes."""
        return self._settings.quota_bytes

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def log_tail(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self._log)

    def connect(self, options: Options | None = None) -> EtcdStore:
        """A client of the process as its admin; on loopback it may look again often while etcd restarts."""
        return EtcdStore([self.target], self.admin_tls(), options or Options(backoff_maximum_s=LOOPBACK_BACKOFF_S))

    def admin_tls(self) -> Tls:
        """Our own client's certificates."""
        made = self._certificates
        return Tls(made.ca, made.admin_cert, made.admin_key)

    async def start(self, *, keep_data: bool = False) -> None:
        """It serves; the store is empty unless `keep_data`.

        Raises: Unavailable with the end of its log if it does not come up.
        """
        if self.pid is not None:
            raise RuntimeError("etcd is running already")
        await asyncio.to_thread(self._prepare, keep_data=keep_data)
        self._log.clear()
        self.starts += 1
        self._serving = asyncio.get_running_loop().create_future()
        self._process = await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self._reader = asyncio.create_task(self._read_log(self._process, self._serving), name="etcd log")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self.port = await self._serving
                await self._wait_healthy()
        except (TimeoutError, KvError) as exc:
            await self.kill()
            raise Unavailable(f"etcd did not start: {self.log_tail[-2000:]}") from exc
        except BaseException:
            await self.kill()
            raise
        self.ready.set()
        log.info("etcd started", extra={"endpoint": self.target})

    async def wait(self) -> int:
        """It has ended; returns its exit code."""
        if self._process is None:
            raise RuntimeError("etcd was never started")
        return await self._process.wait()

    async def run(self) -> None:
        """Serves until cancelled, then is stopped.

        Raises: Unavailable with the end of its log when it ends by itself, so that a supervisor starts it again.
        """
        try:
            if self.pid is None:
                await self.start()
            code = await self.wait()
            self.ready.clear()
            raise Unavailable(f"etcd ended with {code}: {self.log_tail[-2000:]}")
        finally:
            await self.stop()

    async def stop(self) -> None:
        """It has ended: asked first, killed after a while."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """It has ended, at once."""
        await self._end(signal.SIGKILL)

    async def _end(self, how: signal.Signals) -> None:
        process = self._process
        self.ready.clear()
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reader is not None:
            await asyncio.wait([self._reader])
        self._process = self._reader = None

    def _prepare(self, *, keep_data: bool) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = self._directory / "data"
        if not keep_data:
            shutil.rmtree(data, ignore_errors=True)
            write_atomic(self._directory / "token", uuid.uuid4().hex.encode(), 0o600)
        data.mkdir(mode=0o700, exist_ok=True)
        made = self._certificates
        for name, content in (("ca.crt", made.ca), ("server.crt", made.server_cert), ("server.key", made.server_key)):
            write_atomic(self._directory / name, content, 0o600)

    def _command(self) -> Sequence[str]:
        settings, directory = self._settings, self._directory
        # the system chooses the port once; a restart keeps it, so that clients find the way back
        client, peer = f"https://{settings.address}:{self.port}", f"http://{settings.address}:0"
        # setpriv makes the kernel end etcd when we are killed, whatever the way
        guard = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
        return (
            *guard,
            settings.binary,
            *("--name", NAME, "--data-dir", str(directory / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"{NAME}={peer}"),
            *("--initial-cluster-token", (directory / "token").read_text()),
            *("--cert-file", str(directory / "server.crt"), "--key-file", str(directory / "server.key")),
            *("--client-cert-auth", "--trusted-ca-file", str(directory / "ca.crt")),
            *("--logger", "zap", "--log-level", "info"),
            *("--auto-compaction-mode", "revision"),
            *("--auto-compaction-retention", str(settings.retained_revisions)),
            *("--quota-backend-bytes", str(settings.quota_bytes)),
            # what a power cut would lose is emptied at the next start anyway
            "--unsafe-no-fsync",
            *("--heartbeat-interval", str(settings.heartbeat_ms), "--election-timeout", str(settings.election_ms)),
            *settings.extra,
        )

    async def _read_log(self, process: asyncio.subprocess.Process, serving: asyncio.Future[int]) -> None:
        if process.stderr is None:
            raise RuntimeError("etcd was started without a log")
        async for line in process.stderr:
            text = line.decode("utf-8", "replace").rstrip()
            self._log.append(text[:1000])
            if SERVING in text and not serving.done():
                serving.set_result(_port(text))
        if not serving.done():
            serving.set_exception(Unavailable("etcd ended before it served"))

    async def _wait_healthy(self) -> None:
        client = self.connect(Options(call_timeout_s=1.0))
        try:
            while True:
                try:
                    await client.status()
                    await client.get(b"\0")
                    return
                except Denied:
                    return  # it answers; users and roles are set up already
                except KvError:
                    if self.pid is None:
                        raise
                    await asyncio.sleep(0.02)
        finally:
            await client.close()


def _port(line: str) -> int:
    try:
        return int(str(msgspec.json.decode(line)["address"]).rpartition(":")[2])
    except (ValueError, KeyError, TypeError) as exc:
        raise Unavailable(f"cannot read etcd's port from its log: {line[:200]}") from exc
