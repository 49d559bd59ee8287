# SPDX-License-Identifier: Apache-2.0
"""At rest every node's service map has each Service's addresses, with exactly the backends that the rules give it."""

from __future__ import annotations

from collections.abc import Iterable

from kube.resource import SERVICES
from meshmodel.protocol import PROTOCOL_NAMES
from tests.simulation import truth
from tests.simulation.kept import kept
from tests.simulation.machine import Machine
from tests.simulation.truth import Place
from tests.simulation.world import World

Frontend = tuple[str, int, str]


@kept(lambda machine: (machine.maps.services.writes, machine.maps.backends.writes))
def shown(machine: Machine) -> dict[Frontend, set[Place]]:
    """Frontends of a map with the backends behind their published slots."""
    backends = {key.id: (value.address, value.port) for key, value in machine.maps.backends.items()}
    slots = {(k.address, k.port, k.protocol, k.slot): v for k, v in machine.maps.services.items()}
    found: dict[Frontend, set[Place]] = {}
    for (address, port, protocol, slot), head in slots.items():
        if slot == 0:
            ids = [slots[address, port, protocol, n].backend_id for n in range(1, head.count + 1)]
            found[address, port, PROTOCOL_NAMES[protocol]] = {backends[each] for each in ids}
    return found


def check_services(world: World) -> Iterable[str]:
    for cluster in world.clusters.values():
        wanted: dict[Frontend, set[Place]] = {}
        for service in sorted(
            cluster.kube.objects(SERVICES), key=truth.key_of
        ):  # of equal claims the first by name wins
            spec = service["spec"]
            if spec.get("clusterIP") in (None, "", "None") or spec.get("type") == "ExternalName":
                continue
            for port in spec.get("ports") or []:
                chosen = truth.expected(world, cluster, service, port)
                for address in (spec["clusterIP"], *truth.balancer_addresses(world, cluster, service)):
                    wanted.setdefault((address, port["port"], port.get("protocol") or "TCP"), chosen)
        for node in cluster.nodes.values():
            found = shown(node.machine)
            for where in sorted(wanted.keys() | found.keys()):
                if where not in found:
                    yield f"{node.name}: service {where} has no entry"
                elif where not in wanted:
                    yield f"{node.name}: {where} is no Service's address, and leads to {sorted(found[where])}"
                elif wanted[where] != found[where]:
                    yield f"{node.name}: {where} leads to {sorted(found[where])}, not {sorted(wanted[where])}"
