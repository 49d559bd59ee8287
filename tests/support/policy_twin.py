# SPDX-License-Identifier: Apache-2.0
"""The dumb twin of the policy engine: reads the documents again for every packet and shares no code with it.

It knows valid documents only. An identity is a list of "source:key=value" texts and, outside the mesh, an address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.policy_twin_nodes import is_judged, is_of_kind, means_node
from tests.support.policy_twin_outside import WORLDS, is_called, is_entity, is_in_range
from tests.support.policy_twin_ports import bits_of, is_of_peer
from tests.support.policy_twin_tiers import tier_says

NAMESPACE = "io.kubernetes.pod.namespace"
CLUSTER = "io.cilium.k8s.policy.cluster"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels."
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
WITHOUT_PORTS = {"IGMP": 2, "GRE": 47, "VRRP": 112}
ICMP_NAMES = {"EchoRequest": 8, "EchoReply": 0, "TimeExceeded": 11}


@dataclass(frozen=True)
class Who:
    """One end of a flow."""

    labels: tuple[str, ...]
    address: str = ""
    ports: tuple[tuple[str, tuple[int, int]], ...] = ()

    def values(self, source: str, key: str) -> list[str]:
        found = []
        for text in self.labels:
            head, _, value = text.partition("=")
            own_source, _, own_key = head.partition(":")
            if own_key == key and (source == own_source or (source == "any" and own_source != "node")):
                found.append(value)
        return found

    def is_reserved(self, *names: str) -> bool:
        return any(f"reserved:{name}" in {text.rstrip("=") for text in self.labels} for name in names)


@dataclass(frozen=True)
class Hit:
    """One rule that speaks about the packet: `length` is how many bits of protocol and port it names.

    Strength: 3 denies, 2 allows, 1 would allow less than it could be held to (denies), 0 allows where nothing is denied.
    """

    strength: int
    length: int
    names_peer: bool
    rule: tuple[tuple[str, str, str], str]


@dataclass
class Tally:
    """What all rules together say about one packet in one direction."""

    selected: bool = False
    default_deny: bool = False
    hits: list[Hit] = field(default_factory=list)


@dataclass(frozen=True)
class Decision:
    """The verdict, and the rule that is named for it: None when no rule speaks."""

    allowed: bool
    rule: tuple[tuple[str, str, str], str] | None = None


@dataclass(frozen=True)
class Packet:
    direction: str
    subject: Who
    peer: Who
    protocol: int
    port: int


@dataclass
class Twin:
    """A cluster with some documents in force.

    Where `is_ipv6_judged`, outsiders of IPv6 are `world-ipv6`; where it `is_dual_stack`, those of IPv4 are `world-ipv4` too.
    """

    cluster: str
    scope: str
    documents: list[dict[str, Any]]
    pods: list[Who] = field(default_factory=list)
    is_dual_stack: bool = False
    is_ipv6_judged: bool = False

    def decide(self, packet: Packet) -> Decision:
        """The verdict, from first principles.

        Named is the strongest rule; of these the one with the longest layer 4 part, then one that names the peer, then
        the first by name.
        """
        is_host, is_init = (packet.subject.is_reserved(word) for word in ("host", "init"))
        if not is_judged(self, packet.subject):
            return Decision(True)
        tally = Tally()
        for document in self.documents:
            if document["kind"] == "NetworkPolicy":
                self._kubernetes(document, packet, tally)
            elif document["kind"] != "ClusterNetworkPolicy":
                self._cilium(document, packet, tally)
        tiered = [d for d in self.documents if d["kind"] == "ClusterNetworkPolicy" and self.is_about(d, packet)]
        if not (tally.selected or is_init or tiered or is_host):
            return Decision(True)
        admin = tier_says(self, [d for d in tiered if d["spec"]["tier"] == "Admin"], packet)
        if admin.verdict in ("Accept", "Deny"):
            return Decision(admin.verdict == "Accept", admin.rule)
        hits = tally.hits
        if packet.direction == "ingress" and packet.peer.is_reserved("host") and not is_host:
            hits.append(Hit(2, 0, True, (("built-in", "", "allow-localhost"), "")))
        if not hits and not tally.default_deny:
            baseline = tier_says(self, [d for d in tiered if d["spec"]["tier"] == "Baseline"], packet)
            if baseline.verdict is not None:
                passed = baseline.verdict == "Pass"
                return Decision(not is_init if passed else baseline.verdict == "Accept", baseline.rule)
        if not tally.default_deny and not is_init:
            hits.append(Hit(0, 0, False, (("built-in", "", "allow-without-default-deny"), "")))
        if not hits:  # where an Admin rule may pass something of the peer on, the denial is an entry of its own
            return Decision(False, (("built-in", "", "default-deny"), "") if admin.may_pass else None)
        best = max((hit.strength, hit.length, hit.names_peer) for hit in hits)
        winners = [hit for hit in hits if (hit.strength, hit.length, hit.names_peer) == best]
        return Decision(best[0] in (2, 0), min(hit.rule for hit in winners))

    # Cilium

    def _cilium(self, document: dict[str, Any], packet: Packet, tally: Tally) -> None:
        namespace = document["metadata"].get("namespace", "default")
        clusterwide = document["kind"] == "CiliumClusterwideNetworkPolicy"
        several = [(f"specs[{n}].", spec) for n, spec in enumerate(document.get("specs", []))]
        for place, spec in [*([("", document["spec"])] if "spec" in document else []), *several]:
            if not is_of_kind(self, spec, packet.subject):
                continue
            subject = spec.get("endpointSelector", {})
            if not clusterwide:
                labels = {k: v for k, v in (subject.get("matchLabels") or {}).items() if k != f"k8s:{NAMESPACE}"}
                subject = {**subject, "matchLabels": labels}
            if not self.selects(subject, packet.subject, "any"):
                continue
            if not clusterwide and namespace not in packet.subject.values("k8s", NAMESPACE):
                continue
            switch = (spec.get("enableDefaultDeny") or {}).get(packet.direction)
            for section, is_deny in ((packet.direction, False), (packet.direction + "Deny", True)):
                for number, rule in enumerate(spec.get(section) or []):
                    tally.selected = True
                    tally.default_deny |= switch is not False
                    scope = "" if clusterwide else namespace
                    about_init = "reserved:init" in str(subject)
                    if self._cilium_peer(rule, packet, scope, about_init, is_deny):
                        name = (reference(document), f"{place}{section}[{number}]")
                        names_peer = not self._means_everyone(rule, packet, scope, about_init)
                        self._cilium_ports(rule, packet, is_deny, names_peer, name, tally)

    def _means_everyone(self, rule: dict[str, Any], packet: Packet, namespace: str, about_init: bool) -> bool:
        """No peer is given, or one of them is every identity there is."""
        word = "from" if packet.direction == "ingress" else "to"
        given = [key for key in rule if key.startswith(word) and key != "toPorts"]
        if not given:
            return True
        bare = [
            s
            for s in rule.get(word + "Endpoints") or []
            if not any(s.get(k) for k in ("matchLabels", "matchExpressions"))
        ]
        if bare and not namespace and about_init and not self.scope:
            return True
        return "all" in (rule.get(word + "Entities") or [])

    def _cilium_peer(
        self, rule: dict[str, Any], packet: Packet, namespace: str, about_init: bool, is_deny: bool
    ) -> bool:
        word = "from" if packet.direction == "ingress" else "to"
        kinds = ("Endpoints", "CIDR", "CIDRSet", "Entities", "FQDNs", "Services", "Groups", "Nodes")
        given = {kind: rule[word + kind] for kind in kinds if rule.get(word + kind) is not None}
        if any(not entries for entries in given.values()):
            return False
        if not given:
            return bool(rule.get("toPorts") or rule.get("icmps"))
        ((kind, entries),) = given.items()
        peer = packet.peer
        if kind == "Endpoints":
            return any(self._endpoint(entry, peer, namespace, about_init) for entry in entries)
        if kind == "Nodes":
            answers = [means_node(self, entry, peer, packet.direction) for entry in entries]
            return any(is_deny if answer is None else answer for answer in answers)
        if kind == "Entities":
            return any(self._entity(entry, peer) for entry in entries)
        if kind == "CIDR":
            return any(is_in_range(self, entry, [], peer) for entry in entries)
        if kind == "CIDRSet":
            return any(is_in_range(self, entry["cidr"], entry.get("except") or [], peer) for entry in entries)
        return False

    def _endpoint(self, selector: dict[str, Any], peer: Who, namespace: str, about_init: bool) -> bool:
        if not self.selects(selector, peer, "any"):
            return False
        keys = [*(selector.get("matchLabels") or {}), *(e["key"] for e in selector.get("matchExpressions") or [])]
        if any(key.startswith("reserved:") for key in keys):
            return True
        bare = [key.split(":", 1)[1] if key.startswith(("k8s:", "any:")) else key for key in keys]
        if NAMESPACE not in bare:
            if not namespace:
                if not about_init and not peer.values("k8s", NAMESPACE):
                    return False
            elif not any(key.startswith(NAMESPACE_LABELS) for key in bare) and namespace not in peer.values(
                "k8s", NAMESPACE
            ):
                return False
        return not self.scope or CLUSTER in bare or self.scope in peer.values("k8s", CLUSTER)

    def _entity(self, name: str, peer: Who) -> bool:
        if name == "all":
            return True
        if name == "cluster":
            inside = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
            return peer.is_reserved(*inside) or self.cluster in peer.values("k8s", CLUSTER)
        return is_entity(self, name, peer) if name in WORLDS else peer.is_reserved(name)

    def _cilium_ports(
        self, rule: dict[str, Any], packet: Packet, is_deny: bool, names_peer: bool, name: Any, tally: Tally
    ) -> None:
        port_rules, icmps = rule.get("toPorts") or [], rule.get("icmps") or []
        matched = [(0, names_peer)] if not port_rules and not icmps else []
        pending: list[tuple[int, bool]] = []
        for port_rule in port_rules:
            ports = port_rule.get("ports") or []
            lengths = [(self._cilium_port(p, packet), names_peer or is_of_peer(p, packet)) for p in ports]
            hit = [found for found in lengths if found[0]]
            (pending if (port_rule.get("rules") or {}).get("http") else matched).extend(hit)
        for icmp in icmps:
            for entry in icmp.get("fields") or []:
                number = int(ICMP_NAMES.get(entry["type"], entry["type"]))
                family = 58 if entry.get("family") == "IPv6" else 1
                if family == packet.protocol and number in (0, packet.port):
                    matched.append((8 if number == 0 else 24, names_peer))
        if matched:
            tally.hits.append(Hit(3 if is_deny else 2, *max(matched), name))
        if pending:
            tally.hits.append(Hit(1, *max(pending), name))

    def _cilium_port(self, entry: dict[str, Any], packet: Packet) -> int:
        """How many bits of protocol and port the entry names of the packet; 0 if it does not match."""
        word = entry.get("protocol", "ANY")
        if word in WITHOUT_PORTS:
            return 8 if packet.protocol == WITHOUT_PORTS[word] else 0
        protocols = list(PROTOCOLS.values()) if word == "ANY" else [PROTOCOLS[word]]
        if packet.protocol not in protocols:
            return 0
        if not entry["port"].isdigit():
            return 24 if packet.port == self._named(entry["port"], packet) else 0
        first = int(entry["port"])
        last = max(first, entry.get("endPort") or 0)
        if first == 0 and last in (0, 65535):
            return 8
        return 8 + bits_of(first, last, packet.port) if first <= packet.port <= last else 0

    def _named(self, name: str, packet: Packet) -> int | None:
        owners = [packet.subject if packet.direction == "ingress" else packet.peer]
        found = {
            port for who in owners for own, (port, protocol) in who.ports if own == name and protocol == packet.protocol
        }
        return found.pop() if len(found) == 1 else None

    # Tiers

    def is_about(self, document: dict[str, Any], packet: Packet) -> bool:
        """Whether a ClusterNetworkPolicy has rules for the packet's direction and its subject."""
        spec = document["spec"]
        return bool(spec.get(packet.direction)) and self._tiered_pods(spec["subject"], packet.subject, "")

    def is_peer(self, entry: dict[str, Any], peer: Who, action: str) -> bool:
        """Whether a peer entry of such a rule means the peer."""
        if "networks" in entry:
            return any(is_in_range(self, text, [], peer) for text in entry["networks"])
        if "domainNames" in entry:
            return False
        if "nodes" in entry:
            answer = means_node(self, entry["nodes"], peer, "egress")
            return action != "Accept" if answer is None else answer
        return self._tiered_pods(entry, peer, "" if "namespaces" in entry and action == "Deny" else self.scope)

    def _tiered_pods(self, entry: dict[str, Any], who: Who, scope: str) -> bool:
        pods = entry.get("pods") or {}
        namespaces = entry["namespaces"] if "namespaces" in entry else pods.get("namespaceSelector") or {}
        return (
            bool(who.values("k8s", NAMESPACE))
            and self.selects(namespaces, who, "k8s", NAMESPACE_LABELS)
            and self.selects(pods.get("podSelector") or {}, who, "k8s")
            and (not scope or scope in who.values("k8s", CLUSTER))
        )

    def tiered_port(self, entry: dict[str, Any], packet: Packet) -> int:
        """How many bits of protocol and port the entry names of the packet; 0 if it does not match."""
        ((word, value),) = entry.items()
        if word == "destinationNamedPort":
            return 24 if packet.port == self._named(value, packet) else 0
        if packet.protocol != PROTOCOLS[word.upper()]:
            return 0
        port = value["destinationPort"]
        first, last = (
            (port["number"], port["number"]) if "number" in port else (port["range"]["start"], port["range"]["end"])
        )
        return 8 + bits_of(first, last, packet.port) if first <= packet.port <= last else 0

    # Kubernetes

    def _kubernetes(self, document: dict[str, Any], packet: Packet, tally: Tally) -> None:
        namespace = document["metadata"].get("namespace", "default")
        spec = document.get("spec") or {}
        if namespace not in packet.subject.values("k8s", NAMESPACE):
            return
        if not self.selects(spec.get("podSelector") or {}, packet.subject, "k8s"):
            return
        rules = spec.get(packet.direction) or []
        types = spec.get("policyTypes") or []
        named = packet.direction.capitalize() in types
        if rules or named or (packet.direction == "ingress" and "Egress" not in types):
            tally.selected = tally.default_deny = True
        for number, rule in enumerate(rules):
            peers = rule.get("from" if packet.direction == "ingress" else "to") or []
            if peers and not any(self._kubernetes_peer(peer, packet.peer, namespace) for peer in peers):
                continue
            ports = rule.get("ports") or []
            lengths = [(self._kubernetes_port(p, packet), bool(peers) or is_of_peer(p, packet)) for p in ports]
            lengths = [found for found in lengths if found[0]] if ports else [(0, bool(peers))]
            if lengths:
                name = (reference(document), f"{packet.direction}[{number}]")
                tally.hits.append(Hit(2, *max(lengths), name))

    def _kubernetes_peer(self, entry: dict[str, Any], peer: Who, namespace: str) -> bool:
        block = entry.get("ipBlock")
        if block is not None:
            return is_in_range(self, block["cidr"], block.get("except") or [], peer)
        pods, namespaces = entry.get("podSelector"), entry.get("namespaceSelector")
        if pods is not None and not self.selects(pods, peer, "k8s"):
            return False
        if self.scope and self.scope not in peer.values("k8s", CLUSTER):
            return False
        if namespaces is None:
            return namespace in peer.values("k8s", NAMESPACE)
        return bool(peer.values("k8s", NAMESPACE)) and self.selects(namespaces, peer, "k8s", NAMESPACE_LABELS)

    def _kubernetes_port(self, entry: dict[str, Any], packet: Packet) -> int:
        """How many bits of protocol and port the entry names of the packet; 0 if it does not match."""
        if packet.protocol != PROTOCOLS[entry.get("protocol", "TCP")]:
            return 0
        port = entry.get("port")
        if port is None:
            return 8
        if isinstance(port, str):
            return 24 if packet.port == self._named(port, packet) else 0
        last = entry.get("endPort") or port
        return 8 + bits_of(port, last, packet.port) if port <= packet.port <= last else 0

    # Labels

    def selects(self, selector: dict[str, Any], who: Who, default: str, prefix: str = "") -> bool:
        def values(text: str) -> list[str]:
            source, colon, key = text.partition(":")
            source, key = (source, key) if colon else (default, prefix + text)
            if source in ("reserved", "any") and key in WORLDS and is_called(self, key, who):
                return [""]
            return who.values(source, key)

        for key, value in (selector.get("matchLabels") or {}).items():
            if value not in values(key):
                return False
        for entry in selector.get("matchExpressions") or []:
            found = values(entry["key"])
            hit = any(value in entry["values"] for value in found) if "values" in entry else bool(found)
            if hit != (entry["operator"] in ("In", "Exists")):
                return False
        return True


def reference(document: dict[str, Any]) -> tuple[str, str, str]:
    is_clusterwide = document["kind"] in ("CiliumClusterwideNetworkPolicy", "ClusterNetworkPolicy")
    namespace = "" if is_clusterwide else document["metadata"].get("namespace", "default")
    return document["kind"], namespace, document["metadata"]["name"]
