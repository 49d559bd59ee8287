# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a policy, it costs that policy at most: it opens nothing, stops nobody, and is told with what to do.

Each seed is one test, so that a failing one is named and can be run alone. POLICY_ODD_SEEDS=500 tries more.
"""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from history_world import NORTH, World
from odd_documents import changed, hostile_text, misspelt, valid_documents

from agent.tables import Endpoint, Identity
from clustermesh_cli.commands.policy_diff import diff
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from meshkit.answer_form import AnswerForm
from meshmodel.labels import pod_labels
from meshpolicy import Direction, PolicyContext, PolicyError, PolicyRef, differences, parse_policy
from meshpolicy.evaluate import CaseError, evaluate
from meshpolicy.lint import lint
from meshpolicy.proxy_ports import ProxyPorts
from tests.unit.cli.explain_world import scripted_cluster

SEEDS = int(os.environ.get("POLICY_ODD_SEEDS", "6"))
DOCUMENTS = 30
"""Of each seed."""
COMPARED = 6
"""A fresh start costs as much as all documents before it."""
LONGEST = 1000
SAFE = 304
EVERYBODY = (300, 301, 302, 303)
PODS = {"namespaces": {}}
SHUT: dict[str, Any] = {
    "apiVersion": "policy.networking.k8s.io/v1alpha2",
    "kind": "ClusterNetworkPolicy",
    "metadata": {"name": "shut"},
    "spec": {
        "tier": "Admin",
        "priority": 0,
        "subject": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "safe"}}},
        "ingress": [{"action": "Deny", "from": [PODS]}],
        "egress": [{"action": "Deny", "to": [PODS]}],
    },
}
"""Pods of one namespace talk to no pod: no other document may change that."""


def make_world(seed: int) -> World:
    ports = ProxyPorts() if seed & 4 else None
    world = World(
        PolicyContext("north", bool(seed & 1), dual_stack=seed % 3 == 2, ipv6=seed % 3 == 1, proxy_ports=ports)
    )
    of_namespace = {"kubernetes.io/metadata.name": "safe"}
    with world.db.write():
        safe = pod_labels({"app": "a"}, "safe", of_namespace, "default", NORTH)
        world.db.identities.put(Identity(SAFE, NORTH, safe))
        world.db.endpoints.put(Endpoint("10.9.0.200", 200, 200, "", "", SAFE, "safe", "p"))
    for number in EVERYBODY:
        app, namespace = "abc"[number % 3], ("one", "two")[number % 2]
        world.take(("identity", number, app, namespace, NORTH, {}))
        world.take(("pod", number - 299, number, 80))
    world.take(("node", NORTH, 1, "a", "x"))
    world.set_document(SHUT)
    world.compiler.step()
    return world


def documents(seed: int) -> list[tuple[dict[str, Any], bool]]:
    """Documents with whether a field of theirs is misspelt."""
    pick, source = random.Random(seed), valid_documents(seed)
    others = [next(source) for _ in range(12)]
    made = []
    for _ in range(DOCUMENTS):
        is_misspelt = pick.random() < 0.2
        base = next(source)
        made.append((misspelt(pick, base) if is_misspelt else changed(pick, base, others), is_misspelt))
    return made


def ref_of(document: dict[str, Any]) -> PolicyRef:
    meta = document["metadata"]
    return PolicyRef(document["kind"], meta.get("namespace", ""), meta["name"])


@pytest.mark.parametrize("seed", range(SEEDS))
def test_an_odd_document_costs_itself_at_most(seed: int) -> None:
    world = make_world(seed)
    for number, (document, is_misspelt) in enumerate(documents(seed)):
        where, ref = f"seed {seed}, document {number}: {str(document)[:2000]}", ref_of(document)
        before = world.enforced()
        row = world.compiler.set_document(document, ref)
        world.compiler.step()
        world.compiler.step()
        assert not world.compiler.faults, where
        assert differences(world.compiler.engine) == (), where
        if row.is_valid:
            world.documents[ref] = document
        else:
            assert row.message, where
            assert world.enforced() == before, where
        assert not (is_misspelt and row.is_valid and document["kind"] != "ClusterNetworkPolicy"), where
        policy = world.compiler.engine.endpoint_policy(SAFE)  # type: ignore[arg-type]
        for direction in Direction:
            assert not any(policy.verdict(direction, peer, 6, 80).allowed for peer in EVERYBODY), where
        if number % COMPARED == COMPARED - 1:
            assert world.enforced() == world.rebuilt().enforced(), where


def refusal_of(document: dict[str, Any], context: PolicyContext) -> PolicyError | None:
    try:
        parse_policy(document, context)
    except PolicyError as exc:
        return exc
    return None


@pytest.mark.parametrize("seed", range(SEEDS))
def test_an_odd_document_is_read_or_refused_with_what_to_do(seed: int) -> None:
    context = PolicyContext("north")
    for number, (document, _) in enumerate(documents(seed)):
        where = f"seed {seed}, document {number}: {str(document)[:2000]}"
        refused = refusal_of(document, context)
        if refused is not None:
            assert all((refused.where, refused.what, refused.fix)), where
            assert len(str(refused)) < LONGEST, where
            assert "cannot be read" not in refused.what, where  # the parser would have failed on it
        assert all(len(str(finding)) < 3 * LONGEST for finding in lint([document], context)), where


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_text_stops_a_command(seed: int, tmp_path: Path) -> None:
    pick, api = random.Random(seed), scripted_cluster("north")
    file = tmp_path / "new.yaml"
    ids = {"client": ["k8s:app=a", "k8s:io.kubernetes.pod.namespace=one"]}
    for number, (document, _) in enumerate(documents(seed)):
        text = hostile_text(pick, document)
        where = f"seed {seed}, document {number}: {text[:2000]!r}"
        for finding in lint([text], PolicyContext("north")):
            assert finding.message, where
        for policies in ([text], [document], text):
            case = {"cluster": "north", "ids": ids, "policies": policies, "flows": [["client", "world", "TCP", 80]]}
            if policies is text:
                with pytest.raises(CaseError):
                    evaluate(case)
            else:
                assert evaluate(case), where
        if number % 10 == 0:
            file.write_bytes(text.encode() if number % 20 else yaml.safe_dump(document).encode())
            console = Console(plain=True, stream=io.StringIO())
            try:
                code = diff(str(file), api.client("kind-north"), "kube-system", AnswerForm.TABLE, console)
            except CommandError as exc:
                code = exc.code
            assert code in (ExitCode.OK, ExitCode.DEGRADED, ExitCode.CHECK_FAILED, ExitCode.USAGE), where
