# SPDX-License-Identifier: Apache-2.0
"""Which documents are refused, and that the error names the field and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest
from policy_documents import ALL, CONTEXT, TCP80, ccnp, cnp, egress, ingress, netpol, ports

from meshmodel.identity import NumericIdentity
from meshmodel.labels import pod_labels
from meshpolicy import Direction, Engine, PolicyError, parse_policy
from meshpolicy.port import UDP

HTTP = {"http": [{"method": "GET"}]}
DNS = {"dns": [{"matchPattern": "*"}]}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no direction section": (cnp(**ALL), "spec"),
    "only empty lists": (cnp(**ALL, ingress=[], egress=[], ingressDeny=[]), "spec"),
    "no selector": (cnp(ingress=[{}]), "spec"),
    "a null selector": (cnp(endpointSelector=None, ingress=[{}]), "spec"),
    "both selectors": (ccnp(endpointSelector={}, nodeSelector={}, ingress=[{}]), "spec"),
    "a node selector in a namespaced policy": (cnp(nodeSelector={}, ingress=[{}]), "spec.nodeSelector"),
    "two kinds of peers": (egress(toFQDNs=[{"matchName": "a.b"}], toEndpoints=[{}]), "spec.egress[0]"),
    "ranges and entities": (ingress(fromCIDR=["10.0.0.0/8"], fromEntities=["world"]), "spec.ingress[0]"),
    "DNS rules on ingress": (ingress(toPorts=ports({"port": "53"}, rules=DNS)), "spec.ingress[0].toPorts[0]"),
    "HTTP on UDP": (
        egress(toPorts=ports({"port": "80", "protocol": "UDP"}, rules=HTTP)),
        "spec.egress[0].toPorts[0].rules",
    ),
    "HTTP on any protocol": (egress(toPorts=ports({"port": "80"}, rules=HTTP)), "spec.egress[0].toPorts[0].rules"),
    "HTTP on port 0": (
        ingress(toPorts=ports({"port": "0", "protocol": "TCP"}, rules=HTTP)),
        "spec.ingress[0].toPorts[0].rules",
    ),
    "DNS on port 0": (egress(toPorts=ports({"port": "0"}, rules=DNS)), "spec.egress[0].toPorts[0].rules"),
    "DNS rules without a port": (egress(toPorts=[{"rules": DNS}]), "spec.egress[0].toPorts[0].rules"),
    "DNS rules on a range": (
        egress(toPorts=ports({"port": "53", "endPort": 54}, rules=DNS)),
        "spec.egress[0].toPorts[0].ports[0].endPort",
    ),
    "icmps with toPorts": (ingress(icmps=[{"fields": [{"type": 8}]}], toPorts=ports(TCP80)), "spec.ingress[0]"),
    "an empty port": (ingress(toPorts=ports({"port": ""})), "spec.ingress[0].toPorts[0].ports[0].port"),
    "a missing port": (ingress(toPorts=ports({"protocol": "TCP"})), "spec.ingress[0].toPorts[0].ports[0].port"),
    "a port as a number": (ingress(toPorts=ports({"port": 80})), "spec.ingress[0].toPorts[0].ports[0].port"),
    "a port too high": (ingress(toPorts=ports({"port": "65536"})), "spec.ingress[0].toPorts[0].ports[0].port"),
    "a negative port": (ingress(toPorts=ports({"port": "-1"})), "spec.ingress[0].toPorts[0].ports[0].port"),
    "an unknown protocol": (
        ingress(toPorts=ports({"port": "80", "protocol": "ICMP"})),
        "spec.ingress[0].toPorts[0].ports[0].protocol",
    ),
    "a port of a protocol without ports": (
        ingress(toPorts=ports({"port": "80", "protocol": "VRRP"})),
        "spec.ingress[0].toPorts[0].ports[0].port",
    ),
    "a port range of a protocol without ports": (
        ingress(toPorts=ports({"port": "0", "endPort": 9, "protocol": "GRE"})),
        "spec.ingress[0].toPorts[0].ports[0].port",
    ),
    "services without labels": (
        egress(toServices=[{"k8sServiceSelector": {}}]),
        "spec.egress[0].toServices[0].k8sServiceSelector",
    ),
    "41 ports": (ingress(toPorts=ports(*[TCP80] * 41)), "spec.ingress[0].toPorts[0].ports"),
    "41 denied ports": (cnp(**ALL, ingressDeny=[{"toPorts": ports(*[TCP80] * 41)}]), "spec.ingressDeny[0].toPorts[0]"),
    "41 ICMP fields": (ingress(icmps=[{"fields": [{"type": 8}] * 41}]), "spec.ingress[0].icmps[0]"),
    "an unknown ICMP name": (
        ingress(icmps=[{"fields": [{"type": "Pong"}]}]),
        "spec.ingress[0].icmps[0].fields[0].type",
    ),
    "an IPv6 name in IPv4": (
        ingress(icmps=[{"fields": [{"type": "PacketTooBig"}]}]),
        "spec.ingress[0].icmps[0].fields[0].type",
    ),
    "an ICMP type too high": (ingress(icmps=[{"fields": [{"type": 256}]}]), "spec.ingress[0].icmps[0].fields[0].type"),
    "an ICMP family": (
        ingress(icmps=[{"fields": [{"type": 8, "family": "v4"}]}]),
        "spec.ingress[0].icmps[0].fields[0].family",
    ),
    "a wildcard in matchName": (egress(toFQDNs=[{"matchName": "*.b"}]), "spec.egress[0].toFQDNs[0].matchName"),
    "a long name": (egress(toFQDNs=[{"matchName": "a" * 256}]), "spec.egress[0].toFQDNs[0].matchName"),
    "name and pattern": (
        egress(toFQDNs=[{"matchName": "a.b", "matchPattern": "*.b"}]),
        "spec.egress[0].toFQDNs[0]",
    ),
    "names in a denial": (cnp(**ALL, egressDeny=[{"toFQDNs": [{"matchName": "a.b"}]}]), "spec.egressDeny[0]"),
    "an exception outside": (
        egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]),
        "spec.egress[0].toCIDRSet[0].except[0]",
    ),
    "an exception of the other family": (
        egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["fd00::/64"]}]),
        "spec.egress[0].toCIDRSet[0].except[0]",
    ),
    "a range and a group": (
        egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}]),
        "spec.egress[0].toCIDRSet[0]",
    ),
    "neither a range nor a group": (egress(toCIDRSet=[{"except": []}]), "spec.egress[0].toCIDRSet[0]"),
    "an address in a set": (egress(toCIDRSet=[{"cidr": "10.0.0.1"}]), "spec.egress[0].toCIDRSet[0].cidr"),
    "a netmask": (egress(toCIDR=["10.0.0.0/255.0.0.0"]), "spec.egress[0].toCIDR[0]"),
    "a length too long": (egress(toCIDR=["10.0.0.0/33"]), "spec.egress[0].toCIDR[0]"),
    "a zero in front": (egress(toCIDR=["010.0.0.0/8"]), "spec.egress[0].toCIDR[0]"),
    "a zone": (egress(toCIDR=["fe80::1%eth0"]), "spec.egress[0].toCIDR[0]"),
    "two kinds of rules": (
        egress(toPorts=ports(TCP80, rules={**HTTP, "kafka": [{}]})),
        "spec.egress[0].toPorts[0].rules",
    ),
    "l7 without l7proto": (egress(toPorts=ports(TCP80, rules={"l7": [{}]})), "spec.egress[0].toPorts[0].rules"),
    "a bad expression": (
        ingress(toPorts=ports(TCP80, rules={"http": [{"path": "("}]})),
        "spec.ingress[0].toPorts[0].rules.http[0].path",
    ),
    "a listener on ingress": (
        ingress(toPorts=ports(TCP80, listener={"name": "x"})),
        "spec.ingress[0].toPorts[0].listener",
    ),
    "a listener with rules": (
        egress(toPorts=ports(TCP80, listener={"name": "x"}, rules=HTTP)),
        "spec.egress[0].toPorts[0].listener",
    ),
    "server names with rules": (
        egress(toPorts=ports(TCP80, serverNames=["a.b"], rules=HTTP)),
        "spec.egress[0].toPorts[0]",
    ),
    "an empty server name": (egress(toPorts=ports(TCP80, serverNames=[""])), "spec.egress[0].toPorts[0]"),
    "a server name of other characters": (
        egress(toPorts=ports(TCP80, serverNames=["a.b", "a/b"])),
        "spec.egress[0].toPorts[0].serverNames[1]",
    ),
    "HTTP in a host policy": (
        ccnp(nodeSelector={}, ingress=[{"toPorts": ports(TCP80, rules=HTTP)}]),
        "spec.ingress[0].toPorts[0].rules",
    ),
    "an unknown entity": (ingress(fromEntities=["internet"]), "spec.ingress[0].fromEntities[0]"),
    "an entity in capitals": (ingress(fromEntities=["World"]), "spec.ingress[0].fromEntities[0]"),
    "removed requirements": (ingress(fromRequires=[{}]), "spec.ingress[0]"),
    "an operator": (
        ingress(fromEndpoints=[{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}]),
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].operator",
    ),
    "In without values": (
        ingress(fromEndpoints=[{"matchExpressions": [{"key": "a", "operator": "In"}]}]),
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values",
    ),
    "Exists with values": (
        ingress(fromEndpoints=[{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}]),
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values",
    ),
    "a label key": (ingress(fromEndpoints=[{"matchLabels": {"a b": "c"}}]), "spec.ingress[0].fromEndpoints[0]"),
    "a label value": (ingress(fromEndpoints=[{"matchLabels": {"a": "b/c"}}]), "spec.ingress[0].fromEndpoints[0]"),
    "a label value that is a number": (ingress(fromEndpoints=[{"matchLabels": {"a": 1}}]), "spec.ingress[0]"),
    "default deny as text": (cnp(**ALL, ingress=[{}], enableDefaultDeny={"ingress": "no"}), "spec.enableDefaultDeny"),
    "a long log value": (cnp(**ALL, ingress=[{}], log={"value": "x" * 33}), "spec.log.value"),
    "a list that is a map": (cnp(**ALL, ingress={}), "spec.ingress"),
    "a rule that is text": (cnp(**ALL, ingress=["all"]), "spec.ingress[0]"),
    "neither spec nor specs": ({"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}}, "document"),
    "one bad spec of two": (
        {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "specs": [{**ALL, "ingress": [{}]}, {**ALL}]},
        "specs[1]",
    ),
    "no name": ({"kind": "CiliumNetworkPolicy", "metadata": {}, "spec": {**ALL, "ingress": [{}]}}, "metadata"),
    "another kind": ({"kind": "Pod", "metadata": {"name": "p"}}, "document"),
    "Kubernetes: a policy type": (netpol(podSelector={}, policyTypes=["Both"]), "spec.policyTypes[0]"),
    "Kubernetes: a peer that names nobody": (
        netpol(podSelector={}, ingress=[{"from": [{}]}]),
        "spec.ingress[0].from[0]",
    ),
    "Kubernetes: a block with a selector": (
        netpol(podSelector={}, ingress=[{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
        "spec.ingress[0].from[0]",
    ),
    "Kubernetes: an exception outside": (
        netpol(podSelector={}, egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}]),
        "spec.egress[0].to[0].ipBlock.except[0]",
    ),
    "Kubernetes: a block without a range": (netpol(ingress=[{"from": [{"ipBlock": {}}]}]), "spec.ingress[0].from[0]"),
    "Kubernetes: endPort below port": (
        netpol(ingress=[{"ports": [{"port": 80, "endPort": 79}]}]),
        "spec.ingress[0].ports[0].endPort",
    ),
    "Kubernetes: endPort with a name": (
        netpol(ingress=[{"ports": [{"port": "http", "endPort": 90}]}]),
        "spec.ingress[0].ports[0].endPort",
    ),
    "Kubernetes: endPort alone": (netpol(ingress=[{"ports": [{"endPort": 90}]}]), "spec.ingress[0].ports[0].endPort"),
    "Kubernetes: a protocol": (netpol(ingress=[{"ports": [{"protocol": "ANY"}]}]), "spec.ingress[0].ports[0].protocol"),
    "Kubernetes: port 0": (netpol(ingress=[{"ports": [{"port": 0}]}]), "spec.ingress[0].ports[0].port"),
}

ENTITIES = [
    *("all", "none", "world", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node", "kube-apiserver"),
    *("init", "health", "ingress", "unmanaged"),
]

ACCEPTED: dict[str, dict[str, Any]] = {
    "an empty rule": ingress(),
    "HTTP with a range": ingress(toPorts=ports({"port": "80", "endPort": 90, "protocol": "TCP"}, rules=HTTP)),
    "HTTP without a port": ingress(toPorts=[{"rules": HTTP}]),
    "no HTTP rule in the list": ingress(toPorts=ports(TCP80, rules={"http": []})),
    "no rules at all": ingress(toPorts=ports({"port": "80", "protocol": "UDP"}, rules={})),
    "DNS on TCP, UDP and any": egress(toPorts=ports({"port": "53"}, {"port": "53", "protocol": "UDP"}, rules=DNS)),
    "40 ports": ingress(toPorts=ports(*[TCP80] * 40)),
    "a protocol in small letters": ingress(toPorts=ports({"port": "80", "protocol": "tcp"})),
    "a bare address": egress(toCIDR=["10.0.0.1", "fd00::1"]),
    "host bits": egress(toCIDR=["10.1.2.3/8"]),
    "an exception as wide as its range": egress(toCIDRSet=[{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]),
    "an exception wider, from inside": egress(toCIDRSet=[{"cidr": "10.1.0.0/16", "except": ["10.1.0.0/8"]}]),
    "a group": egress(toCIDRSet=[{"cidrGroupRef": "g", "except": ["10.0.0.0/8"]}]),
    "server names alone": egress(toPorts=ports(TCP80, serverNames=["a.b"])),
    "every entity": ingress(fromEntities=ENTITIES),
    "an empty peer list beside another": ingress(fromEndpoints=[{}], fromCIDR=[]),
    "a service entry that names none": egress(toServices=[{}, {"k8sService": {}}]),
    "services and groups": egress(toServices=[{"k8sService": {"serviceName": "s"}}], toPorts=ports(TCP80)),
    "a port name": ingress(toPorts=ports({"port": "HTTP-alt"})),
    "a hexadecimal name": ingress(toPorts=ports({"port": "0x50"})),
    "an octal number": ingress(toPorts=ports({"port": "0120"})),
    "an end below the start": ingress(toPorts=ports({"port": "80", "endPort": 10})),
    "ICMP by number, text and name": ingress(icmps=[{"fields": [{"type": 8}, {"type": "8"}, {"type": "Echo"}]}]),
    "ICMP without fields": ingress(icmps=[{}]),
    "label sources": ingress(fromEndpoints=[{"matchLabels": {"k8s:a": "b", "cni:x.y/z": "", "any:q": "r"}}]),
    "a spec and specs": {**cnp(**ALL, ingress=[{}]), "specs": [{**ALL, "egress": [{}]}]},
    "labels, description and log": cnp(**ALL, ingress=[{}], labels=[{"key": "a"}], description="d", log={"value": "x"}),
    "a host policy": ccnp(nodeSelector={"matchLabels": {"a": "b"}}, ingress=[{"toPorts": ports(TCP80)}]),
    "no apiVersion": cnp(**ALL, ingress=[{}]),
    "Kubernetes: nothing at all": {"kind": "NetworkPolicy", "metadata": {"name": "p"}},
    "Kubernetes: ports without anything": netpol(ingress=[{"ports": [{}]}]),
    "Kubernetes: a port as text": netpol(ingress=[{"ports": [{"port": "80"}]}]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    document, where = REFUSED[name]
    with pytest.raises(PolicyError) as caught:
        parse_policy(document, CONTEXT)
    assert caught.value.where.startswith(where)
    assert caught.value.what
    assert caught.value.fix
    assert str(caught.value) == f"{caught.value.where}: {caught.value.what}; {caught.value.fix}"


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    assert parse_policy(ACCEPTED[name], CONTEXT).key.name == "p"


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (
            cnp(endpointSelector={"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}}, ingress=[{}]),
            "namespace other is replaced",
        ),
        (
            cnp(endpointSelector={"matchLabels": {"io.kubernetes.pod.namespace": "other"}}, ingress=[{}]),
            "it selects no pod",
        ),
        (cnp(**ALL, ingress=[{}], enableDefaultDeny={"egress": True}), "has no effect without egress rules"),
        (ingress(toPorts=ports({"port": "80", "endPort": 10})), "only port 80 is meant"),
        (ingress(toPorts=ports({"port": "http", "endPort": 90})), "endPort has no effect"),
        (ingress(icmps=[{"fields": [{"type": 0}]}]), "every ICMP type"),
        (netpol(policyTypes=["Ingress"], egress=[{}]), "applies although policyTypes does not list Egress"),
    ],
)
def test_surprises_are_warnings(document: dict[str, Any], text: str) -> None:
    assert text in "\n".join(parse_policy(document, CONTEXT).warnings)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (ingress(toPorts=ports(TCP80, rules=HTTP)), "80/TCP stays denied here unless another rule allows it"),
        (ingress(toPorts=ports(TCP80, rules={"http": [{}]})), "http rules cannot be enforced yet"),
        (ingress(toPorts=ports(TCP80, rules={"kafka": [{}]})), "kafka rules cannot be enforced yet"),
        (ingress(toPorts=ports(TCP80, rules={"l7proto": "r2d2"})), "r2d2 rules cannot be enforced yet"),
        (egress(toPorts=ports(TCP80, serverNames=["a.b"])), "server names cannot be enforced yet"),
        (egress(toPorts=ports(TCP80, listener={"name": "x"})), "a listener cannot be enforced yet"),
        (egress(toPorts=ports(TCP80, originatingTLS={})), "TLS interception cannot be enforced yet"),
        (egress(toFQDNs=[{"matchName": "a.b"}]), "no DNS proxy says which addresses have the names"),
        (ingress(fromGroups=[{"aws": {}}]), "fromGroups is not resolved yet; it selects nobody"),
        (cnp(**ALL, ingressDeny=[{"fromGroups": [{"aws": {}}]}]), "it denies everybody"),
        (ingress(authentication={"mode": "required"}, fromEndpoints=[{}]), "mutual authentication cannot be enforced"),
    ],
)
def test_what_cannot_be_enforced_yet_is_a_problem(document: dict[str, Any], text: str) -> None:
    assert text in "\n".join(parse_policy(document, CONTEXT).problems)


@pytest.mark.parametrize(
    ("names", "is_open"),
    [
        ([{"matchPattern": "*"}], True),
        ([{"matchName": "example.com"}, {"matchPattern": "*"}], True),
        ([{"matchName": "example.com"}], False),
        ([{"matchPattern": "*.example.com"}], False),
        ([{"matchPattern": "*.*"}], False),
        ([{}], False),
    ],
)
def test_a_list_of_some_dns_names_opens_nothing(names: list[dict[str, str]], is_open: bool) -> None:
    """Names are not looked at: a port that was open for every name would leak by those that the author did not mean."""
    document = egress(toEndpoints=[{}], toPorts=ports({"port": "53", "protocol": "UDP"}, rules={"dns": names}))
    policy = parse_policy(document, CONTEXT)
    assert bool(policy.problems) is not is_open
    engine = Engine(CONTEXT)
    client, server = NumericIdentity(70_001), NumericIdentity(70_002)
    for number in (client, server):
        engine.set_identity(number, pod_labels({"app": str(number)}, "default", {}, "default", "north"))
    engine.set_policy(policy)
    assert engine.endpoint_policy(client, {}).verdict(Direction.EGRESS, int(server), UDP, 53).allowed is is_open
