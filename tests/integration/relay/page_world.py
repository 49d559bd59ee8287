# SPDX-License-Identifier: Apache-2.0
"""A relay over real observers that serves its page on a port, and flows to look at."""

from __future__ import annotations

import asyncio
import time
import zlib
from pathlib import Path

from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry
from flows.summary import summarise
from flows.text import RULE_LABEL
from flows.words import DROP, TRACE
from meshapi.apiserver import ApiserverStatus, CertificateRow, FacadeSession
from meshapi.peer import PeerState, RemoteCluster
from meshapi.row import encode
from meshapi.service import BackendStatus, RealizedFrontend, ServiceExplanation, ServiceStatus
from meshkit.health import Health
from meshkit.http import bind, serve
from meshkit.metrics import Registry
from relay.api import make_api
from relay.mesh import FlowMesh
from tests.integration.relay.relay_world import RelayWorld

S = 10**9


def flow(
    source: str,
    destination: str,
    *,
    port: int = 80,
    verdict: pb.Verdict.ValueType = pb.FORWARDED,
    reply: bool | None = False,
    labels: tuple[str, ...] = (),
    rule: str = "",
) -> pb.Flow:
    """`source` and `destination` are cluster/namespace/app; without a namespace it is a name of the world."""
    found = pb.Flow(verdict=verdict, node_name="north/n1", Type=pb.L3_L4)
    for end, spoken, names, last in (
        (found.source, source, found.source_names, 1),
        (found.destination, destination, found.destination_names, 2),
    ):
        parts = spoken.split("/")
        if len(parts) == 3:
            end.cluster_name, end.namespace, app = parts
            end.pod_name, end.identity = f"{app}-5d9c-{len(app)}xk", 1000 + zlib.crc32(spoken.encode()) % 60_000
            end.labels.extend([f"k8s:app={app}", f"k8s:io.kubernetes.pod.namespace={parts[1]}", *labels])
            address = f"10.{last}.{end.identity % 250}.{len(app)}"
        else:
            end.identity, address = 2, f"203.0.113.{len(spoken)}"
            names.append(spoken)
        setattr(found.IP, "source" if last == 1 else "destination", address)
    found.l4.TCP.source_port, found.l4.TCP.destination_port = 40000, port
    if reply is not None:
        found.is_reply.value = reply
    if verdict == pb.DROPPED:
        found.ClearField("is_reply")
        found.event_type.type, found.event_type.sub_type = DROP, 133
        found.drop_reason_desc, found.traffic_direction = pb.POLICY_DENIED, pb.INGRESS
        if rule:
            found.drop_reason_desc = pb.POLICY_DENY
            found.ingress_denied_by.add(name="deny", kind="CiliumNetworkPolicy", labels=[RULE_LABEL + rule])
    else:
        found.event_type.type, found.event_type.sub_type = TRACE, 4
    found.l4.TCP.flags.SYN = True
    found.Summary = summarise(found)
    return found


def http(source: str, destination: str, path: str, code: int) -> pb.Flow:
    """The answer to a request that `source` sent, hence from the destination."""
    found = flow(destination, source, reply=True)
    found.event_type.type, found.Type = 129, pb.L7
    found.l4.TCP.source_port, found.l4.TCP.destination_port = 8080, 40000
    found.l7.type, found.l7.latency_ns = pb.RESPONSE, 3_200_000
    found.l7.http.method, found.l7.http.code, found.l7.http.protocol = "GET", code, "HTTP/1.1"
    found.l7.http.url = f"http://{destination.rsplit('/', maxsplit=1)[-1]}{path}"
    found.Summary = summarise(found)
    return found


