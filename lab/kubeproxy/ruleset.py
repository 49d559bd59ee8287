# SPDX-License-Identifier: Apache-2.0
"""A node's rules as one nft table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from lab.kubeproxy.choices import ProxyRule
from lab.topology import ClusterPlan, NodePlan

TABLE: Final = "kube_proxy"
MASQUERADE: Final = "0x4000"


def render(rules: Sequence[ProxyRule], cluster: ClusterPlan, node: NodePlan) -> str:
    """The node's whole table, as text for `nft -f` that replaces whatever was there."""
    lines: list[str] = []
    chains: list[str] = []
    unserved: list[str] = []
    for index, rule in enumerate(rules):
        if not rule.backends and not rule.is_silent:
            if not rule.address:
                continue  # nobody listens there: the node itself refuses
            unserved.append(f"{rule.address} . {rule.protocol.lower()} . {rule.port}")
        verdict = f"goto rule_{index}" if rule.backends else "drop" if rule.is_silent else "accept"
        lines.append(f'    {_match(rule)} {verdict} comment "{rule.name}"')
        chains += _chain(f"rule_{index}", rule)
    own = {
        address for rule in rules for address, _ in rule.backends if ip_address(address) in ip_network(node.pod_cidr)
    }
    return "\n".join(
        [
            f"table ip {TABLE} {{ }}",
            f"delete table ip {TABLE}",
            f"table ip {TABLE} {{",
            f"  set unserved {{ type ipv4_addr . inet_proto . inet_service;{_elements(sorted(set(unserved)))} }}",
            f"  set hairpin {{ type ipv4_addr . ipv4_addr;{_elements([f'{a} . {a}' for a in sorted(own)])} }}",
            *chains,
            "  chain services {",
            *lines,
            "  }",
            *_hooks(cluster, node),
            "}",
            "",
        ]
    )


def _match(rule: ProxyRule) -> str:
    where = f"ip daddr {rule.address}" if rule.address else "fib daddr type local ip daddr != 127.0.0.0/8"
    clients = "".join(f"ip saddr {{ {', '.join(nets)} }} " for nets in (rule.sources, rule.allowed) if nets)
    return f"{clients}{where} {rule.protocol.lower()} dport {rule.port}"


def _elements(values: Sequence[str]) -> str:
    return f" elements = {{ {', '.join(values)} }};" if values else ""


def _chain(name: str, rule: ProxyRule) -> list[str]:
    if not rule.backends:
        return []
    choices = ", ".join(f"{i} : {address} . {port}" for i, (address, port) in enumerate(rule.backends))
    mark = [f"    meta mark set meta mark or {MASQUERADE}"] if rule.masquerade else []
    choose = (
        f"    meta l4proto {rule.protocol.lower()} dnat to numgen random mod {len(rule.backends)} map {{ {choices} }}"
    )
    return [f"  chain {name} {{", *mark, choose, "  }"]


def _hooks(cluster: ClusterPlan, node: NodePlan) -> list[str]:
    """Translate what comes in and what the node sends; leave with the node's address where the reply must come back.

    That is: NodePort traffic, a pod that reached itself through its service, and pods that leave the cluster.
    """
    reject = "ip daddr . meta l4proto . th dport @unserved reject"
    return [
        "  chain prerouting {",
        "    type nat hook prerouting priority dstnat;",
        "    jump services",
        "  }",
        "  chain output {",
        "    type nat hook output priority -100;",
        "    jump services",
        "  }",
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat;",
        f"    meta mark & {MASQUERADE} == {MASQUERADE} snat to {node.address}",
        f"    ip saddr . ip daddr @hairpin snat to {node.address}",
        f'    ip saddr {cluster.pod_cidr} ip daddr != {cluster.pod_cidr} oifname "eth0" snat to {node.address}',
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter;",
        f"    {reject}",
        "  }",
        "  chain local {",
        "    type filter hook output priority filter;",
        f"    {reject}",
        "  }",
    ]
