# SPDX-License-Identifier: Apache-2.0
"""How much 1,000 policies over 5,000 identities cost, one change among them, and 10,000 policies: CPU, memory, entries written.

`make bench SUITE=policy` prints them as JSON. Figures are CPU time of this process, medians where a step
is repeated; nothing here sleeps or uses the network.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from meshmodel.identity import NumericIdentity
from meshmodel.labels import NAMESPACE_LABEL, Labels, pod_labels
from meshpolicy import EndpointPolicy, Engine, Policy, PolicyChange, PolicyContext, parse_policy
from meshpolicy.evaluate import evaluate
from meshpolicy.selector import LabelSelector

POLICIES, IDENTITIES, NAMESPACES, APPS = 1000, 5000, 50, 100
ENDPOINTS = 100
CLUSTERS = ("koornacht", "tion")
MANY_POLICIES, RULES_OF_A_LARGE_POLICY = 10_000, 200
TARGET_COMPILE_S, TARGET_BYTES = 1.5, 100_000_000
TARGET_IDENTITY_S, TARGET_POLICY_S, TARGET_EDIT_S, TARGET_LOAD_S = 0.0005, 0.001, 0.020, 10.0
TARGET_VERDICTS_PER_S = 10_000
AGENT_GARBAGE = (20_000, 20, 1_000_000)
"""How the agent collects garbage. Source: agent.app."""


def labels_of(index: int) -> Labels:
    """Pods of 100 apps in 50 namespaces of two clusters."""
    return pod_labels(
        {"app": f"app-{index % APPS}", "version": f"v{index // (APPS * NAMESPACES)}", "tier": f"tier-{index % 7}"},
        namespace=f"ns-{index // APPS % NAMESPACES}",
        namespace_labels={"kubernetes.io/metadata.name": f"ns-{index // APPS % NAMESPACES}"},
        service_account="default",
        cluster=CLUSTERS[index % len(CLUSTERS)],
    )


def document_of(index: int, pairs: int = 7) -> dict[str, Any]:
    """A policy of nine rules: peers in two namespaces on two ports seven times, pods of a tier, an address range."""
    namespace, app = f"ns-{index % NAMESPACES}", index // NAMESPACES * 5 % APPS
    ingress = [
        {
            "fromEndpoints": [
                {"matchLabels": {"app": f"app-{(app + step) % APPS}"}},
                {"matchLabels": {"app": f"app-{(app + step + 1) % APPS}", "io.kubernetes.pod.namespace": "ns-1"}},
            ],
            "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}, {"port": "8000", "endPort": 8100}]}],
        }
        for step in range(1, pairs * 10, 10)
    ]
    egress: list[dict[str, Any]] = [
        {"toEndpoints": [{"matchLabels": {"tier": f"tier-{index % 7}"}}]},
        {"toCIDRSet": [{"cidr": f"10.{index % 200}.0.0/16", "except": [f"10.{index % 200}.{index % 250}.0/24"]}]},
    ]
    spec: dict[str, Any] = {
        "endpointSelector": {"matchLabels": {"app": f"app-{app}"}},
        "ingress": ingress,
        "egress": egress,
    }
    if index % 10 == 0:
        spec["ingressDeny"] = [{"fromEndpoints": [{"matchLabels": {"version": "v1"}}]}]
    return {
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": f"policy-{index}", "namespace": namespace},
        "spec": spec,
    }


def cpu(step: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    step()
    return time.process_time() - start


def resident_bytes() -> int:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Node:
    """An agent's use of the engine: its endpoints' policies, asked for again when a change names them."""

    def __init__(self, engine: Engine, endpoints: list[NumericIdentity]) -> None:
        self.engine = engine
        self.held: dict[NumericIdentity, EndpointPolicy | None] = dict.fromkeys(endpoints)

    def settle(self, affected: frozenset[NumericIdentity]) -> int:
        """Write what changed; returns the number of map writes."""
        written = 0
        for number in affected & self.held.keys():
            policy = self.engine.endpoint_policy(number)
            diff = policy.diff(self.held[number])
            written += len(diff.updates) + len(diff.deletes)
            self.held[number] = policy
        return written


def run() -> dict[str, Any]:
    """All figures of the suite."""
    gc.set_threshold(*AGENT_GARBAGE)
    gc.freeze()
    empty = resident_bytes()
    documents = [document_of(index) for index in range(POLICIES)]
    labels = [labels_of(index) for index in range(IDENTITIES)]
    engine = Engine(PolicyContext("koornacht", False))
    policies: list[Policy] = []
    parse_s = cpu(lambda: policies.extend(parse_policy(document, engine.context) for document in documents))
    numbers = [NumericIdentity(70_000 + index) for index in range(IDENTITIES)]
    identities_s = cpu(
        lambda: [engine.set_identity(number, known) for number, known in zip(numbers, labels, strict=True)]
    )
    policies_s = cpu(lambda: [engine.set_policy(policy) for policy in policies])
    governed = [number for number in numbers if engine.rules_of(number)]
    node = Node(engine, governed[:: len(governed) // ENDPOINTS][:ENDPOINTS])
    written = 0

    def first() -> None:
        nonlocal written
        written = node.settle(frozenset(node.held))

    endpoints_s = cpu(first)
    figures = {
        "policies": POLICIES,
        "identities": IDENTITIES,
        "endpoints": len(node.held),
        "parse_cpu_s": parse_s,
        "identities_cpu_s": identities_s,
        "policies_cpu_s": policies_s,
        "endpoints_cpu_s": endpoints_s,
        "full_compile_cpu_s": parse_s + identities_s + policies_s + endpoints_s,
        "full_compile_target_s": TARGET_COMPILE_S,
        "entries": sum(len(policy.entries) for policy in node.held.values() if policy is not None),
        "entries_written_first": written,
        "resident_bytes": resident_bytes() - empty,
        "resident_target_bytes": TARGET_BYTES,
    }
    changes = {**_measure_changes(engine, node), **_measure_edits(engine, node)}
    return {**figures, **changes, **_measure_all(engine, numbers), **_measure_load(labels), **_measure_evaluation()}


def _measure_changes(engine: Engine, node: Node) -> dict[str, Any]:
    identities, policies = [], []
    for index in range(200):
        number, labels = NumericIdentity(90_000 + index), _popular_labels(index)
        identities.append(_one_change(node, partial(engine.set_identity, number, labels)))
    matched = _matching_rules(engine, _popular_labels(0))
    subjects = [number for number in node.held for _ in range(2)]
    for index, number in enumerate(subjects):
        document = document_of(index * 17)
        labels = {label.key: label.value for label in engine.labels_of(number) or ()}
        document["metadata"] = {"name": f"extra-{index}", "namespace": labels[NAMESPACE_LABEL]}
        document["spec"]["endpointSelector"] = {"matchLabels": {"app": labels["app"]}}
        policy = parse_policy(document, engine.context)
        policies.append(_one_change(node, partial(engine.set_policy, policy)))
    return {
        "rules_matched_by_new_identity": matched,
        **_summary("new_identity", identities, TARGET_IDENTITY_S),
        **_summary("new_policy", policies, TARGET_POLICY_S),
    }


def _measure_edits(engine: Engine, node: Node) -> dict[str, Any]:
    """A policy of many rules of which one changes each time: parsed, in force, and the maps right again."""
    subject = next(iter(node.held))
    labels = {label.key: label.value for label in engine.labels_of(subject) or ()}
    spent = []
    for edit in range(20):
        document = document_of(0)
        document["metadata"] = {"name": "large", "namespace": labels[NAMESPACE_LABEL]}
        document["spec"] = {
            "endpointSelector": {"matchLabels": {"app": labels["app"]}},
            "ingress": [
                {
                    "fromEndpoints": [{"matchLabels": {"app": f"app-{rule % APPS}", "tier": f"tier-{rule % 7}"}}],
                    "toPorts": [{"ports": [{"port": str(1000 + (rule or edit)), "protocol": "TCP"}]}],
                }
                for rule in range(RULES_OF_A_LARGE_POLICY)
            ],
        }
        spent.append(_one_change(node, lambda d=document: engine.set_policy(parse_policy(d, engine.context))))  # type: ignore[misc]
    return _summary("edit_of_200_rules", spent[1:], TARGET_EDIT_S)


def _measure_load(labels: list[Labels]) -> dict[str, Any]:
    """As many policies as a large cluster has, read and put in force after a restart."""
    documents = [document_of(index) for index in range(MANY_POLICIES)]
    engine = Engine(PolicyContext("koornacht", False))
    before = resident_bytes()

    def load() -> None:
        for index, known in enumerate(labels):
            engine.set_identity(NumericIdentity(70_000 + index), known)
        for document in documents:
            engine.set_policy(parse_policy(document, engine.context))
        for number in range(70_000, 70_000 + ENDPOINTS):
            engine.endpoint_policy(NumericIdentity(number))

    return {
        "load_of_10000_policies_cpu_s": cpu(load),
        "load_of_10000_policies_target_s": TARGET_LOAD_S,
        "load_of_10000_policies_resident_bytes": resident_bytes() - before,
    }


def _popular_labels(index: int) -> Labels:
    """A pod whose app and tier ten rules of its namespace's policies name as a peer."""
    return pod_labels(
        {"app": f"app-{1 + index % 2 * 10}", "tier": "tier-3", "version": f"v{10 + index}"},
        namespace="ns-1",
        namespace_labels={},
        service_account="default",
        cluster=CLUSTERS[index % len(CLUSTERS)],
    )


