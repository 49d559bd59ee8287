# SPDX-License-Identifier: Apache-2.0
"""An API server that answers as one of a healthy cluster does: three nodes, one peer, a year of certificate left."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import orjson

from certs import profile
from certs.authority import Authority
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus
from meshapi.installed import ADMIN_SECRET, LOCAL_SECRET, REMOTE_SECRET, SERVER_SECRET
from meshapi.peer import RemoteCluster
from meshapi.row import encode
from meshkit.clock import SystemClock

NS = "/api/v1/namespaces/kube-system"
APPS = "/apis/apps/v1/namespaces/kube-system"
STATUS = f"{NS}/services/clustermesh-apiserver-status:9880/proxy/v1"


@contextmanager
def healthy_cluster() -> Iterator[int]:
    """The port of a running server."""
    answers = _answers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = answers.get(urlsplit(self.path).path)
            self.send_response(404 if body is None else 200)
            body = body or b'{"kind":"Status","reason":"NotFound","code":404}'
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answers() -> Mapping[str, bytes]:
    now_s = SystemClock().wall()
    authority = Authority.create("clustermesh north", now_s)
    issued = authority.issue(profile.admin("north"), now_s)
    leaf = {"ca.crt": authority.certificate_pem, "tls.crt": issued.cert_pem, "tls.key": issued.key_pem}
    peers = [RemoteCluster(name="south", ready=True, connected=True, age_s=1.0)]
    names = [f"north-{number}" for number in range(3)]
    agents = [AgentStatus(node=name, cluster="north", ready=True, peers=peers) for name in names]
    whole = {"desiredNumberScheduled": 3, "numberReady": 3, "numberAvailable": 3, "readyReplicas": 1}
    workload = {"spec": {"replicas": 1, "template": {"spec": {}}}, "status": {**whole, "availableReplicas": 1}}
    objects: dict[str, Any] = {
        f"{NS}/serviceaccounts/clustermesh-viewer/token": {"status": {"token": "t"}},
        f"{NS}/configmaps/clustermesh-config": {"data": {"cluster-name": "north", "cluster-id": "1"}},
        f"{NS}/services/clustermesh-apiserver": {"spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 2}]}},
        f"{APPS}/daemonsets/clustermesh-agent": {"metadata": {"name": "clustermesh-agent"}, **workload},
        f"{APPS}/deployments/clustermesh-apiserver": {"metadata": {"name": "clustermesh-apiserver"}, **workload},
        f"{NS}/pods": {"metadata": {}, "items": []},
        "/api/v1/nodes": {"metadata": {}, "items": [_node(name) for name in names]},
        f"{NS}/secrets/clustermesh-ca": {"data": _encoded({"ca.crt": authority.certificate_pem})},
    }
    for name in (SERVER_SECRET, ADMIN_SECRET, LOCAL_SECRET, REMOTE_SECRET):
        objects[f"{NS}/secrets/{name}"] = {"data": _encoded(leaf)}
    status = ApiserverStatus(cluster="north", cluster_id=1, ready=True, agents=agents, peers=peers)
    told = {f"{STATUS}/status": encode(status), f"{STATUS}/clusters": encode(peers)}
    return {**{path: orjson.dumps(value) for path, value in objects.items()}, **told}


def _encoded(files: Mapping[str, bytes]) -> Mapping[str, str]:
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


def _node(name: str) -> Mapping[str, Any]:
    return {
        "metadata": {"name": name},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
        },
    }
