# SPDX-License-Identifier: Apache-2.0
"""`events` tells a cut between two nodes and a tenant's wrong annotation, as it happens and afterwards."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from e2e.command import CONNECTION
from e2e.mesh import PROGRAMS, Mesh

SOURCE: Final = "koornacht-worker"
TARGET: Final = "tion-worker"


def told(mesh: Mesh, *words: str) -> list[Any]:
    document = json.loads(mesh.clustermesh("events", *words, "-o", "json").stdout)
    assert (document["schema"], document["missing"]) == (1, [])
    return list(document["items"])


@contextmanager
def followed(mesh: Mesh) -> Iterator[list[Any]]:
    """What `events -f` prints of both clusters during the block."""
    command = [str(PROGRAMS / "clustermesh"), "events", "-f", "--since", "0s", "-o", "json", *CONNECTION]
    environment = {"KUBECONFIG": str(mesh.names.kubeconfig("global")), "PATH": "/usr/bin:/bin"}
    found: list[Any] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                found.append(json.loads(line))  # noqa: PERF401 - seen by the test as it comes

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield found
        finally:
            process.terminate()
            reader.join(10)


def test_a_cut_between_two_nodes_is_told_by_both_and_followed(whole: Mesh) -> None:
    address = next(
        node["status"]["addresses"][0]["address"]
        for node in whole.get("tion", "nodes")["items"]
        if node["metadata"]["name"] == TARGET
    )

    def lost(events: list[Any], level: str) -> bool:
        found = ((e["node"], e["subject"], e["level"], e["peer"]) for e in events if e["kind"] == "node")
        return (SOURCE, address, level, "tion") in found

    with followed(whole) as lines:
        try:
            whole.lab("cut", SOURCE, TARGET)
            whole.wait_until("the lost node is followed", lambda: lost(lines, "warning"), 30)
        finally:
            whole.lab("heal")
        whole.wait_until("and that it is back", lambda: lost(lines, "info"), 30)
    kept = told(whole, *CONNECTION, "--kind", "node", "--since", "2m")
    assert lost(kept, "warning")
    assert lost(kept, "info")
    assert [event["time"] for event in kept] == sorted(event["time"] for event in kept)
    assert {(event["cluster"], event["node"]) for event in kept} >= {("koornacht", SOURCE), ("tion", TARGET)}
    assert told(whole, "--kind", "node", "--cluster", "hoth") == []


def test_what_was_told_the_owner_of_an_object_is_among_the_events(whole: Mesh) -> None:
    annotate = ("koornacht", "annotate", "service", "rebel-base", "--overwrite")
    try:
        whole.kubectl(*annotate, "service.cilium.io/affinity=sometimes")
        whole.wait_until(
            "the annotation is told",
            lambda: [e for e in told(whole, "--kind", "object") if e["subject"] == "Service default/rebel-base"],
        )
    finally:
        whole.kubectl("koornacht", "annotate", "service", "rebel-base", "service.cilium.io/affinity-")
