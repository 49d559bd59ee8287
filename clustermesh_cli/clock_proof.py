# SPDX-License-Identifier: Apache-2.0
"""Proof that clusters agree about the time: each apiserver is asked what its clock shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from certs.validity import KeptCertificates
from clustermesh_cli.cluster_certificates import read_certificates
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.plan.check_row import CheckResult
from clustermesh_cli.plan.clock_rules import ClusterClock, judge_clocks, read_clock
from clustermesh_cli.plan.facts import ClusterFacts
from clustermesh_cli.program_client import ProgramClient
from meshapi.apiserver import decode_apiserver


def prove_clocks(
    clusters: Sequence[ClusterFacts],
    programs: Mapping[str, ProgramClient],
    wall: Callable[[], float],
    console: Console,
) -> None:
    """No cluster refuses a certificate of another because their clocks differ. Raises: CommandError (a failed check)."""
    found = {cluster.name: ask_clock(cluster.name, programs[cluster.context], wall) for cluster in clusters}
    kept: dict[str, Sequence[KeptCertificates]] = {}
    for cluster in clusters:
        asked = programs[cluster.context]
        kept[cluster.name] = read_certificates(asked.client, asked.namespace)
    for row in judge_clocks([clock for clock in found.values() if clock is not None], kept, wall()):
        if row.result is CheckResult.FAIL:
            raise CommandError(f"{row.detail}; {row.next}; nothing was changed", ExitCode.CHECK_FAILED)
        if row.result is CheckResult.WARN:
            console.warn(f"{row.detail}; {row.next}")


def ask_clock(cluster: str, programs: ProgramClient, wall: Callable[[], float]) -> ClusterClock | None:
    """The clock of a cluster against ours; None if its apiserver does not say. Raises: KubeError, CommandError."""
    asked_s = wall()
    code, body = programs.get_apiserver("v1/status")
    answered_s = wall()
    try:
        return read_clock(cluster, decode_apiserver(body).now, asked_s, answered_s) if code == 200 else None
    except msgspec.DecodeError:
        return None
