# SPDX-License-Identifier: Apache-2.0
"""Rules about servers' names, from the policy object to real TLS, on either side and across two clusters; and their flows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from certs import profile
from certs.authority import Authority
from e2e.mesh import Mesh
from e2e.policies import Place, cilium_policy, in_force

PORT = 8443
NGINX = f"""\
user root;
pid /tmp/tls.pid;
error_log /tmp/tls.log warn;
events {{ worker_connections 64; }}
http {{
  access_log off;
  server {{ listen {PORT} ssl; ssl_certificate /tmp/tls.pem; ssl_certificate_key /tmp/tls.pem; return 200 "tls"; }}
}}
"""
ANY_CLUSTER = "matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]"
NAMED = f'toPorts: [{{ports: [{{port: "{PORT}", protocol: TCP}}], serverNames: ["shop.example", "*.eu.example"]}}]'
EGRESS = f"egress: [{{toEndpoints: [{{matchLabels: {{name: rebel-base}}, {ANY_CLUSTER}}}], {NAMED}}}]"
INGRESS = f"ingress: [{{fromEndpoints: [{{matchLabels: {{name: x-wing}}, {ANY_CLUSTER}}}], {NAMED}}}]"
WANTED = {"shop.example": "tls", "A.eu.example": "tls", "eu.example": "", "other.example": ""}


@contextmanager
def tls_server(mesh: Mesh, place: Place) -> Iterator[None]:
    """The pod serves TLS, whatever it is called."""
    now_s = time.time()
    made = Authority.create("mesh CA", now_s, 30).issue(profile.remote("south"), now_s)
    pem = (made.key_pem + made.cert_pem).decode()
    start = 'printf %s "$0" >/tmp/tls.pem && printf %s "$1" >/tmp/tls.conf && nginx -c /tmp/tls.conf'
    mesh.kubectl(place.cluster, "exec", place.pod, "--", "sh", "-c", start, pem, NGINX)
    try:
        yield
    finally:
        mesh.kubectl(place.cluster, "exec", place.pod, "--", "nginx", "-c", "/tmp/tls.conf", "-s", "stop", check=False)


def told(mesh: Mesh, source: Place, address: str) -> dict[str, str]:
    """What servers of these names say; nothing where the connection is closed."""
    found = {}
    for name in WANTED:
        way = ("--connect-to", f"{name}:443:{address}:{PORT}", f"https://{name}/")
        words = ("curl", "-sSk", "--max-time", "4", *way)
        found[name] = mesh.kubectl(source.cluster, "exec", source.pod, "--", *words, check=False).stdout
    return found


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_tls_reaches_servers_of_the_names_only(mesh: Mesh, direction: str) -> None:
    pod, node, _ = mesh.pod("koornacht", "x-wing")
    server, server_node, address = mesh.pod("tion", "rebel-base")
    source = Place("koornacht", pod)
    policy = cilium_policy("names", *(("x-wing", EGRESS) if direction == "egress" else ("rebel-base", INGRESS)))
    cluster = "koornacht" if direction == "egress" else "tion"
    with tls_server(mesh, Place("tion", server)):
        mesh.wait_until("every name is served", lambda: set(told(mesh, source, address).values()) == {"tls"})
        with in_force(mesh, {cluster: [policy]}):
            mesh.wait_until("only the names are served", lambda: told(mesh, source, address) == WANTED)
            seen = mesh.agent(
                cluster, node if direction == "egress" else server_node, "monitor", "--last", "500"
            ).stdout
            assert "FORWARDED (TLS shop.example)" in seen
            assert "DROPPED (TLS other.example)" in seen
