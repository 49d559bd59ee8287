# SPDX-License-Identifier: Apache-2.0
"""A node whose agent is gone for good (ADR 19): its maps grow old, and no request of its pods is lost for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from e2e.held import kept
from e2e.mesh import SAMPLE, SYSTEM, Mesh
from e2e.traffic import BOTH, Requests, requests

AGENTS, LIMIT_S = "k8s-app=clustermesh-agent", 10
MARK = "e2e-has-agent"


def set_limit(mesh: Mesh, seconds: str) -> None:
    """Agents say how long their programs wait for them; empty: the default."""
    setting = f"agent.unattended-after-s={seconds}"
    mesh.clustermesh("enable", "--context", "kind-koornacht", "--service-type", "NodePort", "--set", setting)
    wait_for_agents(mesh)


def wait_for_agents(mesh: Mesh) -> None:
    mesh.kubectl("koornacht", "rollout", "status", "-n", SYSTEM, "daemonset/clustermesh-agent", "--timeout=60s")


def place_agents(mesh: Mesh, selector: dict[str, str | None]) -> None:
    patch = json.dumps({"spec": {"template": {"spec": {"nodeSelector": selector}}}})
    mesh.kubectl("koornacht", "patch", "-n", SYSTEM, "daemonset", "clustermesh-agent", "--type=merge", "-p", patch)
    wait_for_agents(mesh)


@contextmanager
def without_agent(mesh: Mesh, node: str) -> Iterator[None]:
    """No agent runs on the node; its programs and maps stay as they are."""
    others = [name for n in mesh.get("koornacht", "nodes")["items"] if (name := n["metadata"]["name"]) != node]
    try:
        mesh.kubectl("koornacht", "label", "--overwrite", "node", *others, f"{MARK}=yes")
        place_agents(mesh, {MARK: "yes"})
        yield
    finally:
        place_agents(mesh, {MARK: None})
        mesh.kubectl("koornacht", "label", "node", *others, f"{MARK}-")


def only_own(loop: Requests) -> bool:
    now = loop.so_far()
    return set(loop.more(SAMPLE) - now) == {"Koornacht"}


def test_a_node_whose_agent_is_gone_for_good_is_answered_by_its_own_cluster(
    mesh: Mesh, attacks: list[tuple[str, str, str, str]]
) -> None:
    """New connections go the node's own way, to pods that its maps have never heard of; open ones stay where they are."""
    pod, node, _ = mesh.pod("koornacht", "x-wing")
    try:
        set_limit(mesh, str(LIMIT_S))
        mesh.expect_whole()
        with kept(mesh, pod, 6) as (before, ask_again), requests(mesh, "koornacht", pod=pod) as loop:
            loop.wait_for_both()
            begun = loop.so_far()
            with without_agent(mesh, node):
                assert node not in {p["spec"]["nodeName"] for p in mesh.pods("koornacht", AGENTS, SYSTEM)}
                mesh.wait_until("the node's stack has new connections", lambda: only_own(loop), 9 * LIMIT_S)
                assert ask_again() == before
                assert set(loop.so_far() - begun) == BOTH
                mesh.kubectl("koornacht", "rollout", "restart", "deployment/rebel-base")
                mesh.kubectl("koornacht", "rollout", "status", "deployment/rebel-base", "--timeout=60s")
                mesh.wait_until("the node's stack knows only the new pods", lambda: only_own(loop), 9 * LIMIT_S)
                replaced = loop.so_far()
                found = loop.more(60) - replaced
                assert set(found) == {"Koornacht"}, found
            back = loop.so_far()
            loop.wait_for_both()
            assert set(loop.so_far() - back) == BOTH
    finally:
        set_limit(mesh, "")
        mesh.expect_whole()
    attacks.append(
        (
            "operator",
            "the agent of a node goes for good, then all pods of a service",
            "watchdog of the programs: the node's own stack",
            f"nothing: 6 of 6 connections go on, {found.total()} requests answered",
        )
    )
