# SPDX-License-Identifier: Apache-2.0
"""Whether clusters can be one mesh: names, ids, limits and pod networks, also of the peers that they have already. Pure.

`connect` refuses the first row that fails; `check` shows all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from clustermesh_cli.plan.check_row import CheckResult, CheckRow
from clustermesh_cli.plan.facts import ClusterFacts

NAMES: Final = "names"
IDS: Final = "ids"
LIMITS: Final = "limits"
POD_NETWORKS: Final = "pod networks"


@dataclass(frozen=True, slots=True)
class _Member:
    """A cluster of the mesh: one that was read, or a peer that `told_by`, which was read, has noted."""

    name: str
    id: int
    pod_cidrs: tuple[str, ...]
    told_by: str = ""

    def __str__(self) -> str:
        return f"{self.name}, a peer of {self.told_by}," if self.told_by else self.name


def judge_mesh(clusters: Sequence[ClusterFacts]) -> list[CheckRow]:
    """A row for each kind of check and pair of clusters, and one for each conflict with a peer."""
    rows = [row for a, b in combinations(clusters, 2) for row in _judge_pair(a, b)]
    return [*rows, *_judge_peers(clusters)]


def _judge_pair(a: ClusterFacts, b: ClusterFacts) -> Iterable[CheckRow]:
    both = [a.name, b.name]
    if a.name == b.name:
        yield _fail(
            NAMES,
            both,
            f"{a.context} and {b.context} are both named {a.name}: every cluster of a mesh needs its own name",
            f"clustermesh enable --context {b.context} --cluster-name NAME",
        )
    else:
        yield _ok(NAMES, both, "each has its own")
    if a.id == b.id:
        yield _fail(
            IDS,
            both,
            f"{a.name} and {b.name} both have the id {a.id}: every cluster of a mesh needs its own id",
            f"clustermesh enable --context {b.context} --cluster-id ID",
        )
    else:
        yield _ok(IDS, both, f"{a.id} and {b.id}")
    if a.maximum != b.maximum:
        yield _fail(
            LIMITS,
            both,
            f"{a.name} is set for {a.maximum} connected clusters and {b.name} for {b.maximum}: identities would be "
            "numbered differently; set max-connected-clusters alike in both",
        )
    else:
        yield _ok(LIMITS, both, f"up to {a.maximum} clusters in both")
    yield _judge_networks(_member(a), _member(b)) or _ok(POD_NETWORKS, both, "none overlap")


def _judge_peers(clusters: Sequence[ClusterFacts]) -> Iterable[CheckRow]:
    """Conflicts with clusters that were not read, of which only what their peers noted is known."""
    read = {cluster.name: cluster for cluster in clusters}
    noted: list[_Member] = []
    for teller in clusters:
        for name, peer in sorted(teller.peers.items()):
            for other in clusters:
                if name != other.name and peer.id == other.id:
                    yield _fail(
                        IDS,
                        [teller.name, other.name],
                        _own_peer_id(teller, name, peer.id)
                        if other is teller
                        else f"{teller.name} already has a peer {name} with id {peer.id}, the id of {other.name}; "
                        "every cluster of a mesh needs its own id",
                    )
            known = next((found for found in read.values() if found.name == name), None)
            if known is None:
                noted.append(_Member(name, peer.id, peer.pod_cidrs, teller.name))
            elif known.id != peer.id:
                again = f"clustermesh connect --context {teller.context} --destination-context {known.context}"
                detail = f"{teller.name} knows {name} by the id {peer.id}, and it has {known.id} now"
                yield CheckRow(
                    check=IDS, clusters=[teller.name, name], result=CheckResult.WARN, detail=detail, next=again
                )
    for cluster in clusters:
        for member in noted:
            if member.name != cluster.name and (row := _judge_networks(_member(cluster), member)):
                yield row
    yield from _judge_noted(noted)


def _own_peer_id(cluster: ClusterFacts, peer: str, number: int) -> str:
    return f"{cluster.name} has a peer {peer} with its own id {number}; every cluster of a mesh needs its own id"


def _judge_noted(noted: Sequence[_Member]) -> Iterable[CheckRow]:
    """Between clusters that only their peers tell of. Who has both of them as peers cannot tell them apart."""
    for a, b in combinations(noted, 2):
        result = CheckResult.FAIL if a.told_by == b.told_by else CheckResult.WARN
        if a.name != b.name and a.id == b.id:
            detail = f"{a} and {b} both have the id {a.id}"
            yield CheckRow(check=IDS, clusters=[a.told_by, b.told_by], result=result, detail=detail)
        if a.name == b.name and a.id != b.id:
            detail = f"{a} has the id {a.id}, and {b} the id {b.id}: two clusters with one name, or an old note"
            yield CheckRow(check=NAMES, clusters=[a.told_by, b.told_by], result=CheckResult.WARN, detail=detail)


def _judge_networks(a: _Member, b: _Member) -> CheckRow | None:
    for left in a.pod_cidrs:
        for right in b.pod_cidrs:
            if ipaddress.ip_network(left).overlaps(ipaddress.ip_network(right)):
                detail = f"pod networks overlap: {left} of {a} and {right} of {b}".rstrip(",")
                return _fail(POD_NETWORKS, [a.name, b.name], detail)
    return None


def _member(cluster: ClusterFacts) -> _Member:
    return _Member(cluster.name, cluster.id, cluster.pod_cidrs)


def _ok(check: str, clusters: Sequence[str], detail: str) -> CheckRow:
    return CheckRow(check=check, clusters=list(clusters), result=CheckResult.OK, detail=detail)


def _fail(check: str, clusters: Sequence[str], detail: str, remedy: str = "") -> CheckRow:
    return CheckRow(check=check, clusters=list(clusters), result=CheckResult.FAIL, detail=detail, next=remedy)
