# SPDX-License-Identifier: Apache-2.0
"""A connection through a service may say nothing for longer than a connection that never got an answer is remembered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.mesh import CLUSTERS, Cluster, Mesh, wait_until
from e2e.policies import Place, in_pod

SILENCE_S = 75
CONNECTIONS = 12
# answers each line with the name of its cluster, on one connection for as long as the client wants
SERVER = """
import socketserver, sys
class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        for _ in self.rfile:
            self.wfile.write(sys.argv[1].encode() + bytes([10]))
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True
Server(("", 7000), Answer).serve_forever()
"""
CLIENT = f"""
import socket, time
def ask(one):
    one.sendall(bytes([10]))
    return one.recv(64).decode().strip() or "closed"
made = [socket.create_connection(("patient", 7000), 5) for _ in range({CONNECTIONS})]
before = [ask(one) for one in made]
print("asked", flush=True)
time.sleep({SILENCE_S})
for one, first in zip(made, before):
    try:
        print(first, ask(one), flush=True)
    except OSError as exc:
        print(first, type(exc).__name__, flush=True)
"""
APPLICATION = """
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
          readinessProbe: {{tcpSocket: {{port: 7000}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: patient, annotations: {{service.cilium.io/global: "true"}}}}
spec:
  selector: {{name: patient}}
  ports: [{{port: 7000}}]
"""


def _application(cluster: Cluster) -> str:
    program = f"exec(bytes.fromhex('{SERVER.encode().hex()}'))"
    return APPLICATION.format(program=program, cluster=cluster)


@pytest.fixture
def patient(whole: Mesh) -> Iterator[Mesh]:
    """Both clusters run the server behind one global service."""
    for cluster in CLUSTERS:
        whole.apply(cluster, _application(cluster))
    try:
        for cluster in CLUSTERS:
            whole.kubectl(cluster, "rollout", "status", "deployment/patient", "--timeout=60s")
        yield whole
    finally:
        for cluster in CLUSTERS:
            whole.delete(cluster, _application(cluster))


def _both_answer(mesh: Mesh, place: Place) -> bool:
    script = CLIENT.replace(f"time.sleep({SILENCE_S})", "")
    with in_pod(mesh, place, script) as lines:
        wait_until("every connection is answered", lambda: len(lines()) == CONNECTIONS + 1)
        return {line.split()[0] for line in lines()[1:]} == set(CLUSTERS)


def test_a_connection_silent_for_75_seconds_is_answered_by_the_same_backend(patient: Mesh) -> None:
    place = Place("koornacht", patient.pod("koornacht", "x-wing")[0])
    wait_until("both clusters answer", lambda: _both_answer(patient, place))
    with in_pod(patient, place, CLIENT) as lines:
        wait_until(f"{SILENCE_S} s have passed", lambda: len(lines()) == CONNECTIONS + 1, SILENCE_S + 15 * CONNECTIONS)
        pairs = [line.split() for line in lines()[1:]]
    assert {before for before, _ in pairs} == set(CLUSTERS)
    assert [after for _, after in pairs] == [before for before, _ in pairs]
