# SPDX-License-Identifier: Apache-2.0
"""Whether those who may read a cluster can prove to it who they are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.check_row import CheckResult, CheckRow
from clustermesh_cli.plan.peering import admitted_readers
from meshapi.installed import CA_BUNDLE

TRUST: Final = "trust"
PEM: Final = "-----BEGIN CERTIFICATE-----"


def judge_trust(cluster: str, bundle: Mapping[str, Any] | None, users: Mapping[str, Any] | None) -> Iterable[CheckRow]:
    """A row for each peer that may read the cluster while nothing here verifies it: its session, if one stands, is its last."""
    trusted = (bundle or {}).get("data") or {}
    try:
        readers = sorted(admitted_readers(users))
    except CommandRefusedError as exc:
        yield CheckRow(
            check=TRUST,
            clusters=[cluster],
            result=CheckResult.FAIL,
            detail=f"who may read {cluster} is not known",
            next=str(exc),
        )
        return
    for name in readers:
        if PEM not in str(trusted.get(f"{name}.crt", "")):
            yield CheckRow(
                check=TRUST,
                clusters=[cluster, name],
                result=CheckResult.FAIL,
                detail=f"{name} may read {cluster}, and ConfigMap {CA_BUNDLE} has no certificate of its authority: "
                "its next connection is refused",
                next=f"clustermesh connect between {cluster} and {name} again",
            )
