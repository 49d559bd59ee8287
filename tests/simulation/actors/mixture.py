# SPDX-License-Identifier: Apache-2.0
"""Which actors take part in a world, how often each acts, and the history that comes of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.simulation.actors import careless, fate, hostile, nodes, policies, users
from tests.simulation.actors.plan import NAMESPACES, SERVICES, Plan
from tests.simulation.steps import Step, step
from tests.simulation.world import Shape

Actor = Callable[[Plan], Iterator[Step]]
TAKES_PART: Final = 0.5
EAGERNESS: Final = (0.5, 1.0, 4.0)

ORDERLY: Final[dict[Actor, int]] = {
    users.put_service: 6,
    users.put_pod: 10,
    users.end_pod: 4,
    users.prefer_side: 2,
    users.delete_service: 2,
    users.roll_out: 1,
    users.change_namespace: 1,
    users.replace_namespace: 1,
    users.pause: 6,
}
CARELESS: Final[dict[Actor, int]] = {
    careless.edit_service_three_times: 2,
    careless.replace_service: 2,
    careless.odd_slice: 1,
    careless.headless: 1,
    careless.move_pod: 1,
    careless.unshare_and_share: 1,
    careless.unshare_unheard: 1,
    nodes.relabel_node: 1,
    nodes.odd_node: 1,
    nodes.lose_node_object: 1,
    nodes.readdress_node: 2,
}
POLICIES: Final[dict[Actor, int]] = {
    policies.put_policy: 5,
    policies.put_network_policy: 2,
    policies.put_clusterwide: 1,
    policies.put_tiered: 1,
    policies.change_group: 1,
    policies.rely_on_group: 1,
    policies.delete_policies: 3,
    policies.edit_policy_three_times: 2,
    policies.restart_behind_denial: 1,
    policies.break_policy: 1,
}
HOSTILE: Final[dict[Actor, int]] = {
    hostile.claim_addresses: 2,
    hostile.claim_networks: 2,
    hostile.claim_service_address: 2,
    hostile.claim_identity: 1,
    hostile.misshape: 1,
    hostile.misdescribe: 1,
    hostile.flood: 1,
    hostile.garbage: 1,
}
FATE: Final[dict[Actor, int]] = {
    fate.crash: 3,
    fate.die_writing: 2,
    fate.freeze: 1,
    fate.cut_wire: 2,
    fate.slow_wire: 1,
    fate.lose_answer: 1,
    fate.trouble_kubernetes: 2,
    fate.trouble_store: 2,
    fate.fail_map: 1,
    fate.deafen: 1,
    fate.disconnect: 1,
    fate.break_between_turns: 2,
    fate.die_publishing: 1,
    fate.jump_clock: 1,
    fate.leap: 1,
    fate.restore_store: 1,
    fate.lose_lease: 1,
    fate.fill_map: 1,
    fate.starve_map: 1,
    fate.miss_deletions: 2,
    fate.lose_peer: 1,
    fate.change_credential: 2,
    fate.replace_authority: 1,
    fate.replace_store: 1,
    fate.restart_after_end: 1,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A world that can be asked for by name."""

    shape: Shape
    actors: dict[Actor, int]


WORLDS: Final[dict[str, Setting]] = {
    "quiet": Setting(Shape(2, 1), ORDERLY),
    "careless": Setting(Shape(2, 1), ORDERLY | CARELESS),
    "faulty": Setting(Shape(2, 1), ORDERLY | FATE),
    "hostile": Setting(Shape(2, 1), ORDERLY | HOSTILE),
    "policies": Setting(Shape(2, 1), ORDERLY | POLICIES),
    "small": Setting(Shape(2, 1), ORDERLY | CARELESS | POLICIES | HOSTILE | FATE),
    "large": Setting(Shape(4, 2), ORDERLY | CARELESS | POLICIES | HOSTILE | FATE),
}


def make_history(seed: int, setting: Setting, length: int) -> list[Step]:
    """The history of a seed: at most a few steps longer than `length`."""
    rng = random.Random(f"{seed} history")
    plan = Plan(rng, setting.shape, (rng.choice(NAMESPACES), rng.choice(SERVICES)))
    shop = {"metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}}}
    history = [step("put", cluster, "namespace", shop) for cluster in plan.clusters]
    history += users.open_shop(plan)
    actors, weights = _troupe(plan.rng, setting.actors)
    while len(history) < length:
        plan.length = len(history)
        history += plan.due()
        history += plan.rng.choices(actors, weights)[0](plan)
    history += [what for _, what in plan.later]
    tampered = dict.fromkeys(each.args[:2] for each in history if each.verb == "record")
    floods = dict.fromkeys(each.args[:2] for each in history if each.verb == "flood")
    history += [step("ebb", *place) for place in floods]
    return history + [step("norecord", *place) for place in tampered]  # a store that is restored has them again


def _troupe(rng: random.Random, actors: dict[Actor, int]) -> tuple[list[Actor], list[float]]:
    """Those that take part in one history, and how often each acts.

    Not all of them at once: a history in which few kinds of things happen goes deeper into each.
    """
    chosen = [actor for actor in actors if actor in ORDERLY or rng.random() < TAKES_PART]
    return chosen, [actors[actor] * rng.choice(EAGERNESS) for actor in chosen]
