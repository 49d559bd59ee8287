# SPDX-License-Identifier: Apache-2.0
"""Answers of the agent as tables. Pure. Columns as people know them, plus CLUSTER."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Json = Any
PROTOCOLS = {0: "ANY", 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns padded to their widest cell, three spaces apart, no trailing blanks."""
    lines = [[str(cell) for cell in row] for row in rows]
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


def status(answer: Json, now_s: float) -> str:
    """One line per part; a peer that is not ready says why."""
    peers = answer["peers"]
    lines = [
        _line("Node", f"{answer['cluster']}/{answer['node']} (cluster id {answer['cluster-id']})"),
        _line("Up", age(now_s - answer["started"])),
        _line("Agent", f"{'ready' if answer['ready'] else 'not ready'}, version {answer['version']}"),
        _line("Services", f"{answer['services']} addresses, {answer['global-services']} global services"),
        _line("Identities", answer["identities"]),
        _line("Endpoints", f"{answer['endpoints']}, {answer['policies']} policies"),
        _line("ClusterMesh", f"{sum(1 for p in peers if p['ready'])}/{len(peers)} remote clusters ready"),
    ]
    for peer in peers:
        lines += _peer(peer, now_s)
    lines += [_line("Health", f"{name}: {text}") for name, text in sorted(answer["health"].items()) if text != "ok"]
    lines += [_line("Problem", problem) for problem in answer["problems"]]
    return "\n".join(lines)


def _line(label: str, text: object) -> str:
    return f"{label + ':':14} {text}"


def _peer(peer: Json, now_s: float) -> list[str]:
    last = f" (last: {age(now_s - peer['last-failure'])} ago)" if peer["last-failure"] else ""
    facts = [
        "ready" if peer["ready"] else "not-ready",
        f"{peer['num-nodes']} nodes",
        f"{peer['num-endpoints']} endpoints",
        f"{peer['num-identities']} identities",
        f"{peer['num-shared-services']} services",
        f"{peer['num-failures']} reconnections{last}",
        f"data {age(peer['age'])} old",
    ]
    lines = [f"   {peer['name']}: {', '.join(facts)}", f"   └  {peer['status']}"]
    if peer["ready"]:
        return lines
    config, synced = peer["config"], peer["synced"]
    found = {k: config[k] for k in ("retrieved", "cluster-id", "kvstoremesh", "sync-canaries")}
    lines.append("   └  remote configuration: " + ", ".join(f"{k}={_word(v)}" for k, v in found.items()))
    done = ", ".join(f"{k}={_word(v)}" for k, v in synced.items() if v is not None)
    lines.append(f"   └  synchronization status: {done}")
    if peer["reason"]:
        lines.append(f"   └  {peer['state']}: {peer['reason']}")
    return lines


def _word(value: object) -> str:
    return str(value).lower()


def services(answer: Json, *, with_affinity: bool) -> str:
    """One line per backend; without the affinity view only those that are used."""
    rows: list[Sequence[object]] = []
    for service in answer:
        shown = [b for b in service["backends"] if with_affinity or b["chosen"]]
        head = (service["frontend"], service["type"], service["name"])
        for number, backend in enumerate(shown, 1):
            mark = " (preferred)" if with_affinity and backend["chosen"] else ""
            text = f"{number} => {backend['address']}:{backend['port']} ({backend['state']}){mark}"
            rows.append([*(head if number == 1 else ("", "", "")), text, backend["cluster"], age(backend["age"])])
        if not shown:
            rows.append([*head, "-", "-", "-"])
    return table(("FRONTEND", "SERVICE TYPE", "SERVICE", "BACKEND", "CLUSTER", "AGE"), rows)


