# SPDX-License-Identifier: Apache-2.0
"""ClusterNetworkPolicies with real pods: tiers before, after and around other policies, and a kind that comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib.resources import files
from typing import Any

import pytest

from e2e.mesh import Mesh
from e2e.policies import DROPPED, REACHED, Place, ask, cilium_policy, in_force

CRD = (files("deploy") / "crds" / "clusternetworkpolicies.yaml").read_text()
PODS = "{pods: {podSelector: {matchLabels: {name: NAME}}}}"
OPEN = cilium_policy("e2e-open", "rebel-base", "ingress: [{fromEntities: [cluster]}]")
CLOSED = cilium_policy("e2e-closed", "rebel-base", "ingress: [{}]")


def tiered(name: str, tier: str, action: str, priority: int = 10) -> str:
    """A policy about rebel-base: what x-wing sends to it on port 80."""
    subject, peer = (PODS.replace("NAME", app) for app in ("rebel-base", "x-wing"))
    rule = f"{{action: {action}, from: [{peer}], protocols: [{{tcp: {{destinationPort: {{number: 80}}}}}}]}}"
    return (
        f"apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: e2e-{name}}}\n"
        f"spec: {{tier: {tier}, priority: {priority}, subject: {subject}, ingress: [{rule}]}}\n"
    )


ADMIN_DENY, ADMIN_PASS = tiered("deny", "Admin", "Deny"), tiered("pass", "Admin", "Pass", priority=5)
BASELINE_DENY, BASELINE_ACCEPT = tiered("base", "Baseline", "Deny"), tiered("base", "Baseline", "Accept")
CASES = {
    "a denial of the Admin tier beats a policy that allows": ([ADMIN_DENY, OPEN], DROPPED),
    "an acceptance of the Admin tier beats a policy that isolates": (
        [tiered("ok", "Admin", "Accept"), CLOSED],
        REACHED,
    ),
    "a pass before the denial leaves it to the policy that allows": ([ADMIN_DENY, ADMIN_PASS, OPEN], REACHED),
    "a pass before the denial leaves it to the policy that isolates": ([ADMIN_DENY, ADMIN_PASS, CLOSED], DROPPED),
    "what no other policy speaks about is the Baseline tier's": ([ADMIN_PASS, BASELINE_DENY], DROPPED),
    "the Baseline tier is not asked where a policy isolates": ([BASELINE_ACCEPT, CLOSED], DROPPED),
}


@pytest.fixture
def becomes(whole: Mesh) -> Callable[[str], None]:
    """Waits until x-wing's requests to rebel-base, in koornacht, end so; after the scenario they reach it again."""
    source = Place("koornacht", whole.pod("koornacht", "x-wing")[0])
    target = {"it": whole.pod("koornacht", "rebel-base")[2]}

    def wait(outcome: str) -> None:
        whole.wait_until(f"x-wing's request is {outcome}", lambda: ask(whole, source, target) == {"it": outcome})

    wait(REACHED)
    return wait


def condition(mesh: Mesh, name: str) -> dict[str, Any]:
    found = mesh.get("koornacht", "clusternetworkpolicy", name).get("status", {}).get("conditions", [])
    return next((c for c in found if c["type"] == "Valid"), {})


@pytest.mark.parametrize("title", CASES)
def test_which_tier_decides(whole: Mesh, becomes: Callable[[str], None], title: str) -> None:
    policies, outcome = CASES[title]
    first = [CLOSED] if outcome == REACHED else []
    with in_force(whole, {"koornacht": first}) if first else nullcontext():
        becomes(DROPPED if first else REACHED)
        with in_force(whole, {"koornacht": policies}):
            becomes(outcome)
    becomes(REACHED)


def test_an_object_says_that_it_is_valid_and_an_explanation_names_tier_priority_and_rule(
    whole: Mesh, becomes: Callable[[str], None]
) -> None:
    with in_force(whole, {"koornacht": [ADMIN_DENY]}):
        becomes(DROPPED)
        whole.wait_until("the object is valid", lambda: condition(whole, "e2e-deny").get("status") == "True")
        assert condition(whole, "e2e-deny")["reason"] == "PolicyValid"
        ends = [f"default/{whole.pod('koornacht', app)[0]}" for app in ("x-wing", "rebel-base")]
        said = whole.clustermesh(
            "explain", "policy", "--context", "kind-koornacht", "--from", ends[0], "--to", ends[1], "--port", "80/TCP",
            "--plain", check=False,
        ).stdout  # fmt: skip
        assert "kcnp/e2e-deny ingress[0] (Admin, priority 10)" in said
    becomes(REACHED)


def test_the_api_server_refuses_what_the_schema_does_not_know(whole: Mesh) -> None:
    wrong = ADMIN_DENY.replace("tier: Admin", "tier: Highest")
    done = whole.kubectl("koornacht", "apply", "-f", "-", input=wrong, check=False)
    assert done.returncode != 0
    assert "spec.tier" in done.stderr


def test_a_kind_that_goes_and_comes_again_is_noticed(whole: Mesh, becomes: Callable[[str], None]) -> None:
    """Without the kind agents run as before; its objects count from the moment they can exist."""
    whole.apply("koornacht", ADMIN_DENY)
    becomes(DROPPED)
    whole.delete("koornacht", CRD)
    try:
        becomes(REACHED)
        with in_force(whole, {"koornacht": [CLOSED]}):
            becomes(DROPPED)
        becomes(REACHED)
    finally:
        whole.apply("koornacht", CRD)
    whole.wait_until(
        "the kind is served",
        lambda: whole.kubectl("koornacht", "get", "clusternetworkpolicies", check=False).returncode == 0,
    )
    with in_force(whole, {"koornacht": [ADMIN_DENY]}):
        becomes(DROPPED)
    becomes(REACHED)
