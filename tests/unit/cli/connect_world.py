# SPDX-License-Identifier: Apache-2.0
"""Two clusters that may be connected: Kubernetes that keeps what is written, and an apiserver that says what it reaches."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import orjson
from explain_world import TOKEN, ScriptedApi, listing

from certs.authority import Authority
from clustermesh_cli.commands.connect import ConnectOptions, connect
from clustermesh_cli.console import Console
from clustermesh_cli.link_proof import Patience
from clustermesh_cli.plan.connection_mode import Mode
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
IDS = {"north": 1, "south": 2, "west": 3}
NS = "/api/v1/namespaces/kube-system"
PROXY = f"{NS}/services/clustermesh-apiserver-status:9880/proxy/v1"


class KilledError(BaseException):
    """The command is gone: nothing it would do afterwards happens."""


class WritableApi(ScriptedApi):
    """Also takes merge patches of what it knows, if they name the version that it has.

    To the patch of a number in `broken`, from 1 on, it answers 500; after the one of number `dies_after` the command is
    dead. Before a patch, `rivals` may write: each once, the last one first.
    """

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
                f"{NS}/configmaps/clustermesh-ca-bundle": {"metadata": {"resourceVersion": "1"}, "data": own},
                f"{NS}/configmaps/clustermesh-flow-peers": {"metadata": {"resourceVersion": "1"}, "data": {}},
                f"{NS}/configmaps/clustermesh-remote-users": {
                    "metadata": {"resourceVersion": "1"},
                    "data": {"users.yaml": "users: []\n"},
                },
                f"{NS}/secrets/cilium-clustermesh": {"metadata": {"resourceVersion": "1"}, "data": {}},
                f"{NS}/secrets/cilium-kvstoremesh": {"metadata": {"resourceVersion": "1"}, "data": {}},
            }
        )
        self.name = name
        self.reached: dict[str, Reach] = {}
        self.has_sessions = True
        self.clock_s = WALL_S + 60
        self.writes: list[str] = []
        self.broken: set[int] = set()
        self.dies_after = 0
        self.rivals: list[Callable[[WritableApi], None]] = []

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
        if self.rivals:
            self.rivals.pop()(self)
        if (patch.get("metadata") or {}).get("resourceVersion", self._version(path)) != self._version(path):
            return 409, orjson.dumps({"kind": "Status", "reason": "Conflict", "message": "modified", "code": 409})
        self.writes.append(path)
        if len(self.writes) in self.broken:
            return 500, orjson.dumps({"kind": "Status", "message": "no leader", "code": 500})
        self.write(path, patch)
        if len(self.writes) == self.dies_after:
            raise KilledError
        return 200, orjson.dumps(self.answers[path])

    def write(self, path: str, patch: Mapping[str, Any]) -> None:
        """Anybody's merge patch."""
        version = str(int(self._version(path) or "0") + 1)
        merged = merge(cast(dict[str, Any], self.answers[path]), patch)
        self.answers[path] = merge(merged, {"metadata": {"resourceVersion": version}})

    def _version(self, path: str) -> str | None:
        found = cast(dict[str, Any], self.answers[path]).get("metadata", {}).get("resourceVersion")
        return None if found is None else str(found)

    def _status(self) -> ApiserverStatus:
        other = "south" if self.name == "north" else "north"
        peers = [RemoteCluster(name=other, ready=True)] if self.has_sessions else []
        agent = AgentStatus(node=f"{self.name}-node", cluster=self.name, ready=True, now=self.clock_s, peers=peers)
        return ApiserverStatus(cluster=self.name, ready=True, now=self.clock_s, agents=[agent], peers=peers)

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
        """Everything that `connect` may write, without empty maps and versions."""
        unversioned = {"metadata": {"resourceVersion": None}}
        found = {
            path: merge(cast(dict[str, Any], answer), unversioned)
            for path, answer in self.answers.items()
            if path.rpartition("/")[2] in PEERING_OBJECTS
        }
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
        connect(
            self.clients(),
            "kube-system",
            given,
            self.console,
            Patience(3, clock.monotonic, clock.advance, lambda: WALL_S + 60),
        )

    def state(self) -> tuple[object, object]:
        return self.north.peering(), self.south.peering()

    def writes(self) -> list[str]:
        return [*self.north.writes, *self.south.writes]
