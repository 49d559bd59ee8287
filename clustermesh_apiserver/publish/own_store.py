# SPDX-License-Identifier: Apache-2.0
"""The etcd that holds what we say: a private one of ours, or one that others run. Peers never reach either."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from certs import profile
from certs.authority import Authority
from clustermesh_apiserver.settings import ApiserverSettings
from kvstore.clientconfig import ClientConfig, parse_client_config
from kvstore.errors import Denied, KvError, Rejected, Unavailable
from kvstore.etcd import EtcdStore
from kvstore.process import EtcdCertificates, EtcdProcess, EtcdSettings
from kvstore.store import Status
from kvstore.upkeep import Caretaker
from kvstore.version import fixed_releases, holds_roles
from meshkit.atomic import write_atomic
from meshkit.clock import Clock
from meshpeer.outside import Dial

log = logging.getLogger(__name__)

ELECTION_MS: Final = (20, 200)
VALID_FROM_S: Final = 0.0
CERTIFICATE_DAYS: Final = 73_000.0
LOOK_S: Final = 5.0
SILENT_S: Final = 30.0


@dataclass(slots=True)
class OwnStore:
    """The open store; `status` is what it last said of itself, None before it was asked.

    `problem` says why records are not taken, or will not be before long; `is_silent` that it does not answer at all.
    `warnings` are what an operator should know and what stops nothing.
    """

    client: EtcdStore
    process: EtcdProcess | None = None
    caretaker: Caretaker | None = None
    status: Status | None = None
    problem: str = ""
    is_silent: bool = False
    warnings: tuple[str, ...] = ()


@asynccontextmanager
async def open_store(settings: ApiserverSettings, dial: Dial = ClientConfig.connect) -> AsyncIterator[OwnStore]:
    """An etcd that answers, as its administrator.

    Raises: KvError if it does not come up; Rejected if the configuration file cannot be used.
    """
    if settings.etcd_config:
        path = Path(settings.etcd_config)
        config = parse_client_config(await asyncio.to_thread(path.read_bytes), path.parent)
        store = OwnStore(dial(config, None, None))
        try:
            yield store
        finally:
            await store.client.close()
        return
    process = _private_etcd(settings)
    await process.start()
    client = process.connect()
    store = OwnStore(client, process=process, caretaker=Caretaker(client, process.quota_bytes))
    try:
        yield store
    finally:
        await store.client.close()
        await process.stop()


async def watch_store(store: OwnStore) -> None:
    """Raises Unavailable when our private etcd ends; an etcd of others is only waited for."""
    if store.process is not None:
        await store.process.run()
    await asyncio.Event().wait()


async def care_for_store(store: OwnStore, clock: Clock) -> None:
    """`status`, `problem` and `warnings` say how the store is, looked at every few seconds; never returns.

    A private etcd that runs full is compacted, defragmented and disarmed. Raises: Unavailable when a private etcd has
    been silent for `SILENT_S`, so that it is started again; an etcd of others is only waited for.
    """
    heard_at = clock.monotonic()
    while True:
        if await look_at_store(store, clock.monotonic()):
            heard_at = clock.monotonic()
        elif store.process is not None and clock.monotonic() - heard_at >= SILENT_S:
            raise Unavailable(f"etcd has not answered for {SILENT_S:.0f} s, starting it again")
        await clock.sleep(LOOK_S)


async def look_at_store(store: OwnStore, now: float) -> bool:
    """False if the store did not answer; else `status`, `problem` and `warnings` are of now."""
    try:
        if store.caretaker is not None:
            store.status, store.problem = await store.caretaker.look(now), store.caretaker.problem
        else:
            store.status = await store.client.status()
            alarms = ", ".join(store.status.alarms)
            store.problem = f"etcd raised an alarm, which who runs it has to clear: {alarms}" if alarms else ""
    except (KvError, Denied, Rejected) as exc:
        store.problem, store.is_silent = f"etcd does not answer: {exc}", True
        return False
    store.is_silent = False
    store.warnings = () if holds_roles(store.status.version) else (_bypasses(store.status.version),)
    return True


def _bypasses(version: str) -> str:
    return (
        f"etcd {version} lets readers write and compact (fixed in {fixed_releases()}); "
        "peers only reach the read-only facade, keep etcd itself unreachable for them"
    )


def make_private_certificates(cluster: str, namespace: str) -> EtcdCertificates:
    """Of an authority that lives as long as this program and signs nothing else.

    They are valid whatever this machine's clock says: it may be set right while the program runs, and nobody renews them.
    """
    authority = Authority.create("clustermesh private etcd", VALID_FROM_S, CERTIFICATE_DAYS)
    server, admin = (
        authority.issue(replace(shape, days=CERTIFICATE_DAYS), VALID_FROM_S)
        for shape in (profile.server(cluster, namespace), profile.admin(cluster))
    )
    return EtcdCertificates(
        ca=authority.certificate_pem,
        server_cert=server.cert_pem,
        server_key=server.key_pem,
        admin_cert=admin.cert_pem,
        admin_key=admin.key_pem,
    )


def _private_etcd(settings: ApiserverSettings) -> EtcdProcess:
    made = make_private_certificates(settings.cluster_name, settings.namespace)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in (("admin.crt", made.admin_cert), ("admin.key", made.admin_key)):
        write_atomic(settings.data_dir / name, content, 0o600)  # for etcdctl inside the pod
    chosen = EtcdSettings(
        binary=settings.etcd_binary,
        heartbeat_ms=ELECTION_MS[0],
        election_ms=ELECTION_MS[1],
        quota_bytes=settings.etcd_quota_mib << 20,
    )
    return EtcdProcess(settings.data_dir, made, chosen)