def _one_change(node: Node, change: Callable[[], PolicyChange]) -> tuple[float, int, int]:
    """CPU seconds until the maps are right again, map writes, endpoints concerned."""
    endpoints = writes = 0

    def step() -> None:
        nonlocal endpoints, writes
        affected = change().affected
        endpoints, writes = len(affected), node.settle(affected)

    return cpu(step), writes, endpoints


def _summary(name: str, changes: list[tuple[float, int, int]], target_s: float) -> dict[str, Any]:
    times, writes, endpoints = zip(*changes, strict=True)
    return {
        f"{name}_cpu_s": statistics.median(times),
        f"{name}_p99_cpu_s": sorted(times)[len(times) * 99 // 100],
        f"{name}_target_s": target_s,
        f"{name}_entries_written": statistics.median(writes),
        f"{name}_endpoints": statistics.median(endpoints),
    }


def _matching_rules(engine: Engine, labels: Labels) -> int:
    """How many rules select the labels as a peer, counted one by one."""
    return sum(
        any(isinstance(peer, LabelSelector) and peer.matches(labels) for peer in rule.peers or ())
        for policy in engine.policies()
        for rule in policy.rules
    )


def _measure_all(engine: Engine, numbers: list[NumericIdentity]) -> dict[str, Any]:
    """Every identity as an endpoint: what a node with all pods of the cluster would compile."""
    before = resident_bytes()
    spent = cpu(lambda: [engine.endpoint_policy(number) for number in numbers])
    return {"all_identities_compile_cpu_s": spent, "all_identities_resident_bytes": resident_bytes() - before}


def _measure_evaluation() -> dict[str, Any]:
    """`policy eval`: many small cases, each with policies of its own, and one large case."""
    ids = {f"pod-{index}": [str(label) for label in labels_of(index)] for index in range(20)}
    flows = [[f"pod-{a}", f"pod-{b}", "TCP", 80] for a in range(5) for b in range(5)]
    small = [
        {
            "cluster": "koornacht",
            "scope": "",
            "ids": ids,
            "policies": [json.dumps(document_of(case * 3 + offset, 2)) for offset in range(3)],
            "flows": flows,
        }
        for case in range(60)
    ]
    large = {**small[0], "flows": [[f"pod-{a % 20}", f"pod-{a // 20 % 20}", "TCP", a] for a in range(20_000)]}
    small_s, large_s = cpu(lambda: evaluate(small)), cpu(lambda: evaluate(large))
    return {
        "eval_small_cases_verdicts_per_s": 2 * len(small) * len(flows) / small_s,
        "eval_large_case_verdicts_per_s": 2 * len(large["flows"]) / large_s,
        "eval_target_verdicts_per_s": TARGET_VERDICTS_PER_S,
    }
