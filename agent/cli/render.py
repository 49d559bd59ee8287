# SPDX-License-Identifier: Apache-2.0
"""Answers of the agent as tables. Pure. Columns as people know them, plus CLUSTER."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from meshapi.agent import (
    AgentStatus,
    EndpointRow,
    IdentityRow,
    LoadBalancerMaps,
    MapEntry,
    NameRow,
    NodeRow,
    PolicyList,
    PolicyMapRow,
    PolicyStatus,
    SelectorRow,
    Verification,
)
from meshapi.peer import RemoteCluster
from meshapi.service import ServiceStatus
from meshkit.text import visible_cell
from meshmodel.address import place_of
from meshmodel.protocol import PROTOCOL_NAMES

PROTOCOLS = {0: "ANY", **PROTOCOL_NAMES}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns padded to their widest cell, three spaces apart, no trailing blanks."""
    lines = [[visible_cell(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *lines]) for i in range(len(header))]
    padded = (
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *lines]
    )
    return "\n".join(line.rstrip() for line in padded)


def age(seconds: float | None) -> str:
    """`7s`, `4m2s`, `3d4h`; `-` for never."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for unit, size, below, smaller in (("d", 86_400, 3_600, "h"), ("h", 3_600, 60, "m"), ("m", 60, 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit}{rest}{smaller}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def status(answer: AgentStatus, now_s: float) -> str:
    """One line per part; a peer that is not ready says why."""
    peers = answer.peers
    lines = [
        _line("Node", f"{answer.cluster}/{answer.node} (cluster id {answer.cluster_id})"),
        _line("Up", age(now_s - answer.started)),
        _line("Agent", f"{'ready' if answer.ready else 'not ready'}, version {answer.version}"),
        _line("Services", f"{answer.services} addresses, {answer.global_services} global services"),
        _line("Identities", answer.identities),
        _line("Endpoints", f"{answer.endpoints}, {answer.policies} policies"),
        _line("ClusterMesh", f"{sum(1 for p in peers if p.ready)}/{len(peers)} remote clusters ready"),
    ]
    for peer in peers:
        lines += _peer(peer, now_s)
    lines += [_line("Health", f"{name}: {text}") for name, text in sorted(answer.health.items()) if text != "ok"]
    lines += [_line("Problem", problem) for problem in answer.problems]
    return "\n".join(lines)


def _line(label: str, text: object) -> str:
    return f"{label + ':':14} {text}"


def _peer(peer: RemoteCluster, now_s: float) -> list[str]:
    last = f" (last: {age(now_s - peer.last_failure)} ago)" if peer.last_failure else ""
    facts = [
        "ready" if peer.ready else "not-ready",
        f"{peer.num_nodes} nodes",
        f"{peer.num_endpoints} endpoints",
        f"{peer.num_identities} identities",
        f"{peer.num_shared_services} services",
        f"{peer.num_failures} reconnections{last}",
        f"data {age(peer.age_s)} old",
        *([] if peer.rtt_s is None else [f"round trip {peer.rtt_s * 1000:.1f}ms"]),
    ]
    lines = [f"   {peer.name}: {', '.join(facts)}", f"   └  {peer.status}"]
    if peer.ready:
        return lines
    config = peer.config
    found = {
        "retrieved": config.retrieved,
        "cluster-id": config.cluster_id,
        "kvstoremesh": config.kvstoremesh,
        "sync-canaries": config.sync_canaries,
    }
    lines.append("   └  remote configuration: " + ", ".join(f"{k}={_word(v)}" for k, v in found.items()))
    synced = {
        "nodes": peer.synced.nodes,
        "services": peer.synced.services,
        "identities": peer.synced.identities,
        "endpoints": peer.synced.endpoints,
        "endpoint-slices": peer.synced.endpoint_slices,
        "service-exports": peer.synced.service_exports,
    }
    done = ", ".join(f"{k}={_word(v)}" for k, v in synced.items() if v is not None)
    lines.append(f"   └  synchronization status: {done}")
    if peer.reason:
        lines.append(f"   └  {peer.state}: {peer.reason}")
    return lines


def _word(value: object) -> str:
    return str(value).lower()


def services(answer: Sequence[ServiceStatus], *, with_affinity: bool) -> str:
    """One line per backend; without the affinity view only those that are used."""
    rows: list[Sequence[object]] = []
    for service in answer:
        shown = [b for b in service.backends if with_affinity or b.chosen]
        head = (service.frontend, service.type, service.name)
        for number, backend in enumerate(shown, 1):
            mark = " (preferred)" if with_affinity and backend.chosen else ""
            text = f"{number} => {place_of(backend.address, backend.port)} ({backend.state}){mark}"
            rows.append([*(head if number == 1 else ("", "", "")), text, backend.cluster, age(backend.age_s)])
        if not shown:
            rows.append([*head, "-", "-", "-"])
    return table(("FRONTEND", "SERVICE TYPE", "SERVICE", "BACKEND", "CLUSTER", "AGE"), rows)


def load_balancer_maps(answer: LoadBalancerMaps, clusters: Mapping[int, str]) -> str:
    """The realised service maps of both families; a slot that leads nowhere says so."""
    rows = [
        *_map_rows(answer.services, answer.backends, clusters),
        *_map_rows(answer.services6, answer.backends6, clusters),
    ]
    return table(("SERVICE ADDRESS", "BACKEND ADDRESS (REVNAT_ID) (SLOT)", "CLUSTER"), rows)


def _map_rows(
    services_: Sequence[MapEntry], backends: Sequence[MapEntry], clusters: Mapping[int, str]
) -> list[Sequence[object]]:
    by_id = {entry.key["id"]: entry.value for entry in backends}
    rows: list[Sequence[object]] = []
    order = sorted(
        services_,
        key=lambda e: (str(e.key["address"]), int(e.key["port"]), int(e.key["protocol"]), int(e.key["slot"])),
    )
    for entry in order:
        key, value = entry.key, entry.value
        name = (
            f"{place_of(str(key['address']), int(key['port']))}/{PROTOCOLS.get(int(key['protocol']), key['protocol'])}"
        )
        if key["slot"] == 0:
            affinity = f" [affinity {value['backend_id']}s]" if int(value["flags"]) & 1 else ""
            rows.append([name, f"0.0.0.0:0 ({value['service_id']}) (0) count={value['count']}{affinity}", "-"])
            continue
        backend = by_id.get(value["backend_id"])
        where = (
            place_of(str(backend["address"]), int(backend["port"]))
            if backend
            else f"backend {value['backend_id']} not found"
        )
        owner = _owner(backend["cluster_id"], clusters) if backend else "-"
        rows.append(["", f"{where} ({value['service_id']}) ({key['slot']})", owner])
    return rows


def ipcache(entries: Sequence[MapEntry], clusters: Mapping[int, str]) -> str:
    """The realised address map, by prefix."""
    rows = [
        (
            entry.key["prefix"],
            entry.value["identity"] or "unknown",
            entry.value["tunnel"] if entry.value["tunnel"] != "0.0.0.0" else "-",
            _owner(entry.value["cluster_id"], clusters),
        )
        for entry in sorted(entries, key=lambda e: str(e.key["prefix"]))
    ]
    return table(("IP PREFIX/ADDRESS", "IDENTITY", "TUNNEL ENDPOINT", "CLUSTER"), rows)


def _owner(cluster_id: object, clusters: Mapping[int, str]) -> str:
    return clusters.get(int(str(cluster_id)), str(cluster_id))


def policy_map(entries: Sequence[PolicyMapRow]) -> str:
    """What the kernel enforces for one endpoint."""
    rows = [
        (
            "Deny" if entry.deny else "Allow",
            "Ingress" if entry.direction else "Egress",
            entry.identity_name,
            _port(entry),
            entry.proxy_port or "NONE",
            entry.rule or "-",
        )
        for entry in entries
    ]
    return table(("POLICY", "DIRECTION", "IDENTITY", "PORT/PROTO", "PROXY PORT", "RULE"), rows)


def _port(entry: PolicyMapRow) -> str:
    protocol = PROTOCOLS.get(entry.protocol, str(entry.protocol))
    if not entry.port_bits:
        return "ANY" if not entry.protocol else f"*/{protocol}"
    last = entry.port | ((1 << (16 - entry.port_bits)) - 1)
    return f"{entry.port}/{protocol}" if last == entry.port else f"{entry.port}-{last}/{protocol}"


def nodes(answer: Sequence[NodeRow]) -> str:
    """Nodes of every cluster."""
    rows = [(n.name, n.address, ",".join(n.pod_cidrs) or "-", n.source, n.cluster) for n in answer]
    return table(("NAME", "IPV4 ADDRESS", "ENDPOINT CIDR", "SOURCE", "CLUSTER"), rows)


def identities(answer: Sequence[IdentityRow]) -> str:
    """Identities, one line per label."""
    rows: list[Sequence[object]] = []
    for identity in answer:
        labels = identity.labels or ["-"]
        rows.append((identity.id, labels[0], identity.cluster))
        rows += [("", label, "") for label in labels[1:]]
    return table(("ID", "LABELS", "CLUSTER"), rows)


def names(answer: Sequence[NameRow]) -> str:
    """Names that pods were told, one line per address."""
    rows: list[Sequence[object]] = [
        (n.endpoint, n.name, n.address, f"{n.left_s:.0f}s" if n.left_s else "connection", ", ".join(n.labels) or "-")
        for n in answer
    ]
    return table(("POD", "NAME", "ADDRESS", "LEFT", "MEANT BY"), rows)


def policies(answer: PolicyList) -> str:
    """Policy objects and the revision they make."""
    rows: list[Sequence[object]] = [
        (p.kind, f"{p.namespace}/{p.name}" if p.namespace else p.name, _word(p.valid), _state(p),
         (p.message or "; ".join(p.problems) or "-") + (f" (pods here: {', '.join(p.pods)})" if p.pods else ""))
        for p in answer.policies
    ]  # fmt: skip
    return f"{table(('KIND', 'NAME', 'VALID', 'STATE', 'MESSAGE'), rows)}\nRevision: {answer.revision}"


def _state(policy: PolicyStatus) -> str:
    return "-" if not policy.valid else "staged" if policy.staged else "enforced"


def selectors(answer: Sequence[SelectorRow]) -> str:
    """Selectors and the identities they select."""
    rows = [(s.selector, " ".join(map(str, s.identities)) or "-") for s in answer]
    return table(("SELECTOR", "IDENTITIES"), rows)


def verification(answer: Verification) -> str:
    """One line for each difference, then the sum; equal answers give equal text."""
    lines = [f"{d.place}: {d.key}: repaired; it was: {d.what}" for d in answer.repaired]
    lines += [f"{d.place}: {d.key}: {d.what}" for d in answer.differences]
    if answer.waiting_for:
        lines.append(f"the tables are not complete yet, still missing: {', '.join(answer.waiting_for)}")
    if answer.not_begun:
        lines.append(
            f"not repaired, because nothing is written before the first listings: {', '.join(answer.not_begun)}"
        )
    number = len(answer.differences)
    said = "no differences" if not number else f"{number} difference{'s' if number > 1 else ''}"
    said += f", {len(answer.repaired)} repaired" if answer.repaired else ""
    said += f"; {answer.pending} rows are not written yet or failed" if answer.pending else ""
    return "\n".join([*lines, f"node {answer.node}: {said}"])


def endpoints(answer: Sequence[EndpointRow]) -> str:
    """Pods of this node."""
    has_ipv6 = any(e.ipv6 for e in answer)
    rows = [
        (
            e.id,
            "Enabled" if e.ingress_enforced else "Disabled",
            "Enabled" if e.egress_enforced else "Disabled",
            e.identity,
            e.address,
            *([" ".join(e.ipv6) or "-"] if has_ipv6 else []),
            f"{e.namespace}/{e.pod}",
            "FAILED" if e.failure else "-" if e.policy_revision is None else e.policy_revision,
            e.behind or "-",
        )
        for e in answer
    ]
    header = (
        "ENDPOINT",
        "INGRESS",
        "EGRESS",
        "IDENTITY",
        "IPV4",
        *(["IPV6"] if has_ipv6 else []),
        "POD",
        "REVISION",
        "INTERFACE",
    )
    return table(header, rows)
