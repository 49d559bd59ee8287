# SPDX-License-Identifier: Apache-2.0
"""Relays of other clusters: those that this one asks, and what those that ask this one get."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final

from certs.bundle import TrustBundle
from certs.errors import CertificateError
from certs.inspect import parse
from certs.profile import relay_name, relay_user
from flows.methods import PeerFacts
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.relay_server import NotGrantedError
from flows.request import check_request
from meshapi.installed import FLOW_GRANT, GRANTED
from meshkit.clock import Clock
from meshkit.version import program_version
from meshmodel.names import parse_cluster_name
from relay.grants import IsShared, may_see, narrowed
from relay.mesh import FlowMesh
from relay.view import OWN

LOOK_S: Final = 2.0
MOST_BYTES: Final = 4096


def read_peers(folder: Path, own: str) -> dict[str, PeerFacts]:
    """Where the relays of peers are, by cluster: one file for each, with HOST:PORT separated by commas."""
    found = {}
    for path in _files(folder):
        with suppress(OSError, ValueError):
            name, places = str(parse_cluster_name(path.name)), path.read_text()[:MOST_BYTES].strip()
            if places and name != own:
                # gRPC tries them in turn
                target = places if "," not in places else f"ipv4:{places}"
                found[name] = PeerFacts(target, relay_name(name))
    return found


class PeerDoor:
    """Who asks from another cluster, by the certificate of its relay. Its files are read at each call."""

    def __init__(self, mesh: FlowMesh, bundle: Path, grants: Path, is_shared: IsShared, clock: Clock) -> None:
        self._mesh, self._bundle, self._grants = mesh, bundle, grants
        self._is_shared, self._clock = is_shared, clock

    def source_of(self, cert: bytes) -> PeerView:
        """What the holder may ask. Raises: NotGrantedError."""
        peer = self.granted(cert)
        return PeerView(
            self._mesh, peer, lambda: self.granted(cert) == peer, is_shared=self._is_shared, clock=self._clock
        )

    def granted(self, cert: bytes) -> str:
        """The peer whose relay holds the certificate, and that is granted flows now. Raises: NotGrantedError."""
        peer = self._name_of(cert)
        try:
            granted = (self._grants / f"{FLOW_GRANT}{peer}").read_text().strip() == GRANTED
        except OSError:
            granted = False
        if not granted:
            raise NotGrantedError(
                f"{self._mesh.cluster} does not grant its flows to {peer}: run clustermesh connect --allow-flows"
            )
        return peer

    def trusted(self) -> bytes:
        """The authorities of every peer, PEM: one without a grant is told so."""
        return self._trust().union_pem

    def _trust(self) -> TrustBundle:
        trust = TrustBundle()
        for path in _files(self._bundle):
            name = path.name.removesuffix(".crt")
            if name != self._mesh.cluster:
                with suppress(OSError, CertificateError):
                    trust.set_authority(name, path.read_bytes())
        return trust

    def _name_of(self, cert: bytes) -> str:
        try:
            common_name = parse(cert, "client certificate")[0].subject_cn
        except CertificateError as exc:
            raise NotGrantedError(str(exc)) from exc
        for name in self._trust().signers(cert):
            if common_name == relay_user(name):
                return name
        raise NotGrantedError(f"{common_name[:64]} is the name of no relay that its authority may vouch for")


class PeerView:
    """What one peer gets: flows in which its cluster takes part, and whether this relay is well.

    `is_granted` is asked again while a stream goes on; it may raise NotGrantedError.
    """

    def __init__(
        self, mesh: FlowMesh, peer: str, is_granted: Callable[[], bool], *, is_shared: IsShared, clock: Clock
    ) -> None:
        self._mesh, self._peer, self._is_granted = mesh, peer, is_granted
        self._is_shared, self._clock = is_shared, clock

    @property
    def reader(self) -> str:
        """The peer."""
        return self._peer

    async def flows(
        self, request: observer.GetFlowsRequest, clusters: Sequence[str]
    ) -> AsyncGenerator[observer.GetFlowsResponse, None]:
        """Raises: FilterError, RequestError; NotGrantedError, also as soon as the grant or its authority has ended."""
        if tuple(clusters) not in (OWN, (self._mesh.cluster,)):
            raise NotGrantedError(f"{self._mesh.cluster} speaks for itself only: ask the relays of the others")
        check_request(request)
        looked_s = self._clock.monotonic()
        async with aclosing(self._mesh.flows(narrowed(request, self._peer))) as answers:
            async for answer in answers:
                if (now_s := self._clock.monotonic()) - looked_s >= LOOK_S:
                    if not self._is_granted():
                        raise NotGrantedError(f"this certificate is not of the relay of {self._peer} any more")
                    looked_s = now_s
                if answer.WhichOneof("response_types") != "flow" or self._may_see(answer):
                    yield answer

    def _may_see(self, answer: observer.GetFlowsResponse) -> bool:
        return may_see(answer.flow, self._peer, self._mesh.cluster, self._is_shared)

    async def status(self) -> observer.ServerStatusResponse:
        """How many nodes there are, and which do not answer. No node is asked for it, however often a peer asks."""
        nodes = self._mesh.known_nodes()
        away = [node.name for node in nodes if node.state != relay.NODE_CONNECTED]
        found = observer.ServerStatusResponse(version=program_version(), unavailable_nodes=away)
        found.num_connected_nodes.value, found.num_unavailable_nodes.value = len(nodes) - len(away), len(away)
        return found

    async def list_nodes(self) -> observer.GetNodesResponse:
        """Raises: NotGrantedError."""
        raise NotGrantedError(f"{self._mesh.cluster} tells its nodes to its own programs only")

    async def list_namespaces(self) -> observer.GetNamespacesResponse:
        """Raises: NotGrantedError."""
        raise NotGrantedError(f"{self._mesh.cluster} tells its namespaces to its own programs only")


def _files(folder: Path) -> list[Path]:
    """The entries of a mounted Secret or ConfigMap; what Kubernetes keeps beside them begins with a dot."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
