# SPDX-License-Identifier: Apache-2.0
"""One run of the program: who is asked, and every door at which flows are served."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from certs.errors import CertificateError
from certs.pair import check_pair
from certs.profile import names_another_cluster
from flows.listener import ServerCertificates
from flows.methods import PeerFacts
from flows.relay_server import RelayServer
from flows.remote import ClientCertificates
from flows.streams import FlowStreams
from kube.client import KubeClient
from kube.review import AccessReviewer
from meshapi.installed import CA_SUFFIX, TOKEN_AUDIENCE, TOKEN_HEADER
from meshkit.clock import Clock, SystemClock
from meshkit.guard import Guard
from meshkit.health import Health
from meshkit.http import bind_unix, probes, serve
from meshkit.probe_server import serve_probes
from meshkit.supervise import together
from meshkit.version import program_version
from relay.api import make_api
from relay.links import ObserverLinks
from relay.mesh import FlowMesh
from relay.metrics import make_registry
from relay.nodes import Namespaces, Nodes
from relay.peers import PeerDoor, read_peers
from relay.programs import Programs
from relay.settings import RelaySettings

log = logging.getLogger(__name__)

SWEEP_S: Final = 1.0
MOST_OF_A_PEER: Final = 16
RETRY_S: Final = 2.0


class FlowRelay:
    """The parts of a run, and the task of each."""

    def __init__(self, settings: RelaySettings, client: KubeClient, clock: Clock | None = None) -> None:
        self._settings, self._client, self._clock = settings, client, clock or SystemClock()
        self.observers = ObserverLinks(lambda _: read_client_certificates(settings.certificates), self._clock)
        self.nodes = Nodes(settings.cluster_name, settings.flow_port, self._nodes_changed)
        self.namespaces = Namespaces(default_global=settings.default_global_namespace)
        self.peers = ObserverLinks(self._peer_certificates, self._clock)
        self.mesh = FlowMesh(
            settings.cluster_name,
            self.observers,
            self.peers,
            nodes=self.nodes,
            programs=Programs(settings),
            clock=self._clock,
        )
        self.streams, self.peer_streams = FlowStreams(), FlowStreams(most_of_one=MOST_OF_A_PEER)
        self.door = PeerDoor(
            self.mesh, settings.ca_bundle_dir, settings.grants_dir, self.namespaces.is_shared, self._clock
        )
        self.health = Health()
        self.health.starting("nodes", "not listed yet")

    async def run(self) -> None:
        """Until cancelled. Raises: OSError when an address or the socket cannot be bound."""
        settings, clock = self._settings, self._clock
        app = make_api(self.mesh, self.health, make_registry(self.mesh, self.streams))
        admit = AccessReviewer(self._client, TOKEN_AUDIENCE, clock).admit
        guarded = Guard(app, admit, headers=(TOKEN_HEADER,), clock=clock)
        answers = probes(self.health, self.health.ready)
        await together(
            {
                "nodes": self.nodes.run(self._client),
                "namespaces": self.namespaces.run(self._client),
                "files of peers": self._follow_peers(),
                "flows for peers": self._serve_peers(),
                "observers": self.observers.run(),
                "peers": self.peers.run(),
                "stalled readers": self._sweep(),
                "flows": self._serve_flows(),
                "rest": serve(guarded, settings.listen_address, settings.http_port),
                "rest on the socket": serve(app, sockets=[bind_unix(settings.http_socket)]),
                "probes": serve_probes(settings.listen_address, settings.probe_port, answers),
            }
        )

    def _nodes_changed(self) -> None:
        self.observers.set_targets(self.nodes.observers())
        self.health.ok("nodes")

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            for streams in (self.streams, self.peer_streams):
                await streams.cut_stalled(self._clock.monotonic())

    async def _follow_peers(self) -> None:
        """Kubelets replace mounted files, so they are looked at now and then."""
        settings, known = self._settings, dict[str, PeerFacts]()
        while True:
            found = await asyncio.to_thread(read_peers, settings.flow_peers_dir, settings.cluster_name)
            if found != known:
                known = found
                self.peers.set_targets(found)
            await self._clock.sleep(RETRY_S)

    def _peer_certificates(self, peer: str) -> ClientCertificates | None:
        """Our own, and the authorities of the peer."""
        own = read_client_certificates(self._settings.certificates)
        try:
            authorities = (self._settings.peer_ca_dir / f"{peer}{CA_SUFFIX}").read_bytes()
        except OSError:
            return None
        return None if own is None else ClientCertificates(authorities, own.cert, own.key)

    async def _serve_flows(self) -> None:
        """Hubble's API, for programs of this cluster, as soon as there are certificates for it."""
        settings, folder = self._settings, self._settings.server_certificates
        where = f"{settings.listen_address}:{settings.port}"
        while read_server_certificates(folder) is None:
            self.health.degraded("flows", f"{folder} has no certificates: run clustermesh enable --with-relay")
            await self._clock.sleep(RETRY_S)
        server = RelayServer(
            lambda _: self.mesh,
            program_version(),
            self.streams,
            lambda name: names_another_cluster(name, settings.cluster_name),
        )
        server.listen_tls(where, lambda: read_server_certificates(folder))
        self.health.ok("flows")
        await _serve(server, where)

    async def _serve_peers(self) -> None:
        """The same for relays of peers, once there is a peer whose authority is known."""
        settings = self._settings
        where = f"{settings.listen_address}:{settings.peers_port}"
        while self._certificates_for_peers() is None:
            await self._clock.sleep(RETRY_S)
        server = RelayServer(self.door.source_of, program_version(), self.peer_streams)
        server.listen_tls(where, self._certificates_for_peers)
        await _serve(server, where)

    def _certificates_for_peers(self) -> ServerCertificates | None:
        own, trusted = read_server_certificates(self._settings.server_certificates), self.door.trusted()
        return None if own is None or not trusted else ServerCertificates(trusted, own.cert, own.key)


async def _serve(server: RelayServer, where: str) -> None:
    """Until cancelled."""
    await server.start()
    log.info("flows are served", extra={"endpoint": where})
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await server.stop()


def read_client_certificates(folder: Path) -> ClientCertificates | None:
    """What the folder holds now; None while a file is missing, or is of another pair."""
    found = _read(folder)
    return None if found is None else ClientCertificates(*found)


def read_server_certificates(folder: Path) -> ServerCertificates | None:
    """The same of a server's."""
    found = _read(folder)
    return None if found is None else ServerCertificates(*found)


def _read(folder: Path) -> tuple[bytes, bytes, bytes] | None:
    try:
        ca, cert, key = ((folder / name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key"))
        check_pair(cert, key)
    except (OSError, CertificateError):
        return None
    return ca, cert, key
