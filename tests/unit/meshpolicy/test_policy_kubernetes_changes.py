# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes' end-to-end suite asks of changes: policies that come, change and go, and labels that move pods.

Each case says who reaches pod a of namespace x after each step, of the pods b of the namespaces x, y and z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from meshmodel.identity import NumericIdentity
from meshmodel.labels import pod_labels
from meshpolicy import Direction, Engine, PolicyContext, PolicyKind, PolicyRef, parse_policy
from meshpolicy.rebuild import differences

CONTEXT: Final = PolicyContext("north")
SUBJECT: Final = NumericIdentity(300)
PEERS: Final = {"x": NumericIdentity(301), "y": NumericIdentity(302), "z": NumericIdentity(303)}
MOVED: Final = NumericIdentity(304)
Step = Callable[["World"], None]


class World:
    """One engine, and which identity each peer has now."""

    def __init__(self) -> None:
        self.engine, self.peers = Engine(CONTEXT), dict(PEERS)
        self.label("x", SUBJECT, pod="a")
        for space, number in PEERS.items():
            self.label(space, number)

    def label(self, space: str, number: NumericIdentity, *, pod: str = "b", **namespace: str) -> None:
        self.engine.set_identity(
            number, pod_labels({"pod": pod}, space, {"ns": space, **namespace}, "default", "north")
        )

    def reach(self) -> str:
        policy = self.engine.endpoint_policy(SUBJECT)
        return "".join(s for s, n in self.peers.items() if policy.verdict(Direction.INGRESS, int(n), 6, 80).allowed)


def policy(name: str, *rules: dict[str, Any], **subject: str) -> Step:
    spec = {"podSelector": {"matchLabels": subject}, "policyTypes": ["Ingress"], "ingress": list(rules)}
    meta = {"name": name, "namespace": "x"}
    document = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}

    def step(world: World) -> None:
        world.engine.set_policy(parse_policy(document, CONTEXT))

    return step


def gone(name: str) -> Step:
    def step(world: World) -> None:
        world.engine.remove_policy(PolicyRef(PolicyKind.KUBERNETES, "x", name))

    return step


def namespace_gets(space: str, **labels: str) -> Step:
    """All its pods get another identity with the label; here the number stays."""

    def step(world: World) -> None:
        world.label(space, PEERS[space], **labels)

    return step


def pod_becomes(space: str, pod: str) -> Step:
    """The pod gets another identity."""

    def step(world: World) -> None:
        world.peers[space] = MOVED
        world.label(space, MOVED, pod=pod)

    return step


def becomes_subject(pod: str) -> Step:
    def step(world: World) -> None:
        world.label("x", SUBJECT, pod=pod)

    return step


def spaces(**labels: str) -> dict[str, Any]:
    return {"from": [{"namespaceSelector": {"matchLabels": labels}}]}


def pods(name: str) -> dict[str, Any]:
    return {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": name}}}]}


ON_81: Final = {"ports": [{"port": 81, "protocol": "TCP"}]}
CASES: Final[dict[str, list[tuple[Step, str]]]] = {
    "stops enforcing policies after they are deleted": [
        (policy("deny"), ""), (policy("y", spaces(ns="y")), "y"), (gone("deny"), "y"), (gone("y"), "xyz"),
    ],
    "enforces an updated policy": [
        (policy("p", spaces(ns="y")), "y"), (policy("p", spaces(ns="z")), "z"), (policy("p", {}), "xyz"), (policy("p"), ""),
    ],
    "allows a port only after the update that names it": [(policy("p", ON_81), ""), (policy("p", {}), "xyz")],
    "allow-all takes precedence over a policy that allows some": [
        (policy("some", spaces(ns="y")), "y"), (policy("all", {}), "xyz"), (gone("some"), "xyz"), (gone("all"), "xyz"),
    ],
    "multiple, stacked policies with overlapping selectors": [
        (policy("one", spaces(ns="y"), pod="a"), "y"), (policy("two", spaces(ns="z")), "yz"),
        (policy("other", {}, pod="b"), "yz"), (gone("one"), "z"),
    ],
    "enforces a policy after the namespace's labels are updated": [
        (policy("p", spaces(team="red")), ""), (namespace_gets("y", team="red"), "y"), (namespace_gets("y"), ""),
    ],
    "allows a pod after its labels are updated": [
        (policy("p", pods("c")), ""), (pod_becomes("z", "c"), "z"), (pod_becomes("z", "b"), ""),
    ],
    "isolates a pod after its own labels are updated": [
        (policy("p", pod="c"), "xyz"), (becomes_subject("c"), ""), (becomes_subject("a"), "xyz"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("title", CASES)
def test_every_step_takes_effect_and_equals_a_fresh_start(title: str) -> None:
    world = World()
    assert world.reach() == "xyz", "without policies everybody reaches it"
    for step, (change, expected) in enumerate(CASES[title]):
        change(world)
        assert world.reach() == expected, f"after step {step}"
        assert differences(world.engine) == (), f"after step {step}"
