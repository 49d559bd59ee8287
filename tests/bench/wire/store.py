# SPDX-License-Identifier: Apache-2.0
"""A cluster's etcd as in production: managed by us, client certificates, roles; and connection files for its users."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from certs import profile
from certs.authority import Authority
from clustermesh_apiserver.serve.access import mesh_roles
from kvstore.auth import ensure_auth
from kvstore.clientconfig import parse_client_config
from kvstore.etcd import EtcdStore
from kvstore.process import EtcdCertificates, EtcdProcess, EtcdSettings

PEER = "north"
WALL_S = time.time()
TIMINGS = EtcdSettings(heartbeat_ms=20, election_ms=200)  # as the apiserver starts it


@dataclass
class Store:
    """One running etcd of one cluster."""

    cluster: str
    directory: Path
    authority: Authority
    process: EtcdProcess = field(init=False)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def connection(
        self,
        user: str,
        name: str = "",
        *,
        port: int = 0,
        authority: Authority | None = None,
        folder: Path | None = None,
    ) -> str:
        """A connection file for this user, in the form the command writes for agents; returns its path."""
        where = folder or self.directory / "connections"
        where.mkdir(parents=True, exist_ok=True)
        issued = (authority or self.authority).issue(profile.Profile(user), WALL_S)
        host = f"{self.cluster}.{profile.MESH_DOMAIN}"
        path = where / (name or user)
        document: dict[str, object] = {"endpoints": [f"https://{host}:{port or self.process.port}"]}
        pems = {
            "trusted-ca-file": self.authority.certificate_pem,
            "cert-file": issued.cert_pem,
            "key-file": issued.key_pem,
        }
        for key, pem in pems.items():
            file = where / f".{path.name}.{key}"
            file.write_bytes(pem)
            document[key] = str(file)
        document["cilium-host-aliases"] = [{"hostname": host, "ips": ["127.0.0.1"]}]
        path.write_text(yaml.safe_dump(document))
        return str(path)


@asynccontextmanager
async def store(directory: Path, cluster: str) -> AsyncIterator[Store]:
    """An empty etcd with the mesh's roles and users, gone afterwards."""
    authority = Authority.create(f"{cluster} mesh CA", WALL_S, 10)
    server = authority.issue(profile.server(cluster, "kube-system"), WALL_S)
    admin = authority.issue(profile.admin(cluster), WALL_S)
    made = EtcdCertificates(authority.certificate_pem, server.cert_pem, server.key_pem, admin.cert_pem, admin.key_pem)
    found = Store(cluster, directory, authority)
    found.process = EtcdProcess(directory / "etcd", made, TIMINGS)
    await found.process.start()
    try:
        backend = found.process.connect()
        users = {profile.admin_user(cluster): "root", profile.local_user(cluster): "local"}
        users |= {profile.remote_user(PEER): "remote"}
        await ensure_auth(backend, mesh_roles(cluster), users)
        await backend.close()
        yield found
    finally:
        await found.process.kill()


def connect(connection: str) -> EtcdStore:
    """A client with the options our programs use."""
    path = Path(connection)
    return parse_client_config(path.read_bytes(), path.parent).connect()
