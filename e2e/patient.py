# SPDX-License-Identifier: Apache-2.0
"""A server that answers each line on one connection for as long as the client wants, in both clusters behind one service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from e2e.mesh import CLUSTERS, Cluster, Mesh

PORT: Final = 7000
SERVER: Final = f"""
import socketserver, sys
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        for _ in self.rfile:
            self.wfile.write(sys.argv[1].encode() + bytes([10]))
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True
Server(("", {PORT}), Answer).serve_forever()
"""
CLIENT: Final = f"""
import socket, time
def connect():
    return socket.create_connection(("patient", {PORT}), 10)
def ask(one):
    one.sendall(bytes([10]))
    return one.recv(64).decode().strip() or "closed"
"""
"""What a client begins with: `connect`, and `ask`, which gives the name of the cluster that answers."""
APPLICATION: Final = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: patient}}
spec:
  replicas: 2
  selector: {{matchLabels: {{name: patient}}}}
  template:
    metadata: {{labels: {{name: patient}}}}
    spec:
      containers:
        - name: server
          image: busybox
          command: ["python3", "-u", "-c", {program!r}, "{cluster}"]
          readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: patient, annotations: {{service.cilium.io/global: "true"}}}}
spec:
  selector: {{name: patient}}
  ports: [{{port: {port}}}]
"""


def _application(cluster: Cluster) -> str:
    program = f"exec(bytes.fromhex('{SERVER.encode().hex()}'))"
    return APPLICATION.format(program=program, cluster=cluster, port=PORT)


@contextmanager
def patient_servers(mesh: Mesh) -> Iterator[None]:
    """Both clusters run the server during the block."""
    for cluster in CLUSTERS:
        mesh.apply(cluster, _application(cluster))
    try:
        for cluster in CLUSTERS:
            mesh.kubectl(cluster, "rollout", "status", "deployment/patient", "--timeout=60s")
        yield
    finally:
        for cluster in CLUSTERS:
            mesh.delete(cluster, _application(cluster))
