# SPDX-License-Identifier: Apache-2.0
"""Three clusters as one mesh: the third joins later, is removed while it is down, comes back, and is joined again."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from e2e.command import CHECK_FAILED, DEGRADED
from e2e.faults import send
from e2e.mesh import SYSTEM, Mesh, tear_down, wait_until
from lab import cgroup
from lab.names import lab_names
from tests.support.labs import lab_name

PAIR: Final = ("koornacht", "tion")
ALL: Final = (*PAIR, "endor")
JOIN: Final = (
    "connect", "--context", "kind-koornacht", "--destination-context", "kind-tion,kind-endor", "--connection-mode", "mesh",
)  # fmt: skip
OTHERS: Final = ("--destination-context", "kind-tion,kind-endor")


@pytest.fixture(scope="module")
def three() -> Iterator[Mesh]:
    """Three clusters with a mesh each, of which koornacht and tion are connected."""
    name = lab_name("e2e", "c")
    mesh = Mesh(lab_names(name))
    try:
        mesh.lab("up", "--clusters", "3")
        for cluster in ALL:
            mesh.clustermesh("enable", "--context", f"kind-{cluster}", "--service-type", "NodePort")
        words = ("--destination-context", "kind-tion", "--connection-mode", "mesh")
        mesh.clustermesh("connect", "--context", "kind-koornacht", *words)
        yield mesh
    finally:
        tear_down(name)


def status(mesh: Mesh, cluster: str, *words: str) -> tuple[int, dict[str, str]]:
    """The exit code of the cluster's status, and its peers with their states."""
    done = mesh.clustermesh("status", "--context", f"kind-{cluster}", "-o", "json", *words, check=False)
    assert done.stdout, f"exit code {done.returncode}: {done.stderr}"
    return done.returncode, {row["name"]: row["state"] for row in json.loads(done.stdout)["verdict"]["peers"]}


def peers(mesh: Mesh, cluster: str) -> dict[str, str]:
    """The peers of a cluster and their states."""
    return status(mesh, cluster)[1]


def known_nodes(mesh: Mesh, cluster: str) -> set[str]:
    """The clusters that an agent knows nodes of."""
    rows = json.loads(mesh.clustermesh("get", "nodes", "--context", f"kind-{cluster}", "-o", "json").stdout)["items"]
    return {row["cluster"] for row in rows}


def expect_whole(mesh: Mesh) -> None:
    """Everybody reads everybody, and packets pass from every node to every node of the others."""
    for cluster in ALL:
        assert status(mesh, cluster) == (0, dict.fromkeys(sorted(set(ALL) - {cluster}), "ready"))
    document: Any = {}

    def is_whole() -> bool:
        nonlocal document
        done = mesh.clustermesh("check", "--matrix", "--context", "kind-koornacht", *OTHERS, "-o", "json", check=False)
        document = json.loads(done.stdout)
        return done.returncode == 0

    wait_until("every way is whole", is_whole)
    pairs = {(pair["source-cluster"], pair["target-cluster"]) for pair in document["pairs"]}
    assert pairs == {(a, b) for a in ALL for b in ALL if a != b}


@contextmanager
def down(mesh: Mesh, cluster: str) -> Iterator[None]:
    """Nobody reaches the cluster's nodes, and its API does not answer."""
    daemon = cgroup.processes(mesh.names.cgroup / f"daemon-{cluster}")
    assert daemon
    try:
        mesh.lab("cut", cluster)
        send(daemon, signal.SIGSTOP)
        yield
    finally:
        send(daemon, signal.SIGCONT)
        mesh.lab("heal")


def objects(mesh: Mesh, cluster: str) -> str:
    """Everything in which connected clusters stand."""
    names = (
        "secret/cilium-clustermesh",
        "secret/cilium-kvstoremesh",
        "cm/clustermesh-ca-bundle",
        "cm/clustermesh-remote-users",
    )
    shown = (mesh.kubectl(cluster, "get", "-n", SYSTEM, name, "-o", "yaml").stdout for name in names)  # type: ignore[arg-type]
    return "".join(shown)


def test_a_third_cluster_joins_is_removed_while_it_is_down_and_is_joined_again(three: Mesh) -> None:
    assert peers(three, "koornacht") == {"tion": "ready"}
    assert peers(three, "endor") == {}

    three.clustermesh(*JOIN)
    expect_whole(three)

    with down(three, "endor"):
        wait_until("koornacht sees that endor is away", lambda: peers(three, "koornacht")["endor"] != "ready")
        assert status(three, "koornacht")[0] == DEGRADED
        checked = three.clustermesh("check", "--context", "kind-koornacht", check=False)
        assert checked.returncode == CHECK_FAILED
        assert "koornacht cannot use endor at" in checked.stdout
        for cluster in PAIR:
            three.clustermesh("disconnect", "endor", "--context", f"kind-{cluster}")
            assert "endor" not in objects(three, cluster)
        for cluster, other in (PAIR, PAIR[::-1]):
            assert status(three, cluster, "--wait", "--wait-duration", "20s") == (0, {other: "ready"})
            wait_until("nothing of endor is known", lambda c=cluster: "endor" not in known_nodes(three, c))

    assert set(peers(three, "endor")) == set(PAIR)
    wait_until(
        "endor, which was not told, sees that both refuse it",
        lambda: all(state != "ready" for state in peers(three, "endor").values()),
    )
    three.clustermesh(*JOIN)
    expect_whole(three)
