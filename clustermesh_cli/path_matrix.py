# SPDX-License-Identifier: Apache-2.0
"""Node to node: whether pods' packets pass between the clusters, from what every agent's probes found. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from meshapi.installed import AGENT_PORT
from meshapi.peer import PeerState
from meshapi.probe import NodeProbes, PathState, ProbeRow
from meshapi.row import SCHEMA, Row


class PathRow(Row, kw_only=True):
    """The way from one node to a node of another cluster, as the first one's agent found it. Units: seconds."""

    source_cluster: str
    source: str
    target_cluster: str
    target: str
    path: PathState
    way: str
    rtt_s: float | None = msgspec.field(default=None, name="rtt")
    reached_ago_s: float | None = msgspec.field(default=None, name="reached-ago")
    lost: bool = False


class PairRow(Row, kw_only=True):
    """All ways from one cluster to another. `sessions` are the nodes that read the other cluster's records. Units: seconds."""

    source_cluster: str
    target_cluster: str
    paths: int
    whole: int
    small_only: int
    sources: int
    sessions: int
    rtt_median_s: float | None = msgspec.field(default=None, name="rtt-median")
    rtt_max_s: float | None = msgspec.field(default=None, name="rtt-max")

    @property
    def is_whole(self) -> bool:
        return self.paths > 0 and self.whole == self.paths and self.sessions == self.sources


class PathMatrix(Row, kw_only=True):
    """Every way, the sums by pair of clusters, and the nodes whose agents did not say; as of `time` (RFC 3339)."""

    schema: int = SCHEMA
    time: str
    pairs: list[PairRow]
    paths: list[PathRow]
    missing: list[str]

    @property
    def is_whole(self) -> bool:
        return bool(self.pairs) and not self.missing and all(pair.is_whole for pair in self.pairs)


def make_matrix(time: str, answers: Iterable[NodeProbes], missing: Sequence[str]) -> PathMatrix:
    """The sum of each pair of clusters and the state of each path, sorted by cluster and node."""
    asked = sorted(answers, key=lambda answer: (answer.cluster, answer.node))
    paths = [_path(answer, target) for answer in asked for target in answer.targets]
    names = dict.fromkeys((answer.cluster, target.cluster) for answer in asked for target in answer.targets)
    pairs = [_pair(source, target, asked) for source, target in names]
    return PathMatrix(time=time, pairs=pairs, paths=paths, missing=list(missing))


def is_settled(answers: Iterable[NodeProbes]) -> bool:
    """Every agent has asked every node that it knows of."""
    return not any(target.path is PathState.NOT_ASKED for answer in answers for target in answer.targets)


def matrix_lines(matrix: PathMatrix, table_lines: Iterable[str]) -> Iterable[str]:
    """Source nodes down, target nodes across, then a line for each pair of clusters and each node that is missing."""
    if matrix.paths:
        yield from table_lines
        yield ""
    for pair in matrix.pairs:
        yield f"{'OK  ' if pair.is_whole else 'FAIL'} {_pair_text(pair)}"
    for path in matrix.paths:
        if path.path is not PathState.WHOLE:
            yield f"FAIL {path.source_cluster}/{path.source} -> {path.target_cluster}/{path.target}: {_why(path)}"
    for missing in matrix.missing:
        yield f"FAIL {missing}"
    if not matrix.pairs:
        yield "FAIL no agent knows a node of another cluster: clustermesh status says which peers there are"


def matrix_table(matrix: PathMatrix) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """A cell is the round trip, with tcp where that was the way, or what is wrong; `-` between nodes of one cluster.

    Nodes of two clusters may have one name.
    """
    targets = sorted({(path.target_cluster, path.target) for path in matrix.paths})
    sources = sorted({(path.source_cluster, path.source) for path in matrix.paths})
    cells = {(path.source_cluster, path.source, path.target_cluster, path.target): _cell(path) for path in matrix.paths}
    head = ("FROM", *("/".join(target) for target in targets))
    return head, [("/".join(source), *(cells.get((*source, *target), "-") for target in targets)) for source in sources]


def _path(answer: NodeProbes, target: ProbeRow) -> PathRow:
    return PathRow(
        source_cluster=answer.cluster,
        source=answer.node,
        target_cluster=target.cluster,
        target=target.node,
        path=target.path,
        way=target.way,
        rtt_s=target.rtt_s,
        reached_ago_s=target.reached_ago_s,
        lost=target.lost,
    )


def _pair(source: str, target: str, answers: Sequence[NodeProbes]) -> PairRow:
    ours = [answer for answer in answers if answer.cluster == source]
    rows = [row for answer in ours for row in answer.targets if row.cluster == target]
    rtts = [row.rtt_s for row in rows if row.rtt_s is not None]
    reading = [
        answer
        for answer in ours
        if any(row.cluster == target and row.session == PeerState.READY for row in answer.targets)
    ]
    return PairRow(
        source_cluster=source,
        target_cluster=target,
        paths=len(rows),
        whole=sum(1 for row in rows if row.path is PathState.WHOLE),
        small_only=sum(1 for row in rows if row.path is PathState.SMALL_ONLY),
        sources=len(ours),
        sessions=len(reading),
        rtt_median_s=median(rtts) if rtts else None,
        rtt_max_s=max(rtts, default=None),
    )


def _pair_text(pair: PairRow) -> str:
    facts = [f"{pair.whole}/{pair.paths} ways whole", f"sessions on {pair.sessions}/{pair.sources} nodes"]
    if pair.small_only:
        facts.append(f"{pair.small_only} pass small packets only")
    if pair.rtt_median_s is not None and pair.rtt_max_s is not None:
        facts.append(f"round trip median {_ms(pair.rtt_median_s)}, longest {_ms(pair.rtt_max_s)}")
    return f"{pair.source_cluster} -> {pair.target_cluster}: {', '.join(facts)}"


def _why(path: PathRow) -> str:
    match path.path:
        case PathState.SMALL_ONLY:
            return "only small packets pass the overlay: the underlay's MTU is smaller than the pods' plus 50"
        case PathState.NOT_ASKED:
            return "not asked yet: its agent has just started, or does not probe (probe-peers)"
        case _:
            since = f", last answer {path.reached_ago_s:.0f} s ago" if path.reached_ago_s is not None else ", never did"
            overlay = "the overlay's UDP port (vxlan-port)"
            ports = f"{overlay} open" if path.way == "overlay" else f"{overlay} open, or TCP {AGENT_PORT},"
            lost = "; new connections avoid it" if path.lost else ""
            return f"no answer{since}{lost}; is {ports} between them?"


def _cell(path: PathRow) -> str:
    match path.path:
        case PathState.WHOLE:
            return f"{_ms(path.rtt_s)}{' tcp' if path.way == 'tcp' else ''}" if path.rtt_s is not None else "ok"
        case PathState.SMALL_ONLY:
            return "small"
        case PathState.NOT_ASKED:
            return "?"
        case _:
            return "FAIL"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}ms" if seconds >= 0.001 else f"{seconds * 1000:.2f}ms"