def load_balancer_map(services_: Json, backends: Json, clusters: Mapping[int, str]) -> str:
    """The realised service map; a slot that leads nowhere says so."""
    by_id = {entry["key"]["id"]: entry["value"] for entry in backends}
    rows: list[Sequence[object]] = []
    order = sorted(
        services_, key=lambda e: (e["key"]["address"], e["key"]["port"], e["key"]["protocol"], e["key"]["slot"])
    )
    for entry in order:
        key, value = entry["key"], entry["value"]
        name = f"{key['address']}:{key['port']}/{PROTOCOLS.get(key['protocol'], key['protocol'])}"
        if key["slot"] == 0:
            affinity = f" [affinity {value['backend_id']}s]" if value["flags"] & 1 else ""
            rows.append([name, f"0.0.0.0:0 ({value['service_id']}) (0) count={value['count']}{affinity}", "-"])
            continue
        backend = by_id.get(value["backend_id"])
        where = f"{backend['address']}:{backend['port']}" if backend else f"backend {value['backend_id']} not found"
        owner = clusters.get(backend["cluster_id"], backend["cluster_id"]) if backend else "-"
        rows.append(["", f"{where} ({value['service_id']}) ({key['slot']})", owner])
    return table(("SERVICE ADDRESS", "BACKEND ADDRESS (REVNAT_ID) (SLOT)", "CLUSTER"), rows)


def ipcache(entries: Json, clusters: Mapping[int, str]) -> str:
    rows = [
        (
            entry["key"]["prefix"],
            entry["value"]["identity"] or "unknown",
            entry["value"]["tunnel"] if entry["value"]["tunnel"] != "0.0.0.0" else "-",
            clusters.get(entry["value"]["cluster_id"], entry["value"]["cluster_id"]),
        )
        for entry in sorted(entries, key=lambda e: str(e["key"]["prefix"]))
    ]
    return table(("IP PREFIX/ADDRESS", "IDENTITY", "TUNNEL ENDPOINT", "CLUSTER"), rows)


def policy_map(entries: Json) -> str:
    rows = [
        (
            "Deny" if entry["deny"] else "Allow",
            "Ingress" if entry["direction"] else "Egress",
            entry["identity_name"],
            _port(entry),
            entry["proxy_port"] or "NONE",
            entry["rule"] or "-",
        )
        for entry in entries
    ]
    return table(("POLICY", "DIRECTION", "IDENTITY", "PORT/PROTO", "PROXY PORT", "RULE"), rows)


def _port(entry: Json) -> str:
    protocol = PROTOCOLS.get(entry["protocol"], str(entry["protocol"]))
    if not entry["port_bits"]:
        return "ANY" if not entry["protocol"] else f"*/{protocol}"
    last = entry["port"] | ((1 << (16 - entry["port_bits"])) - 1)
    return f"{entry['port']}/{protocol}" if last == entry["port"] else f"{entry['port']}-{last}/{protocol}"


def nodes(answer: Json) -> str:
    rows = [(n["name"], n["address"], ",".join(n["pod-cidrs"]) or "-", n["source"], n["cluster"]) for n in answer]
    return table(("NAME", "IPV4 ADDRESS", "ENDPOINT CIDR", "SOURCE", "CLUSTER"), rows)


def identities(answer: Json) -> str:
    rows: list[Sequence[object]] = []
    for identity in answer:
        labels = identity["labels"] or ["-"]
        rows.append((identity["id"], labels[0], identity["cluster"]))
        rows += [("", label, "") for label in labels[1:]]
    return table(("ID", "LABELS", "CLUSTER"), rows)


def policies(answer: Json) -> str:
    rows: list[Sequence[object]] = [
        (p["kind"], f"{p['namespace']}/{p['name']}" if p["namespace"] else p["name"], _word(p["valid"]),
         p["message"] or "; ".join(p["problems"]) or "-")
        for p in answer["policies"]
    ]  # fmt: skip
    return f"{table(('KIND', 'NAME', 'VALID', 'MESSAGE'), rows)}\nRevision: {answer['revision']}"


def selectors(answer: Json) -> str:
    rows = [(s["selector"], " ".join(map(str, s["identities"])) or "-") for s in answer]
    return table(("SELECTOR", "IDENTITIES"), rows)


def endpoints(answer: Json) -> str:
    rows = [
        (
            e["id"],
            "Enabled" if e["ingress-enforced"] else "Disabled",
            "Enabled" if e["egress-enforced"] else "Disabled",
            e["identity"],
            e["address"],
            f"{e['namespace']}/{e['pod']}",
            e["policy-revision"],
        )
        for e in answer
    ]
    header = ("ENDPOINT", "INGRESS", "EGRESS", "IDENTITY", "IPV4", "POD", "REVISION")
    return table(header, rows)
