# SPDX-License-Identifier: Apache-2.0
"""Documents written to stop whoever reads them: each is refused like any other mistake, with a message of bounded length."""

from __future__ import annotations

from typing import Any

import pytest

from meshpolicy import PolicyContext, PolicyError, parse_cidr_group, parse_policy
from meshpolicy import parse as parse_module
from meshpolicy.lint import Severity, lint

NORTH = PolicyContext("north")
DIGITS = "9" * 5000
"""Longer than Python turns into a number."""
HUGE = 1 << 40_000


def cnp(**rule: Any) -> dict[str, Any]:
    spec = {"endpointSelector": {}, "egress": [rule]}
    return {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}


def port(**fields: Any) -> dict[str, Any]:
    return cnp(toPorts=[{"ports": [fields]}])


def netpol(**fields: Any) -> dict[str, Any]:
    return {
        "kind": "NetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"podSelector": {}, "egress": [{"ports": [fields]}]},
    }


def kcnp(**spec: Any) -> dict[str, Any]:
    whole = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, **spec}
    return {"kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": whole}


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"matchLabels": value}
    return value


HOSTILE = {
    "a port of 5000 digits": port(port=DIGITS),
    "an octal port of 5000 digits": port(port="0" * 5000),
    "a port with 5000 underscores": port(port="1_" * 5000 + "1"),
    "an end port beyond any number": port(port="80", endPort=HUGE),
    "a port that is a huge number": port(port=HUGE),
    "an ICMP type of 5000 digits": cnp(icmps=[{"fields": [{"type": DIGITS}]}]),
    "an ICMP type that is a huge number": cnp(icmps=[{"fields": [{"type": HUGE}]}]),
    "a Kubernetes port of 5000 digits and an end": netpol(port=DIGITS, endPort=1),
    "a huge Kubernetes port": netpol(port=HUGE),
    "a huge Kubernetes end port": netpol(port=80, endPort=HUGE),
    "a huge priority": kcnp(priority=HUGE),
    "a huge port in a tier": kcnp(
        egress=[
            {
                "action": "Deny",
                "to": [{"namespaces": {}}],
                "protocols": [{"tcp": {"destinationPort": {"number": HUGE}}}],
            }
        ]
    ),
    "a prefix of 5000 digits": cnp(toCIDR=[f"10.0.0.0/{DIGITS}"]),
    "an address of 5000 digits": cnp(toCIDR=[f"10.0.0.{DIGITS}/8"]),
    "a value that is a huge number": cnp(toEndpoints=[{"matchLabels": {"app": HUGE}}]),
    "a deep selector": cnp(toEndpoints=[nested(50_000)]),
    "a name that is no text": {**cnp(), "metadata": {"name": HUGE}},
    "an apiVersion that is no text": {**cnp(), "apiVersion": HUGE},
    "keys that are no text": {**cnp(), HUGE: 1},
    "metadata that is an empty list": {**cnp(), "metadata": []},
    "metadata that is false": {**cnp(), "metadata": False},
    "a kind that is a list": {"kind": ["CiliumNetworkPolicy"], "metadata": {"name": "p"}},
    "a kind that is a huge number": {"kind": HUGE, "metadata": {"name": "p"}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(name: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse_policy(HOSTILE[name], NORTH)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "spec", [{"externalCIDRs": {HUGE: 1}}, {"externalCIDRs": HUGE}, HUGE], ids=["map", "number", "spec"]
)
def test_a_group_is_refused(spec: object) -> None:
    with pytest.raises(PolicyError):
        parse_cidr_group({"kind": "CiliumCIDRGroup", "metadata": {"name": "g"}, "spec": spec})


@pytest.mark.parametrize("name", HOSTILE)
def test_lint_says_so(name: str) -> None:
    (finding, *_) = lint([HOSTILE[name]], NORTH)
    assert finding.severity in (Severity.ERROR, Severity.NOTE)


def test_a_fault_of_the_parser_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the parser raises costs the one document, not the agent that reads those of everybody."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("x" * 100_000)

    monkeypatch.setattr(parse_module, "parse_cilium_policy", broken)
    with pytest.raises(PolicyError, match="cannot be read: ZeroDivisionError") as refused:
        parse_policy(cnp(), NORTH)
    assert len(str(refused.value)) < 1000
