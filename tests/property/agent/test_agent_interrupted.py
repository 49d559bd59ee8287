# SPDX-License-Identifier: Apache-2.0
"""Law: wherever the agent is killed, and whatever entry others change, the maps end as those of a node built anew.

The memory maps check after every single write that each published slot leads to a live backend (invariant 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from map_targets import MAPS, Killed, Node, backend, frontend, prefix, verdicts

from agent.tables import EndpointVerdicts, Frontend, Prefix

Row = Frontend | Prefix | EndpointVerdicts
LEAVING = backend(3)
MOVING = "fd00::1"  # from pod to pod

# Each step is what is put and what is deleted; then everything that is due is done.
RESTRICTED = frontend("d", [backend(2)], ranges=("10.0.0.0/8", "192.0.2.0/24"))
STEPS: list[tuple[list[Row], list[Row]]] = [
    (
        [
            frontend("a", [backend(1), backend(2), backend(3)]),
            frontend("b", [backend(2)], timeout_s=60),
            RESTRICTED,
            prefix("10.2.0.1/32"),
            verdicts(1, [80, 443], ipv6=(MOVING, "fd00::11")),
            verdicts(2, [], ipv6=("fd00::22",)),
        ],
        [],
    ),
    (
        [
            frontend("a", [backend(1)], draining=[LEAVING]),
            frontend("b", [backend(4), backend(2), backend(4), backend(5)], timeout_s=30),
            frontend("c", [], ranges=("0.0.0.0/0",)),
            frontend("d", [backend(2)], ranges=("10.0.0.0/8", "198.51.100.7/32")),
            prefix("10.2.0.1/32", 70_001, "172.18.0.4"),
            prefix("10.2.0.2/32"),
            verdicts(1, [81], ipv6=("fd00::11", "fd00::12")),
            verdicts(2, [80], ifindex=150, ipv6=(MOVING,)),
        ],
        [],
    ),
    (
        [frontend("a", [backend(6), backend(7)]), frontend("c", [backend(1)])],
        [frontend("b", []), frontend("d", []), prefix("10.2.0.1/32"), verdicts(1, [])],
    ),
    (
        [
            frontend("b", [backend(2)]),
            frontend("a", [backend(7), backend(6), backend(7)]),
            verdicts(1, [443], ipv6=(MOVING,)),
            verdicts(2, [80], ifindex=150),
            RESTRICTED,
        ],
        [],
    ),
]


def run(node: Node, steps: list[tuple[list[Row], list[Row]]]) -> None:
    for put, gone in steps:
        node.put(*put)
        node.delete(*gone)
        node.round()


def fresh(rows: Node, *, with_ids: bool = True) -> dict[str, Any]:
    """A new node with the same rows."""
    node = Node()
    node.put(*rows.db.frontends.rows(), *rows.db.prefixes.rows(), *rows.db.verdicts.rows())
    node.settle()
    return node.state(with_ids=with_ids)


def killed_nodes(step: int) -> Iterator[Node]:
    """One node for every single write of this step, killed right after it."""
    before = Node()
    run(before, STEPS[:step])
    done = before.writes
    run(before, STEPS[step : step + 1])
    for number in range(1, before.writes - done + 1):
        node = Node()
        run(node, STEPS[:step])
        node.writes_left = number
        with pytest.raises(Killed):
            run(node, STEPS[step : step + 1])
        node.writes_left = None
        yield node


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_kill_after_any_write_ends_like_a_fresh_build(step: int) -> None:
    number = 0
    for node in killed_nodes(step):
        number += 1
        node.restart()
        node.settle()
        assert node.state() == fresh(node), f"killed after write {number} of step {step}"
    assert number > 5


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_kill_and_another_change_before_the_restart_end_like_a_fresh_build(step: int) -> None:
    """While the agent is away, the world goes on: what was being written is not wanted any more."""
    for node in killed_nodes(step):
        put, gone = STEPS[(step + 1) % len(STEPS)]
        node.put(*put)
        node.delete(*gone)
        node.restart()
        node.settle()
        assert node.state() == fresh(node)


def tamper(node: Node) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every change that somebody else could make to one entry: deleted, another value, one more."""
    for name in MAPS:
        entries: dict[bytes, Any] = getattr(node.maps, name)._entries
        values = [value for _, value in entries.values()]
        for raw, (key, value) in list(entries.items()):
            yield f"{name}: {key} deleted", lambda e=entries, r=raw: e.pop(r)
            for other in {v for v in values if v != value}:
                if name == "services" and (key.slot == 0) is not bool(other.count):
                    continue
                yield f"{name}: {key} is {other}", lambda e=entries, r=raw, k=key, o=other: e.update({r: (k, o)})
        key, value = next(iter(entries.values()))
        for strange in strangers(name, key):
            yield f"{name}: {strange} added", lambda e=entries, k=strange, v=value: e.update({k.pack(): (k, v)})
    for ifindex in list(node.interfaces.running):
        yield f"interface {ifindex} left", lambda i=ifindex: node.interfaces.running.discard(i)
    yield "interface 999 attached", lambda: node.interfaces.running.add(999)


def strangers(name: str, key: Any) -> list[Any]:
    match name:
        case "services":
            return [key._replace(slot=9), key._replace(address="10.96.7.7", slot=0), key._replace(protocol=99, slot=1)]
        case "backends":
            return [key._replace(id=4711)]
        case "members":
            return [key._replace(backend_id=4711), key._replace(service_id=4711)]
        case "source_ranges":
            return [key._replace(range="0.0.0.0/0"), key._replace(service_id=4711)]
        case "ipcache":
            return [key._replace(prefix="10.9.0.0/16"), key._replace(prefix="fd00::/64")]
        case "policy":
            return [key._replace(endpoint_id=999), key._replace(identity=99), key._replace(direction=7)]
        case "endpoints_by_address":
            return [key._replace(address="10.1.1.99"), key._replace(address="fd00::99")]
        case _:
            return [key._replace(ifindex=999)]


def tampered_nodes() -> Iterator[tuple[str, Node]]:
    def settled() -> Node:
        node = Node()
        run(node, STEPS)
        node.settle()
        return node

    for number, (what, _) in enumerate(list(tamper(settled()))):
        node = settled()
        list(tamper(node))[number][1]()
        yield what, node


@pytest.mark.parametrize("is_restarted", [False, True], ids=["at the prune interval", "by a restart"])
def test_what_others_change_is_repaired(is_restarted: bool) -> None:
    number = 0
    for what, node in tampered_nodes():
        number += 1
        assert node.state() != fresh(node), what
        if is_restarted:
            node.restart()
            node.settle()
        else:
            node.compare()
            repaired = sum(r.status().repaired_total for r in node.reconcilers.values())
            assert repaired or not what.endswith("deleted"), what
        is_id_taken = is_restarted and what.startswith("backends")  # by what others wrote there; ours has the next one
        assert node.state(with_ids=not is_id_taken) == fresh(node, with_ids=not is_id_taken), what
    assert number > 60
