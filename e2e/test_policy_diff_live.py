# SPDX-License-Identifier: Apache-2.0
"""`policy diff` foretells what becomes of real traffic, and `policy suggest` writes what opens it: of pods and of services."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from e2e.mesh import Mesh
from e2e.policies import DROPPED, REACHED, Place, ask, cilium_policy, in_force
from meshmodel.labels import CLUSTER_LABEL

ONLY_KOORNACHT = cilium_policy(
    "e2e-only-koornacht",
    "rebel-base",
    "ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.policy.cluster: koornacht, name: nobody}}]}]",
)
CLOSED = cilium_policy("e2e-closed", "x-wing", "egress: [{}]")
TO_SERVICE = cilium_policy(
    "e2e-to-service",
    "x-wing",
    "egress: [{toServices: [{k8sService: {serviceName: rebel-base, namespace: default}}]}]",
)


@pytest.fixture
def foretell(whole: Mesh, tmp_path: Path) -> Callable[[str], Any]:
    """What the command says of a policy, for koornacht."""
    file = tmp_path / "policy.yaml"

    def ask_diff(text: str) -> Any:
        file.write_text(text)
        words = ("policy", "diff", str(file), "--context", "kind-koornacht", "-o", "json")
        return orjson.loads(whole.clustermesh(*words).stdout)

    return ask_diff


def flows_to(said: Any, address: str) -> list[Any]:
    return [flow for flow in said["flows"] if flow["example"].endswith(f"({address})")]


def test_connections_that_a_policy_would_cut_are_foretold_and_then_cut(
    whole: Mesh, foretell: Callable[[str], Any]
) -> None:
    source = Place("koornacht", whole.pod("koornacht", "x-wing")[0])
    _, node, address = whole.pod("koornacht", "rebel-base")
    whole.wait_until("x-wing reaches rebel-base", lambda: ask(whole, source, {"it": address}) == {"it": REACHED})
    said = foretell(ONLY_KOORNACHT)
    assert said["nodes-missing"] == []
    assert {row["node"] for row in said["nodes"]} == set(
        whole.kubectl("koornacht", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").stdout.split()
    )
    assert said["connections-judged"] > 0
    (flow,) = (flow for flow in flows_to(said, address) if source.pod in flow["example"])
    assert (flow["direction"], flow["packets"], flow["node"]) == ("ingress", "80/TCP", node)
    assert (flow["before"], flow["after"], flow["dropped"]) == ("allowed", "denied", 0)
    assert flow["connections"] > 0
    with in_force(whole, {"koornacht": [ONLY_KOORNACHT]}):
        whole.wait_until("the policy cuts it", lambda: ask(whole, source, {"it": address}) == {"it": DROPPED})
        assert flows_to(foretell(ONLY_KOORNACHT), address) == [], "nothing changes any more"
    whole.wait_until("x-wing reaches rebel-base", lambda: ask(whole, source, {"it": address}) == {"it": REACHED})


def test_a_rule_that_names_a_service_is_foretold_by_its_backends_in_both_clusters(
    whole: Mesh, foretell: Callable[[str], Any]
) -> None:
    source = Place("koornacht", whole.pod("koornacht", "x-wing")[0])
    far = whole.pod("tion", "rebel-base")[2]
    with in_force(whole, {"koornacht": [CLOSED]}):
        whole.wait_until("x-wing is closed", lambda: ask(whole, source, {"it": far}) == {"it": DROPPED})
        said = foretell(TO_SERVICE)
        assert said["warnings"] == []
        opened = {change["to"].rpartition("@")[2] for change in said["changes"] if change["direction"] == "egress"}
        assert opened == {"koornacht", "tion"}
        (flow,) = flows_to(said, far)
        assert (flow["before"], flow["after"], flow["node"]) == (
            "denied",
            "allowed",
            whole.pod("koornacht", "x-wing")[1],
        )
        assert flow["dropped"] > 0, "the ring tells what really happened"
        with in_force(whole, {"koornacht": [TO_SERVICE]}):
            whole.wait_until("the rule opens it", lambda: ask(whole, source, {"it": far}) == {"it": REACHED})


def test_the_policy_that_is_suggested_for_a_dropped_connection_opens_it(whole: Mesh) -> None:
    source = Place("koornacht", whole.pod("koornacht", "x-wing")[0])
    far = whole.pod("tion", "rebel-base")[2]
    with in_force(whole, {"koornacht": [CLOSED]}):
        whole.wait_until("x-wing is closed", lambda: ask(whole, source, {"it": far}) == {"it": DROPPED})
        words = ("policy", "suggest", "--namespace", "default", "--context", "kind-koornacht")
        text = whole.clustermesh(*words, check=False).stdout
        assert f"# default/{source.pod} (koornacht) -> default/" in text
        documents = [each for each in yaml.safe_load_all(text) if each]
        (wanted,) = (each for each in documents if "egress" in each["spec"] and "x-wing" in each["metadata"]["name"])
        peers = [peer["matchLabels"] for rule in wanted["spec"]["egress"] for peer in rule.get("toEndpoints", ())]
        assert "tion" in {labels[f"k8s:{CLUSTER_LABEL}"] for labels in peers}
        with in_force(whole, {"koornacht": [yaml.safe_dump(wanted)]}):
            whole.wait_until("the suggestion opens it", lambda: ask(whole, source, {"it": far}) == {"it": REACHED})
