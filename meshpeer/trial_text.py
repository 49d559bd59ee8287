# SPDX-License-Identifier: Apache-2.0
"""What troubleshooting found, for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from meshapi.trial import PeerTrial, TrialFinding, TrialOutcome, TrialStep
from meshkit.text import visible_cell

MARKS: Final = {TrialOutcome.OK: "✅", TrialOutcome.FAIL: "❌", TrialOutcome.INFO: "(i)"}
LABELS: Final = {
    TrialStep.SERVER_CERTIFICATE: "server certificate: ",
    TrialStep.TRUSTED_CA: "trusted CA: ",
    TrialStep.CLIENT_CERTIFICATE: "client certificate: ",
}


def listing_lines(count: int, refused: Mapping[str, str]) -> Iterable[str]:
    """How many files there are to try, and which are no peer's."""
    yield f"Found {count} cluster configurations"
    for name, reason in refused.items():
        yield f"{MARKS[TrialOutcome.FAIL]} {visible_cell(name)}: {visible_cell(reason)}"


def peer_lines(trial: PeerTrial) -> Iterable[str]:
    """Every step of one peer's connection."""
    yield ""
    yield f'Cluster "{visible_cell(trial.name)}":'
    yield f"  Configuration path: {visible_cell(trial.path)}"
    if trial.refused:
        yield f"  {MARKS[TrialOutcome.FAIL]} configuration cannot be used: {visible_cell(trial.refused)}"
        return
    for endpoint in trial.endpoints:
        yield from _part(f"StoreEndpoint {endpoint.url}", endpoint.findings)
    if trial.certificates:
        yield from _part("Digital certificates", trial.certificates)
    yield from _part("Store", trial.store)


def _part(title: str, findings: Iterable[TrialFinding]) -> Iterable[str]:
    yield ""
    yield f"  {visible_cell(title)}"
    for finding in findings:
        label = f"{finding.address}: " if finding.address else LABELS.get(finding.step, "")
        yield f"     {MARKS[finding.outcome]} {visible_cell(f'{label}{finding.detail}')}"
