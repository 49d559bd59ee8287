# SPDX-License-Identifier: Apache-2.0
"""The etcd that holds what we say: a private one of ours, or one that others run. Peers never reach either."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from certs import profile
from certs.authority import Authority
from clustermesh_apiserver.settings import Settings
from kvstore.clientconfig import parse_client_config
from kvstore.errors import KvError
from kvstore.etcd import EtcdStore
from kvstore.process import EtcdCertificates, EtcdProcess, EtcdSettings
from kvstore.store import Status
from kvstore.version import fixed_releases, holds_roles
from meshkit.atomic import write_atomic
from meshkit.clock import SystemClock

log = logging.getLogger(__name__)

ELECTION_MS: Final = (20, 200)
CERTIFICATE_DAYS: Final = 3650


@dataclass(slots=True)
class OwnStore:
    """The open store; `status` is what it last said of itself, None before it was asked."""

    client: EtcdStore
    process: EtcdProcess | None = None
    status: Status | None = None
    problems: list[str] = field(default_factory=list)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[OwnStore]:
    """An etcd that answers, as its administrator.

    Raises: KvError if it does not come up; Rejected if the configuration file cannot be used.
    """
    if settings.etcd_config:
        path = Path(settings.etcd_config)
        store = OwnStore(parse_client_config(await asyncio.to_thread(path.read_bytes), path.parent).connect())
        try:
            yield store
        finally:
            await store.client.close()
        return
    process = _private_etcd(settings)
    await process.start()
    store = OwnStore(process.connect(), process=process)
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


async def check_store(store: OwnStore) -> None:
    """`status` and `problems` say how the store is."""
    try:
        store.status = await store.client.status()
    except KvError as exc:
        store.problems = [f"etcd does not answer: {exc}"]
        return
    store.problems = [f"etcd alarm: {alarm}" for alarm in store.status.alarms]
    if not holds_roles(store.status.version):
        store.problems.append(
            f"etcd {store.status.version} lets readers write and compact (fixed in {fixed_releases()}); "
            "peers only reach the read-only facade, keep etcd itself unreachable for them"
        )


def _private_etcd(settings: Settings) -> EtcdProcess:
    """Its certificates are of an authority that lives as long as this program and signs nothing else."""
    wall_s = SystemClock().wall()
    authority = Authority.create("clustermesh private etcd", wall_s, CERTIFICATE_DAYS)
    server = authority.issue(profile.server(settings.cluster_name, settings.namespace), wall_s)
    admin = authority.issue(profile.admin(settings.cluster_name), wall_s)
    made = EtcdCertificates(
        ca=authority.certificate_pem,
        server_cert=server.cert_pem,
        server_key=server.key_pem,
        admin_cert=admin.cert_pem,
        admin_key=admin.key_pem,
    )
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in (("admin.crt", made.admin_cert), ("admin.key", made.admin_key)):
        write_atomic(settings.data_dir / name, content, 0o600)  # for etcdctl inside the pod
    timings = EtcdSettings(binary=settings.etcd_binary, heartbeat_ms=ELECTION_MS[0], election_ms=ELECTION_MS[1])
    return EtcdProcess(settings.data_dir, made, timings)
