# SPDX-License-Identifier: Apache-2.0
"""Random valid policy documents over small alphabets, so that rules meet and contradict each other."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.support.policy_twin import CLUSTER, NAMESPACE, NAMESPACE_LABELS, Who

Document = dict[str, Any]
HTTP = (("http", (80, 6)),)
HTTP_ALT = (("http", (8080, 6)), ("dns", (53, 17)))


def pod(app: str, tier: str, namespace: str, cluster: str, team: str, ports: Any = HTTP) -> Who:
    return Who(
        (
            f"k8s:app={app}",
            f"k8s:tier={tier}",
            f"k8s:{NAMESPACE}={namespace}",
            f"k8s:{CLUSTER}={cluster}",
            f"k8s:{NAMESPACE_LABELS}team={team}",
        ),
        ports=ports,
    )


NORTH, SOUTH = "north", "south"
WHO = {
    "a1": pod("a", "x", "one", NORTH, "red"),
    "b1": pod("b", "y", "one", NORTH, "red"),
    "a2": pod("a", "y", "two", NORTH, "blue", HTTP_ALT),
    "a1-south": pod("a", "x", "one", SOUTH, "red"),
    "b2-south": pod("b", "x", "two", SOUTH, "blue"),
    "attached": Who((*pod("b", "x", "one", NORTH, "red").labels, "cni:net=jupiter"), ports=()),
    "pretender": Who((*pod("b", "x", "one", NORTH, "red").labels, "k8s:net=jupiter"), ports=()),
    "init": Who(("reserved:init=",)),
    "health": Who(("reserved:health=",)),
    "host": Who(("reserved:host=", "node:app=a", "node:tier=x", f"node:{CLUSTER}={NORTH}")),
    "node": Who(("reserved:remote-node=",)),
    "edge": Who(("reserved:remote-node=", "node:app=a", "node:tier=x", f"node:{CLUSTER}={NORTH}")),
    "core": Who(("reserved:remote-node=", "node:app=b", f"node:{CLUSTER}={NORTH}")),
    "edge-south": Who(("reserved:remote-node=", "node:app=a", "node:tier=y", f"node:{CLUSTER}={SOUTH}")),
    "api": Who(("reserved:kube-apiserver=", "reserved:remote-node=")),
    "world": Who(("reserved:world=",)),
    "ten": Who(("reserved:world=",), "10.9.9.9"),
    "inner": Who(("reserved:world=",), "10.1.2.3"),
    "other": Who(("reserved:world=",), "192.0.2.7"),
    "six": Who(("reserved:world-ipv6=",), "2001:db8::7"),
    "elsewhere": Who(("reserved:world-ipv6=",), "2400::1"),
    "world4": Who(("reserved:world-ipv4=",)),
    "world6": Who(("reserved:world-ipv6=",)),
}
"""Outsiders of IPv4 are as they are where the families have not both a world of their own; see `dual_stack`."""


def dual_stack(who: Who) -> Who:
    """The same where they have."""
    return Who(("reserved:world-ipv4=",), who.address) if who.address and ":" not in who.address else who


_KEYS = ["app", "tier", "net", "k8s:app", "any:tier", "cni:net", "k8s:net", NAMESPACE, CLUSTER, f"k8s:{NAMESPACE}"]
_KEYS += [f"{NAMESPACE_LABELS}team", "reserved:health", "reserved:init", "reserved:init", "absent"]
_KEYS += ["reserved:world", "reserved:world-ipv4", "reserved:world-ipv6", "world-ipv4"]
_VALUES = ["a", "b", "x", "y", "jupiter", "one", "two", NORTH, SOUTH, "red", ""]
_RANGES = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "192.0.2.0/24", "0.0.0.0/0", "10.5.6.7/8"]
_RANGES += ["::/0", "2001:db8::/32", "fd00::/8", "::/1", "2000::/3", "2001:db8::7/128"]
_NODE_KEYS = ["app", "tier", "node:tier", "absent", CLUSTER, f"k8s:{CLUSTER}"]
_ENTITIES = ["all", "world", "host", "cluster", "remote-node", "kube-apiserver", "health", "init", "none", "world-ipv4"]
_ENTITIES += ["world-ipv6"]


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(None), strategy)


def _clean(**fields: Any) -> Document:
    return {key: value for key, value in fields.items() if value is not None}


def selectors(keys: list[str] = _KEYS) -> st.SearchStrategy[Document]:
    with_values = st.builds(
        lambda key, operator, values: {"key": key, "operator": operator, "values": values},
        st.sampled_from(keys),
        st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(_VALUES), min_size=1, max_size=2, unique=True),
    )
    without = st.builds(
        lambda key, operator: {"key": key, "operator": operator},
        st.sampled_from(keys),
        st.sampled_from(["Exists", "DoesNotExist"]),
    )
    labels = st.dictionaries(st.sampled_from(keys), st.sampled_from(_VALUES), max_size=1)
    expressions = st.lists(st.one_of(with_values, without), max_size=2)
    return st.one_of(
        st.just({}),
        st.sampled_from([{"matchLabels": {"app": "a"}}, {"matchLabels": {"tier": "x"}}]),
        st.builds(lambda m, e: _clean(matchLabels=m, matchExpressions=e), _maybe(labels), _maybe(expressions)),
    )


_cidr_sets = st.builds(
    lambda pair: _clean(cidr=pair[0], **{"except": list(pair[1]) or None}),
    st.sampled_from(
        [
            ("10.0.0.0/8", ()),
            ("10.0.0.0/8", ("10.1.0.0/16",)),
            ("10.0.0.0/8", ("10.1.2.3/32", "10.9.0.0/16")),
            ("10.1.0.0/16", ("10.1.2.0/24",)),
            ("0.0.0.0/0", ("10.0.0.0/8",)),
            ("10.1.0.0/16", ("10.1.0.0/8",)),
            ("0.0.0.0/0", ("0.0.0.0/0",)),
            ("::/0", ("2001:db8::/32",)),
            ("::/0", ("::/0",)),
            ("2000::/3", ("2001:db8::7/128", "2400::/12")),
            ("2001:db8::/32", ()),
        ]
    ),
)

_ports = st.one_of(
    st.sampled_from(
        [
            {"port": "80", "protocol": "TCP"},
            {"port": "53", "protocol": "UDP"},
            {"port": "53", "protocol": "ANY"},
            {"port": "0", "protocol": "TCP"},
            {"port": "0", "protocol": "GRE"},
            {"port": "0", "protocol": "IGMP"},
            {"port": "0"},
            {"port": "http", "protocol": "TCP"},
            {"port": "http"},
            {"port": "79", "endPort": 81, "protocol": "TCP"},
            {"port": "1", "endPort": 65535},
            {"port": "80", "endPort": 10, "protocol": "TCP"},
        ]
    ),
    st.builds(
        lambda a, b, p: {"port": str(min(a, b)), "endPort": max(a, b), "protocol": p},
        st.integers(0, 65535),
        st.integers(0, 65535),
        st.sampled_from(["TCP", "UDP", "ANY"]),
    ),
)
_l7_port_rules = st.just({"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}})


def _port_rules(*, with_l7: bool) -> st.SearchStrategy[Any]:
    plain = st.builds(lambda ports: {"ports": ports}, st.lists(_ports, max_size=3))
    return st.lists(st.one_of(plain, plain, _l7_port_rules) if with_l7 else plain, max_size=2)


_icmps = st.lists(
    st.builds(
        lambda fields: {"fields": fields},
        st.lists(st.sampled_from([{"type": 8}, {"type": "TimeExceeded"}, {"type": 128, "family": "IPv6"}]), max_size=2),
    ),
    max_size=1,
)


@st.composite
def _rules(draw: st.DrawFn, word: str, *, is_deny: bool) -> Document:
    kind = draw(st.sampled_from(["none", "Endpoints", "Endpoints", "CIDR", "CIDRSet", "Entities", "Nodes", "FQDNs"]))
    rule: Document = {}
    if kind == "Endpoints":
        rule[word + kind] = draw(st.lists(selectors(), max_size=2))
    elif kind == "CIDR":
        rule[word + kind] = draw(st.lists(st.sampled_from(_RANGES), max_size=2))
    elif kind == "CIDRSet":
        rule[word + kind] = draw(st.lists(_cidr_sets, max_size=2))
    elif kind == "Entities":
        rule[word + kind] = draw(st.lists(st.sampled_from(_ENTITIES), max_size=2))
    elif kind == "Nodes":
        rule[word + kind] = draw(st.lists(selectors(_NODE_KEYS), max_size=2))
    elif kind == "FQDNs" and word == "to" and not is_deny:
        rule["toFQDNs"] = [{"matchName": "example.org"}]
    layer4 = draw(st.sampled_from(["none", "ports", "ports", "icmp"]))
    if layer4 == "ports":
        rule["toPorts"] = draw(_port_rules(with_l7=not is_deny))
    elif layer4 == "icmp":
        rule["icmps"] = draw(_icmps)
    return rule


@st.composite
def _specs(draw: st.DrawFn) -> Document:
    spec: Document = {"endpointSelector": draw(selectors())}
    names = draw(st.lists(st.sampled_from(["ingress", "ingressDeny", "egress", "egressDeny"]), min_size=1, unique=True))
    for name in names:
        word = "from" if name.startswith("in") else "to"
        spec[name] = draw(st.lists(_rules(word, is_deny=name.endswith("Deny")), min_size=1, max_size=2))
    switch = draw(_maybe(st.dictionaries(st.sampled_from(["ingress", "egress"]), st.booleans())))
    if switch is not None:
        spec["enableDefaultDeny"] = switch
    return spec


_plain_keys = ["app", "tier", "absent", CLUSTER]
_peers = st.one_of(
    st.builds(lambda s: {"podSelector": s}, selectors(["app", "tier"])),
    st.builds(lambda s: {"namespaceSelector": s}, selectors(["team"])),
    st.builds(lambda a, b: {"namespaceSelector": a, "podSelector": b}, selectors(["team"]), selectors(["app", "tier"])),
    st.builds(lambda block: {"ipBlock": block}, _cidr_sets),
)
_kubernetes_ports = st.sampled_from(
    [
        {},
        {"port": 80},
        {"protocol": "UDP"},
        {"port": 53, "protocol": "UDP"},
        {"port": "http"},
        {"port": 79, "endPort": 81},
    ]
)


_numbers = st.sampled_from([80, 81, 8080, 53])
_tiered_port = st.one_of(
    st.builds(lambda n: {"number": n}, _numbers),
    st.builds(lambda a, b: {"range": {"start": a, "end": a + b}}, st.integers(1, 90), st.integers(1, 30)),
    st.builds(lambda a: {"range": {"start": a, "end": 65535}}, st.sampled_from([1, 80, 1024])),
)
_protocols = st.one_of(
    st.builds(
        lambda word, port: {word: {"destinationPort": port}}, st.sampled_from(["tcp", "tcp", "udp"]), _tiered_port
    ),
    st.just({"destinationNamedPort": "http"}),
)
_namespaces = st.sampled_from(
    [
        {},
        {"matchLabels": {"team": "red"}},
        {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["red"]}]},
    ]
)
_pods_by_app = st.sampled_from([{}, {"matchLabels": {"app": "a"}}, {"matchLabels": {"tier": "x"}}])
_tiered_pods = st.one_of(
    st.builds(lambda n: {"namespaces": n}, _namespaces),
    st.builds(lambda n, p: {"pods": {"namespaceSelector": n, "podSelector": p}}, _namespaces, _pods_by_app),
)
_outside = st.one_of(
    st.builds(lambda n: {"networks": n}, st.lists(st.sampled_from(_RANGES), min_size=1, max_size=2, unique=True)),
    st.builds(lambda s: {"nodes": s}, selectors(_NODE_KEYS)),
)


@st.composite
def _tiered_rules(draw: st.DrawFn, word: str) -> Document:
    peers = st.one_of(_tiered_pods, _tiered_pods, _outside) if word == "to" else _tiered_pods
    rule: Document = {"action": draw(st.sampled_from(["Accept", "Deny", "Pass"]))}
    rule[word] = draw(st.lists(peers, min_size=1, max_size=2))
    if draw(st.booleans()):
        rule["name"] = draw(st.sampled_from(["first", "second"]))
    is_named = any(key in entry for entry in rule[word] for key in ("networks", "nodes"))
    protocols = draw(_maybe(st.lists(_protocols, min_size=1, max_size=2)))
    if protocols is not None:
        kept = [entry for entry in protocols if not (is_named and "destinationNamedPort" in entry)]
        rule.update({"protocols": kept} if kept else {})
    return rule


@st.composite
def tiered_documents(draw: st.DrawFn) -> Document:
    """One valid ClusterNetworkPolicy; priorities are few, so that policies tie."""
    spec: Document = {
        "tier": draw(st.sampled_from(["Admin", "Admin", "Baseline"])),
        "priority": draw(st.sampled_from([0, 1, 1, 1000])),
        "subject": draw(_tiered_pods),
    }
    for name, word in (("ingress", "from"), ("egress", "to")):
        rules = draw(_maybe(st.lists(_tiered_rules(word), min_size=1, max_size=3)))
        if rules is not None:
            spec[name] = rules
    name = draw(st.sampled_from(["t", "u", "v"]))
    return {"kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": spec}


def documents() -> st.SearchStrategy[Document]:
    """One valid policy of any kind."""
    return st.one_of(untiered_documents(), untiered_documents(), tiered_documents())


@st.composite
def _host_specs(draw: st.DrawFn) -> Document:
    """A spec about nodes; HTTP rules are refused there."""
    spec: Document = draw(_specs())
    del spec["endpointSelector"]
    for section in ("ingress", "ingressDeny", "egress", "egressDeny"):
        kept = [
            {**rule, "toPorts": [_clean(ports=port.get("ports")) for port in rule["toPorts"]]}
            if "toPorts" in rule
            else rule
            for rule in spec.get(section) or ()
        ]
        spec.update({section: kept} if kept else {})
    return {"nodeSelector": draw(selectors(_NODE_KEYS)), **spec}


@st.composite
def untiered_documents(draw: st.DrawFn) -> Document:
    """One valid policy of a kind without tiers."""
    kind = draw(st.sampled_from(["CiliumNetworkPolicy"] * 3 + ["CiliumClusterwideNetworkPolicy", "NetworkPolicy"]))
    metadata: Document = {"name": draw(st.sampled_from(["p", "q", "r"]))}
    if kind != "CiliumClusterwideNetworkPolicy":
        metadata["namespace"] = draw(st.sampled_from(["one", "two"]))
    if kind != "NetworkPolicy":
        specs = st.one_of(_specs(), _host_specs()) if kind == "CiliumClusterwideNetworkPolicy" else _specs()
        if draw(st.booleans()):
            return {"kind": kind, "metadata": metadata, "spec": draw(specs)}
        return {"kind": kind, "metadata": metadata, "specs": draw(st.lists(specs, min_size=1, max_size=2))}
    spec: Document = {"podSelector": draw(selectors(["app", "tier"]))}
    for name, word in (("ingress", "from"), ("egress", "to")):
        rules = draw(_maybe(st.lists(_kubernetes_rules(word), max_size=2)))
        if rules is not None:
            spec[name] = rules
    types = draw(_maybe(st.lists(st.sampled_from(["Ingress", "Egress"]), unique=True)))
    if types is not None:
        spec["policyTypes"] = types
    return {"kind": kind, "metadata": metadata, "spec": spec}


@st.composite
def _kubernetes_rules(draw: st.DrawFn, word: str) -> Document:
    peers, ports = draw(_maybe(st.lists(_peers, max_size=2))), draw(_maybe(st.lists(_kubernetes_ports, max_size=2)))
    return _clean(**{word: peers, "ports": ports})
