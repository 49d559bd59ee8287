# SPDX-License-Identifier: Apache-2.0
"""Two hundred policy changes in ten seconds: no packet is judged by anything that neither a state before nor after says."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from e2e.mesh import Mesh
from e2e.policies import Place, cilium_policy, in_force, in_pod
from kube.client import KubeClient
from kube.config import load_client
from kube.resource import CNP

CHANGES: Final = 200
DURATION_S: Final = 10.0
LATEST_S: Final = 20.0
STORM_POLICIES: Final = 5
SEED: Final = 20
SETTLED_S: Final = 2.0
CLUSTER: Final = "io.cilium.k8s.policy.cluster"
# below the second after which a lost SYN is sent again: one dropped packet is one request that fails
PROBE: Final = """
import socket, sys, threading, time
def probe():
    while True:
        with socket.socket() as s:
            s.settimeout(0.9)
            started = time.time()
            try:
                s.connect((sys.argv[1], 80))
                s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                word = "answered" if s.recv(1) else "closed"
            except TimeoutError:
                word = "timed-out"
            except OSError as error:
                word = f"errno-{error.errno}"
        sys.stdout.write(f"{started:.3f} {time.time():.3f} {word}\\n")
        time.sleep(0.02)
for _ in range(int(sys.argv[2])):
    threading.Thread(target=probe).start()
"""
ALWAYS: Final = cilium_policy(
    "e2e-always",
    "rebel-base",
    f"ingress: [{{fromEndpoints: [{{matchLabels: {{name: x-wing, {CLUSTER}: koornacht}}}}]}}]",
)
"""In force all the time; the storm is around it."""


def peers(app: str, cluster: str) -> list[dict[str, Any]]:
    return [{"matchLabels": {"name": app, CLUSTER: cluster}}]


def storm_policy(number: int, dice: random.Random) -> dict[str, Any]:
    """One that may let in tion's x-wing, may say again what is allowed anyhow, and never concerns tion's rebel-base."""
    http = [{"ports": [{"port": "80", "protocol": "TCP"}]}]
    ports = [{"ports": [{"port": str(dice.randrange(1, 60_000)), "endPort": 60_000, "protocol": "TCP"}]}]
    addresses = [f"192.0.2.{dice.randrange(256)}/32" for _ in range(3)]
    spec: dict[str, Any] = dice.choice(
        [
            {"ingress": [{"fromEndpoints": peers("x-wing", "tion"), "toPorts": http}]},
            {"ingress": [{"fromEndpoints": peers("x-wing", "tion"), "toPorts": ports}]},
            {"ingress": [{"fromEndpoints": peers("x-wing", "koornacht"), "toPorts": http}]},
            {"ingress": [{"fromEndpoints": peers("x-wing", "koornacht")}, {"fromCIDR": addresses}]},
            {"ingress": [{"fromCIDR": addresses, "toPorts": ports}]},
            {"ingressDeny": [{"fromEndpoints": peers("x-wing", "tion"), "toPorts": http}]},
        ]
    )
    selector = {"endpointSelector": {"matchLabels": {"name": "rebel-base"}}}
    return {
        "apiVersion": CNP.api_version,
        "kind": CNP.kind,
        "metadata": {"name": f"e2e-storm-{number}", "namespace": "default"},
        "spec": {**selector, **spec},
    }


def storm(client: KubeClient) -> float:
    """The changes at a steady rate, ending with none of the policies there; returns how long it took, in seconds."""
    dice, pause, started = random.Random(SEED), threading.Event(), time.monotonic()
    there: set[int] = set()
    for change in range(CHANGES - STORM_POLICIES):
        number = dice.randrange(STORM_POLICIES)
        if number not in there:
            client.create(CNP, storm_policy(number, dice))
            there.add(number)
        elif dice.random() < 0.7:
            client.replace(CNP, storm_policy(number, dice))
        else:
            client.delete(CNP, f"e2e-storm-{number}", "default")
            there.remove(number)
        pause.wait(max(0.0, started + (change + 1) * DURATION_S / CHANGES - time.monotonic()))
    for number in range(STORM_POLICIES):
        client.delete(CNP, f"e2e-storm-{number}", "default")
    return time.monotonic() - started


Probes = list[tuple[float, float, str]]


def probes(lines: Callable[[], list[str]]) -> Probes:
    """When each request began and ended, and how."""
    split = (line.split() for line in lines())
    return [(float(words[0]), float(words[1]), words[2]) for words in split if len(words) == 3]


def words(found: Probes) -> Counter[str]:
    return Counter(word for _, _, word in found)


def test_a_storm_of_changes_lets_no_packet_through_and_stops_none_that_no_state_says(whole: Mesh) -> None:
    mesh = whole
    client = load_client(str(mesh.names.kubeconfig("koornacht")), None)
    always = Place("koornacht", mesh.pod("koornacht", "x-wing")[0])
    sometimes = Place("tion", mesh.pod("tion", "x-wing")[0])
    never = Place("tion", mesh.pod("tion", "rebel-base")[0])
    _, node, server = mesh.pod("koornacht", "rebel-base")
    with in_force(mesh, {"koornacht": [ALWAYS]}):
        mesh.wait_until("the policy is in force", lambda: not probe_once(mesh, never, server))
        with (
            in_pod(mesh, always, PROBE, server, "1") as allowed,
            in_pod(mesh, sometimes, PROBE, server, "8") as toggled,
            in_pod(mesh, never, PROBE, server, "8") as denied,
        ):
            for lines in (allowed, toggled, denied):
                mesh.wait_until("requests are made", partial(has_some, lines))
            took_s = storm(client)
            ended = time.time()
            assert took_s < LATEST_S, f"{CHANGES} changes took {took_s:.1f} s"
            for lines in (allowed, toggled, denied):
                mesh.wait_until("requests go on", partial(has_late, lines, ended + SETTLED_S + 2))
            outcome = (
                f"storm of {took_s:.1f} s: {words(probes(allowed))}, {words(probes(toggled))}, {words(probes(denied))}"
            )
            print(outcome)
            assert set(words(probes(allowed))) == {"answered"}, f"{outcome}; {drops(mesh, node)}"
            assert set(words(probes(denied))) == {"timed-out"}, outcome
            assert words(probes(toggled))["answered"], f"the storm never allowed what it may: {outcome}"
            after = words([p for p in probes(toggled) if p[0] > ended + SETTLED_S])
            assert set(after) == {"timed-out"}, f"still allowed {SETTLED_S} s after the last change: {after}"
    assert not [p for p in mesh.get("koornacht", "cnp")["items"] if p["metadata"]["name"].startswith("e2e-")]


def probe_once(mesh: Mesh, place: Place, address: str) -> bool:
    words = ("exec", place.pod, "--", "curl", "-sS", "-o", "/dev/null", "--max-time", "1", address)
    return mesh.kubectl(place.cluster, *words, check=False).returncode == 0


def has_some(lines: Callable[[], list[str]]) -> bool:
    return len(probes(lines)) > 2


def has_late(lines: Callable[[], list[str]], moment: float) -> bool:
    """Whether a request that began after the moment has ended."""
    return any(began > moment for began, _, _ in probes(lines))


def drops(mesh: Mesh, node: str) -> str:
    """What the server's agent says it dropped last."""
    return mesh.agent("koornacht", node, "monitor", "--type", "drop", "--last", "10").stdout