class AnsweringMesh(FlowMesh):
    """Other programs answer with rows of the test's own."""

    async def ask_apiserver(self, path: str) -> bytes:
        now = time.time()
        if path == "v1/certs":
            row = CertificateRow(
                role="server", subject_cn="clustermesh-apiserver", issuer="north CA", serial="1f", not_before=now - 86400,
                not_after=now + 90 * 86400, fingerprint="ab",
            )  # fmt: skip
            return encode([row])
        return encode(
            ApiserverStatus(
                cluster="north", cluster_id=1, version="0.1.0", ready=True, etcd_version="3.5.16",
                published={"services": 12, "nodes": 3, "identities": 24, "endpoints": 61},
                sessions=[FacadeSession(name=name) for name in ("local-north", "local-north", "remote-south")],
                peers=[
                    RemoteCluster(
                        name="south", ready=True, connected=True, state=PeerState.READY, num_nodes=4, num_endpoints=82,
                        num_shared_services=9, num_identities=31, session_since=now - 7300, age_s=2.0, rtt_s=0.0123,
                        cert_not_after=now + 80 * 86400,
                    ),
                    RemoteCluster(
                        name="west", state=PeerState.DISCONNECTED, num_nodes=2, num_endpoints=14, num_failures=6, age_s=640.0,
                        reason="dial tcp 192.0.2.7:2379: no route to host", cert_not_after=now + 3 * 86400,
                    ),
                ],
            )
        )  # fmt: skip

    async def ask_agent(self, node: str, path: str) -> bytes:
        backends = [
            BackendStatus(address="10.1.4.7", port=8080, cluster="north", chosen=True, share=0.5, node=node),
            BackendStatus(address="10.2.9.3", port=8080, cluster="south", chosen=True, share=0.5),
            BackendStatus(
                address="10.3.1.4", port=8080, cluster="west", state="terminating", reason="its cluster is disconnected"
            ),
        ]
        front = ServiceStatus(
            frontend="172.20.3.4:80/TCP", type="ClusterIP", name="shop/catalog", backends=backends, is_global=True
        )
        if path == "v1/services":
            return encode([front])
        rule = "Global and shared: ready backends of every cluster take new connections in equal shares."
        return encode(
            ServiceExplanation(
                name="shop/catalog", cluster="north", node=node, rule=rule, frontends=[front], is_global=True, shared=True,
                realized=[RealizedFrontend(frontend=front.frontend, count=2, backends=["10.1.4.7:8080", "10.2.9.3:8080"])],
            )
        )  # fmt: skip


class PageWorld(RelayWorld):
    """Nodes, their relay and its REST server, which can be stopped and started on the same port."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, nodes=2)
        self.mesh = AnsweringMesh(
            self.cluster, self.observers, self.peers, nodes=self.mesh._nodes, programs=self.mesh._programs, clock=self.clock
        )  # fmt: skip
        self.web_port = 0
        self._web: asyncio.Task[None] | None = None
        self._links: list[asyncio.Task[None]] = []
        self._number = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}/ui/"

    async def start(self) -> None:
        await super().start()
        self._links = [asyncio.create_task(links.run()) for links in (self.observers, self.peers)]
        await self.start_web()

    async def start_web(self) -> None:
        sockets = bind("127.0.0.1", self.web_port)
        self.web_port = sockets[0].getsockname()[1]
        app = make_api(self.mesh, Health(), Registry())
        started = asyncio.Event()
        self._web = asyncio.create_task(serve(app, sockets=sockets, on_started=lambda _: started.set()))
        await started.wait()

    async def stop_web(self) -> None:
        assert self._web is not None
        self._web.cancel()
        await asyncio.wait([self._web])

    async def stop(self) -> None:
        await self.stop_web()
        for task in self._links:
            task.cancel()
        await asyncio.wait(self._links)
        await super().stop()

    def say(self, *flows: pb.Flow, node: int = 0, ago_s: float = 0.0) -> None:
        """The node saw them just now."""
        now_ns = time.time_ns() - int(ago_s * S)
        entries = []
        for each in flows:
            self._number += 1
            each.node_name = self.nodes[node].name
            entries.append(FlowEntry(now_ns + self._number, f"{self._number}", None, each.SerializeToString()))
        self.nodes[node].flows.extend(entries)


def shop() -> list[pb.Flow]:
    """Traffic of a small shop in two clusters."""
    web, catalog, orders, db = "north/shop/web", "south/shop/catalog", "north/shop/orders", "north/shop/postgres"
    found = [
        flow("customer.example.com", web, port=443),
        flow(web, catalog, port=8080), flow(web, orders, port=8080), flow(orders, db, port=5432),
        flow(orders, "api.payments.example", port=443), flow(catalog, db, port=5432, verdict=pb.DROPPED),
        flow("south/batch/report", db, port=5432, verdict=pb.DROPPED, rule="CiliumNetworkPolicy shop/db ingressDeny[0]"),
        flow("north/monitoring/prometheus", web, port=9090), flow("north/monitoring/prometheus", orders, port=9090),
    ]  # fmt: skip
    for path, code in (("/items", 200), ("/items/7", 200), ("/items/9", 404)):
        found.append(http(web, catalog, path, code))
    found.append(http(web, orders, "/checkout", 503))
    return found
