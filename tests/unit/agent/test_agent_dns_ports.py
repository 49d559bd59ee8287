# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy has a port from before policy entries name it until after they did; what it has outlives the agent."""

from __future__ import annotations

import math

import pytest

from agent.dns.message import NXDOMAIN
from agent.dns.port_rules import STAY_S, PortRules
from agent.dns.rule_file import RuleFile, decode_rules, encode_rules
from meshpolicy.dns_name import dns_rule
from meshpolicy.proxy_ports import Listener, ProxyPorts
from meshpolicy.reference import Direction

ONE, OTHER = frozenset((dns_rule("a.io"),)), frozenset((dns_rule("b.io", "*.b.io"), dns_rule()))


def test_a_port_stays_for_a_while_after_its_last_use() -> None:
    rules = PortRules()
    rules.set_used({1: ONE, 2: OTHER}, 100.0)
    assert rules.expire(1000.0) is None
    rules.set_used({2: OTHER}, 1000.0)
    assert rules.expire(1000.0) == 1000.0 + STAY_S
    rules.set_used({1: ONE}, 1010.0)
    assert rules.expire(1000.0 + STAY_S) == 1010.0 + STAY_S
    assert set(rules.rules) == {1, 2}
    assert rules.expire(1010.0 + STAY_S) is None
    assert rules.rules == {1: ONE}


def test_a_port_is_there_before_it_is_used_and_what_an_earlier_agent_had_until_policies_are_known() -> None:
    rules = PortRules()
    rules.add({1: ONE}, math.inf)
    rules.add({2: OTHER}, 50.0)
    assert rules.expire(49.0) == 50.0
    rules.set_used({2: OTHER}, 49.0)
    assert rules.expire(49.0) == 49.0 + STAY_S
    assert rules.expire(49.0 + STAY_S) is None
    assert rules.rules == {2: OTHER}


def test_a_new_meaning_of_a_port_is_told_once_before_the_port_is_given() -> None:
    told: list[tuple[int, Listener]] = []
    ports = ProxyPorts()
    ports.on_new = lambda port, listener: told.append((port, listener))
    listener = Listener(Direction.EGRESS, names=ONE)
    given = [ports.port(listener), ports.port(listener)]
    assert told == [(given[0], listener)]


def test_what_is_written_is_read() -> None:
    found = RuleFile({14001: ONE, 14000: OTHER}, NXDOMAIN)
    assert decode_rules(encode_rules(found)) == found
    assert encode_rules(found) == encode_rules(RuleFile({14000: OTHER, 14001: ONE}, NXDOMAIN))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}x",
        b"[1]",
        b"{}",
        b'{"ports":[[1,2]],"refusal":5}',
        b'{"ports":[[1,["a"]]],"refusal":5}',
        b'{"ports":[],"refusal":0}',
    ],
)
def test_what_is_no_file_of_rules_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever is wrong with it
        decode_rules(data)
