# SPDX-License-Identifier: Apache-2.0
"""Whether a cluster's programs, nodes and certificates are fit for a mesh, and whether versions go together. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

from certs.validity import KeptCertificates, Validity, date, judge
from clustermesh_cli.plan.check_row import CheckResult, CheckRow
from meshapi.apiserver import ApiserverStatus
from meshapi.installed import APISERVER, LEAST_KERNEL

PROGRAMS: Final = "programs"
VERSIONS: Final = "versions"
KERNELS: Final = "kernels"
CERTIFICATES: Final = "certificates"
_KERNEL: Final = re.compile(r"(\d+)\.(\d+)")


def apiserver_problem(status: ApiserverStatus) -> str | None:
    """Why a cluster cannot be connected yet, as far as its apiserver goes."""
    return None if status.ready else f"{APISERVER} is not ready"


def judge_programs(cluster: str, status: ApiserverStatus) -> list[CheckRow]:
    """The apiserver and every agent; agents that are not ready forbid no link."""
    problem = apiserver_problem(status)
    said = f"{problem}: {'; '.join(status.problems)}" if problem and status.problems else problem
    rows = [_row(PROGRAMS, cluster, CheckResult.FAIL if said else CheckResult.OK, said or f"{APISERVER} is ready")]
    away = [agent for agent in status.agents if not agent.ready]
    for agent in away:
        detail = f"agent of node {agent.node} is not ready: {'; '.join(agent.problems) or 'it is starting'}"
        rows.append(_row(PROGRAMS, cluster, CheckResult.WARN, detail, f"clustermesh status: node {agent.node}"))
    if not away:
        rows.append(_row(PROGRAMS, cluster, CheckResult.OK, f"{len(status.agents)} agents are ready"))
    return rows


def judge_versions(statuses: Mapping[str, ApiserverStatus]) -> list[CheckRow]:
    """Within each cluster and between each pair; records are read by older programs too, so nothing here fails."""
    rows = []
    for cluster, status in statuses.items():
        others = sorted({agent.version for agent in status.agents if agent.version} - {status.version})
        if others and status.version:
            detail = f"{APISERVER} is {status.version}, agents are {', '.join(others)}"
            remedy = (
                f"kubectl -n kube-system rollout status daemonset,deployment of {cluster}: an upgrade that stopped?"
            )
            rows.append(_row(VERSIONS, cluster, CheckResult.WARN, detail, remedy))
    for (a, one), (b, other) in combinations(statuses.items(), 2):
        if one.version != other.version:
            detail = f"{a} runs {one.version or 'an unknown version'}, {b} runs {other.version or 'an unknown version'}"
            rows.append(
                CheckRow(
                    check=VERSIONS,
                    clusters=[a, b],
                    result=CheckResult.WARN,
                    detail=detail,
                    next="upgrade the older one",
                )
            )
        else:
            rows.append(
                CheckRow(check=VERSIONS, clusters=[a, b], result=CheckResult.OK, detail=f"both run {one.version}")
            )
    return rows


def judge_kernels(cluster: str, nodes: Iterable[Mapping[str, Any]]) -> list[CheckRow]:
    """Node objects say their kernel; one that does not is not judged."""
    known, old = [], []
    for node in nodes:
        said = str(((node.get("status") or {}).get("nodeInfo") or {}).get("kernelVersion", ""))
        if found := _KERNEL.match(said):
            known.append(said)
            if (int(found[1]), int(found[2])) < LEAST_KERNEL:
                old.append(f"{node['metadata']['name']} ({said})")
    least = f"{LEAST_KERNEL[0]}.{LEAST_KERNEL[1]}"
    if old:
        detail = f"the agent needs Linux {least} or later: {', '.join(sorted(old))}"
        return [_row(KERNELS, cluster, CheckResult.FAIL, detail, "update the kernels of these nodes")]
    if not known:
        return [_row(KERNELS, cluster, CheckResult.WARN, "no node says which kernel it runs")]
    return [_row(KERNELS, cluster, CheckResult.OK, f"{len(known)} nodes run Linux {least} or later")]


def judge_certificates(cluster: str, kept: Sequence[KeptCertificates], wall_s: float) -> list[CheckRow]:
    """One row for each that is refused or about to be; else one that says when the first of them ends."""
    rows = []
    for purpose in kept:
        state = judge(wall_s, purpose)
        if state.validity is not Validity.VALID:
            result = CheckResult.FAIL if state.is_refused else CheckResult.WARN
            rows.append(_row(CERTIFICATES, cluster, result, state.finding, state.remedy))
    if not rows:
        first = min((cert.not_after_s for purpose in kept for cert in purpose.certificates), default=0.0)
        rows.append(
            _row(CERTIFICATES, cluster, CheckResult.OK, f"{len(kept)} are valid, the first until {date(first)}")
        )
    return rows


def _row(check: str, cluster: str, result: CheckResult, detail: str, remedy: str = "") -> CheckRow:
    return CheckRow(check=check, clusters=[cluster], result=result, detail=detail, next=remedy)
