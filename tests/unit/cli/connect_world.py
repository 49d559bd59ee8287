# SPDX-License-Identifier: Apache-2.0
"""Two clusters that may be connected: Kubernetes that keeps what is written, and an apiserver that says what it reaches."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import orjson
from explain_world import TOKEN, ScriptedApi, listing

from certs.authority import Authority
from clustermesh_cli.commands.connect import ConnectOptions, connect
from clustermesh_cli.console import Console
from clustermesh_cli.link_proof import Patience
from clustermesh_cli.plan.connect import Mode
from clustermesh_cli.plan.link_change import PEERING_OBJECTS, merge
from clustermesh_cli.plan.peer_networks import Choices
from kube.client import KubeClient
from kube.transport import Query, Transport
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus, Reach, StoreEntry, StorePage
from meshapi.peer import RemoteCluster
from meshapi.row import encode
from meshkit.clock import ManualClock

WALL_S = 1_767_225_600.0
IDS = {"north": 1, "south": 2}
NS = "/api/v1/namespaces/kube-system"
PROXY = f"{NS}/services/clustermesh-apiserver-status:9880/proxy/v1"


class WritableApi(ScriptedApi):
    """Also takes merge patches of what it knows. `broken` paths answer 500 to the patch of that number, from 1 on."""

    def __init__(self, name: str) -> None:
        authority = Authority.create(f"clustermesh {name}", WALL_S)
        node = {
            "metadata": {"name": f"{name}-node"},
            "spec": {"podCIDRs": [f"10.{IDS[name]}.0.0/24"]},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": f"192.0.2.{IDS[name]}"}],
            },
        }
        config = {"cluster-name": name, "cluster-id": str(IDS[name])}
        own = {f"{name}.crt": authority.certificate_pem.decode()}
        super().__init__(
            {
                TOKEN: {"status": {"token": "viewer-token"}},
                f"{NS}/configmaps/clustermesh-config": {"data": config},
                f"{NS}/secrets/clustermesh-ca": {
                    "data": {"ca.crt": base64.b64encode(authority.certificate_pem).decode()}
                },
                f"{NS}/services/clustermesh-apiserver": {
                    "spec": {"type": "NodePort", "ports": [{"port": 2379, "nodePort": 32379}]}
                },
                "/api/v1/nodes": listing(node),
                f"{NS}/configmaps/clustermesh-ca-bundle": {"metadata": {}, "data": own},
                f"{NS}/configmaps/clustermesh-remote-users": {"metadata": {}, "data": {"users.yaml": "users: []\n"}},
                f"{NS}/secrets/cilium-clustermesh": {"metadata": {}, "data": {}},
                f"{NS}/secrets/cilium-kvstoremesh": {"metadata": {}, "data": {}},
            }
        )
        self.name = name
        self.reached: dict[str, Reach] = {}
        self.has_sessions = True
        self.writes: list[str] = []
        self.broken: set[int] = set()

    def request(
        self, method: str, path: str, *, query: Query | None = None, timeout_s: float = 0, **given: object
    ) -> tuple[int, bytes]:
        if method == "PATCH":
            return self._patch(path, orjson.loads(cast(bytes, given["body"])))
        if path.startswith(f"{PROXY}/reach"):
            asked = parse_qs(urlsplit(path).query)
            return 200, encode(self.reached.get(asked["host"][0], Reach(problem="none")))
        if path.startswith(f"{PROXY}/kv?"):
            return 200, encode(StorePage(entries=[self._node_record()], more=False))
        if path.startswith(f"{PROXY}/status"):
            return 200, encode(self._status())
        return super().request(method, path, query=query, timeout_s=timeout_s)

    def _patch(self, path: str, patch: Mapping[str, Any]) -> tuple[int, bytes]:
        self.writes.append(path)
        if len(self.writes) in self.broken:
            return 500, orjson.dumps({"kind": "Status", "message": "no leader", "code": 500})
        self.answers[path] = merge(cast(dict[str, Any], self.answers[path]), patch)
        return 200, orjson.dumps(self.answers[path])

    def _status(self) -> ApiserverStatus:
        other = "south" if self.name == "north" else "north"
        peers = [RemoteCluster(name=other, ready=True)] if self.has_sessions else []
        agent = AgentStatus(node=f"{self.name}-node", cluster=self.name, ready=True, peers=peers)
        return ApiserverStatus(cluster=self.name, ready=True, agents=[agent], peers=peers)

    def _node_record(self) -> StoreEntry:
        number = IDS[self.name]
        record = {
            "Name": f"{self.name}-node",
            "Cluster": self.name,
            "ClusterID": number,
            "IPAddresses": [{"Type": "InternalIP", "IP": f"192.0.2.{number}"}],
            "IPv4AllocCIDR": {"IP": f"10.{number}.0.0", "Mask": "////AA=="},
        }
        key = f"cilium/state/nodes/v1/{self.name}/{self.name}-node"
        value = base64.b64encode(orjson.dumps(record)).decode()
        return StoreEntry(key=key, revision=1, bytes=len(value), value=value)

    def peering(self) -> dict[str, object]:
        """Everything that `connect` may write, without empty maps."""
        found = {path: answer for path, answer in self.answers.items() if path.rpartition("/")[2] in PEERING_OBJECTS}
        return cast(dict[str, object], _filled(found))

    def client(self, context: str) -> KubeClient:
        return KubeClient(cast(Transport, self), context=context)


def _filled(found: object) -> object:
    if not isinstance(found, dict):
        return found
    inner = {name: _filled(value) for name, value in found.items()}
    return {name: value for name, value in inner.items() if value != {}}


class World:
    """north (context kind-north) and south, and the time that waiting takes."""

    def __init__(self) -> None:
        self.north, self.south = WritableApi("north"), WritableApi("south")
        self.stream = io.StringIO()
        self.console = Console(plain=True, stream=self.stream)

    def clients(self) -> dict[str, KubeClient]:
        return {f"kind-{api.name}": api.client(f"kind-{api.name}") for api in (self.north, self.south)}

    def connect(self, *endpoints: str, networks: Choices | None = None, **options: bool) -> None:
        given = ConnectOptions(Mode.BIDIRECTIONAL, {"kind-south": endpoints}, networks=networks or {}, **options)
        clock = ManualClock()
        connect(self.clients(), "kube-system", given, self.console, Patience(3, clock.monotonic, clock.advance))

    def state(self) -> tuple[object, object]:
        return self.north.peering(), self.south.peering()

    def writes(self) -> list[str]:
        return [*self.north.writes, *self.south.writes]
