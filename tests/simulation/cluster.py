# SPDX-License-Identifier: Apache-2.0
"""One simulated cluster: its Kubernetes, its store, its nodes, and the programs that run now."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kube.resource import CONFIG_MAPS, NAMESPACES, NODES, SERVICE_CIDRS, KubeObject
from kvstore.memoryserver import MemoryServer, StoreBackup
from meshapi import installed
from tests.simulation.clock import ProcessClock
from tests.simulation.controllers import Controllers
from tests.simulation.credentials import Credential, Credentials, Signer, Trust
from tests.simulation.kube_server import KubeServer
from tests.simulation.loop import SimulatedLoop
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.programs import AgentProcess, ApiserverProcess
from tests.simulation.store_link import Access

SERVICE_PREFIX: Final = "10.10"
"""Followed by the number of the cluster: the first two numbers of its services' addresses."""
OWN: Final = "own."
PEERS: Final = "peers"
MIRROR: Final = "mirror"
FROM_BACKUP: Final = b"(from a backup)"
BUMP: Final = 1_000_000_000
"""How far the revision of a store is brought forward that is put back under its old id: what etcd advises. A backup that is put
back again is brought forward by as much more, for readers have seen the revisions of the first time.
"""
MakeProcess = Callable[[str], Process]
FindStore = Callable[[str], MemoryServer]


class Node:
    """`pod_cidr` is what its pods' addresses are of, `first_ip` the address that it was installed with. `agent` is None between a
    crash and the restart.
    """

    def __init__(self, name: str, ip: str, pod_cidr: str) -> None:
        self.name, self.ip, self.first_ip, self.pod_cidr = name, ip, ip, pod_cidr
        self.machine = Machine()
        self.agent: AgentProcess | None = None
        self.last_host = 1

    def manifest(self) -> dict[str, object]:
        return {
            "metadata": {"name": self.name},
            "spec": {"podCIDR": self.pod_cidr, "podCIDRs": [self.pod_cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": self.ip}]},
        }


class Cluster:
    """`number` is its id in the mesh; its networks are made of it."""

    def __init__(
        self,
        name: str,
        number: int,
        nodes: int,
        loop: SimulatedLoop,
        rng: random.Random,
        folder: Path,
        credentials: Credentials,
    ) -> None:
        self.name, self.id, self.folder, self._credentials = name, number, folder, credentials
        credentials.join(name)
        self.kube = KubeServer(loop)
        self.store = MemoryServer(ProcessClock(loop))
        self.service_network = f"{SERVICE_PREFIX}{number}"
        self.nodes = {
            f"{name}-{i}": Node(f"{name}-{i}", f"172.18.{number}.{i + 1}", f"10.{number}.{i}.0/24")
            for i in range(nodes)
        }
        self.controllers = Controllers(self.kube, self.nodes, loop, rng)
        self.apiserver: ApiserverProcess | None = None
        self.peers: set[str] = set()
        self.tampered: set[bytes] = set()
        """Keys of records that were put there by hand, and FROM_BACKUP: for a while peers are told what is not so."""
        self.backup: StoreBackup | None = None
        self._bump = 0

    def install(self) -> None:
        """What exists before the first program runs: nodes, namespaces and what `enable` writes."""
        for name in ("default", installed.DEFAULT_NAMESPACE):
            self.kube.apply(NAMESPACES, {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})
        for node in self.nodes.values():
            self.kube.apply(NODES, node.manifest())
        data = {
            installed.CLUSTER_NAME_KEY: self.name,
            installed.CLUSTER_ID_KEY: str(self.id),
            installed.MAXIMUM_KEY: "255",
        }
        meta = {"name": installed.CONFIG_MAP, "namespace": installed.DEFAULT_NAMESPACE}
        self.kube.apply(CONFIG_MAPS, {"metadata": meta, "data": data})
        cidr = {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [f"{self.service_network}.0.0/16"]}}
        self.kube.apply(SERVICE_CIDRS, cidr)
        for sub in (PEERS, MIRROR, "data"):
            (self.folder / sub).mkdir(parents=True)
        (self.folder / "own-store.yaml").write_text(f"endpoints: [http://own.{self.name}:2379]\n")

    def has_namespace(self, manifest: KubeObject) -> bool:
        """Whether an object can be there: those of no namespace always can."""
        namespace = manifest["metadata"].get("namespace")
        return not namespace or self.kube.store.get(NAMESPACES, namespace) is not None

    def set_peer(self, name: str, *, is_peer: bool) -> None:
        """As `connect` and `disconnect` leave the files: the mirror follows the peer, agents read the mirror's copy."""
        mirror, agents = self.folder / MIRROR / name, self.folder / PEERS / name
        if is_peer:
            files = self._credentials.write(mirror.parent, self.name, name)
            mirror.write_text(f"endpoints: [https://peer.{name}:2379]\n{files}")
            agents.write_text(f"endpoints: [http://own.{self.name}:2379]\n")
        else:
            mirror.unlink(missing_ok=True)
            agents.unlink(missing_ok=True)
        (self.peers.add if is_peer else self.peers.discard)(name)
        self._touch(MIRROR, PEERS)

    def set_credential(self, peer: str, credential: Credential) -> None:
        """From now on these files are shown to the peer by whoever connects anew; connections that stand go on."""
        self._credentials.files[self.name, peer] = credential
        self.write_credentials()

    def set_trust(self, peer: str, trust: Trust) -> None:
        """These authorities of the peer are believed: by who reads its store, and by the own store."""
        self._credentials.trust[self.name, peer] = trust
        self.write_credentials()

    def sign(self, signer: Signer) -> None:
        """The own certificates, of the store and towards peers, are issued by this authority."""
        self._credentials.signers[self.name] = signer
        self.write_credentials()

    def write_credentials(self) -> None:
        """The files for every peer are as they should be now."""
        for peer in sorted(self.peers):
            self._credentials.write(self.folder / MIRROR, self.name, peer)
        self._touch(MIRROR)

    def put_back(self, backup: StoreBackup, *, keep_id: bool) -> None:
        """The store is what it was when the backup was taken."""
        self._bump += BUMP if keep_id else 0
        self.store.restore(backup, keep_id=keep_id, bump=self._bump if keep_id else 0)
        self.tampered.add(FROM_BACKUP)

    def _touch(self, *directories: str) -> None:
        for process in self.processes():
            for sub in directories:
                process.touched(self.folder / sub)

    def processes(self) -> list[Process]:
        """Those that run."""
        found = [node.agent.process for node in self.nodes.values() if node.agent is not None]
        return found + ([self.apiserver.process] if self.apiserver is not None else [])

    def start_agent(self, node: Node, make: MakeProcess, find_store: FindStore) -> None:
        process = make(node.name)
        node.agent = AgentProcess(process)
        client = process.kube(self.name, self.kube)
        outside = process.outside(
            lambda host: (find_store(host), Access.AGENT if host.startswith(OWN) else Access.PEER)
        )
        node.agent.start(node.machine, client, outside, node.name, self.folder)

    def start_apiserver(self, make: MakeProcess, find_store: FindStore) -> None:
        process = make(f"{self.name}-apiserver")
        self.apiserver = ApiserverProcess(process)
        client = process.kube(self.name, self.kube)
        outside = process.outside(
            lambda host: (find_store(host), Access.ADMINISTRATOR if host.startswith(OWN) else Access.PEER)
        )
        self.apiserver.start(self.name, self.id, client, outside, self.folder)
