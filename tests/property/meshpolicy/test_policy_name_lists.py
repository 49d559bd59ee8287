# SPDX-License-Identifier: Apache-2.0
"""Lists of names of any policies, put in and taken out in any order, allow what a reading of them one by one allows."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from meshpolicy import Direction, PolicyKind, PolicyRef
from meshpolicy.dns_name import allows_name, dns_rule
from meshpolicy.proxy_ports import ProxyPorts
from meshpolicy.rebuild import differences
from tests.unit.meshpolicy.policy_world import CLIENT, SERVER, STRANGER, build, policy

TCP, UDP, PORT = 6, 17, 53
NAMES = ("a.io.", "b.io.", "x.b.io.")
PEERS: dict[str, tuple[Any, frozenset[int]]] = {
    "server": ({"toEndpoints": [{"matchLabels": {"app": "server"}}]}, frozenset({SERVER})),
    "everybody": ({}, frozenset({SERVER, STRANGER})),
}
SELECTORS = ({"matchName": "a.io"}, {"matchPattern": "*.io"}, {"matchPattern": "**.io"}, {"matchPattern": "*"})
PROTOCOLS = {"TCP": frozenset({TCP}), "UDP": frozenset({UDP}), "ANY": frozenset({TCP, UDP})}


class Said(NamedTuple):
    """One rule: which peer and protocol it is about; `names` empty: the port as such; `is_broad`: every port."""

    peer: str
    protocol: str
    names: tuple[int, ...]
    denies: bool
    is_broad: bool


SAID = st.builds(
    Said,
    st.sampled_from(sorted(PEERS)),
    st.sampled_from(sorted(PROTOCOLS)),
    st.lists(st.integers(0, len(SELECTORS) - 1), max_size=2).map(tuple),
    st.sampled_from([False] * 5 + [True]),
    st.sampled_from([False] * 4 + [True]),
)
STEPS = st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), SAID)), min_size=1, max_size=8)


def _spec(said: Said) -> dict[str, Any]:
    peer = dict(PEERS[said.peer][0]) or {"toEntities": ["all"]}
    if said.is_broad:
        return {"egressDeny" if said.denies else "egress": [peer]}
    ports: dict[str, Any] = {"ports": [{"port": str(PORT), "protocol": said.protocol}]}
    if said.names and not said.denies:
        ports["rules"] = {"dns": [SELECTORS[n] for n in said.names]}
    return {"egressDeny" if said.denies else "egress": [{**peer, "toPorts": [ports]}]}


def _allowed(rules: list[Said], peer: int, protocol: int) -> set[str]:
    """Of NAMES, read from the rules one by one."""
    about = [s for s in rules if peer in PEERS[s.peer][1] and (s.is_broad or protocol in PROTOCOLS[s.protocol])]
    lists = [s for s in about if s.names and not s.is_broad and not s.denies]
    if any(s.denies for s in about):
        return set()
    if not rules or any(not s.names and not s.is_broad for s in about) or (about and not lists):
        return set(NAMES)
    chosen = [
        dns_rule(d.get("matchName", ""), d.get("matchPattern", ""))
        for s in lists
        for d in (SELECTORS[n] for n in s.names)
    ]
    return {name for name in NAMES if allows_name(chosen, name)}


@given(STEPS)
def test_what_may_be_asked_for_is_what_the_rules_say(steps: list[tuple[int, Said | None]]) -> None:
    ports = ProxyPorts()
    engine = build(proxy_ports=ports)
    rules: dict[int, Said] = {}
    for number, said in steps:
        if said is None:
            engine.remove_policy(PolicyRef(PolicyKind.CILIUM, "default", f"p{number}"))
            rules.pop(number, None)
        else:
            engine.set_policy(policy(engine, f"p{number}", app="client", **_spec(said)))
            rules[number] = said
        for peer in (SERVER, STRANGER):
            for protocol in (TCP, UDP):
                verdict = engine.endpoint_policy(CLIENT).verdict(Direction.EGRESS, peer, protocol, PORT)
                found: set[str] = set(NAMES) if verdict.allowed else set()
                if verdict.allowed and verdict.entry is not None and verdict.entry.proxy_port:
                    listener = ports.listener(verdict.entry.proxy_port)
                    assert listener is not None
                    assert listener.names is not None
                    found = {name for name in NAMES if allows_name(listener.names, name)}
                assert found == _allowed(list(rules.values()), peer, protocol)
    assert differences(engine) == ()
