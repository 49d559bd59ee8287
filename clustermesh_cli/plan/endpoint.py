# SPDX-License-Identifier: Apache-2.0
"""By which addresses and port clusters reach each other, and whether what was found there will do. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.check_row import CheckResult, CheckRow
from clustermesh_cli.plan.facts import ClusterFacts, StoreAccess
from meshapi.apiserver import Reach

ENDPOINT: Final = "endpoint"
GIVEN: Final = "given"
"""The service type of an access that a person gave instead of the Service's own."""
FINE: Final = "none"
ABSENT: Final = frozenset({"name-unknown", "refused", "unreachable", "closed"})
"""Problems that one node of several may have; any other means that something else answers there."""


def given_access(entries: Sequence[str]) -> StoreAccess:
    """The access that HOST:PORT entries describe. Raises: CommandRefusedError when one is malformed or the ports differ."""
    addresses, ports = [], set()
    for entry in entries:
        host, colon, port = entry.rpartition(":")
        name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not name or name.strip() != name or not (port.isascii() and port.isdigit()):
            raise CommandRefusedError(f"endpoint {entry!r} is not HOST:PORT")
        if not 1 <= int(port[:6]) <= 65535:
            raise CommandRefusedError(f"endpoint {entry!r}: port {port[:20]} is not in 1..65535")
        addresses.append(name)
        ports.add(int(port))
    if len(ports) != 1:
        raise CommandRefusedError(f"endpoints {', '.join(entries)} must share one port")
    return StoreAccess(GIVEN, tuple(dict.fromkeys(addresses)), ports.pop())


def split_endpoints(
    local: str, destinations: Sequence[str], source: Sequence[str], destination: Sequence[str]
) -> dict[str, list[str]]:
    """Which HOST:PORT entries belong to which context. An entry without CONTEXT= is allowed for one destination only."""
    found: dict[str, list[str]] = {local: list(source)} if source else {}
    for entry in destination:
        context, equals, endpoint = entry.partition("=")
        if not equals and len(destinations) != 1:
            raise CommandRefusedError(
                f"--destination-endpoint {entry}: with several destinations write CONTEXT=HOST:PORT"
            )
        target, value = (context, endpoint) if equals else (destinations[0], entry)
        if target not in destinations:
            raise CommandRefusedError(f"--destination-endpoint {entry}: {target} is not a destination context")
        found.setdefault(target, []).append(value)
    return found


def judge_reach(
    reader: ClusterFacts, target: ClusterFacts, access: StoreAccess, answers: Mapping[str, Reach]
) -> list[CheckRow]:
    """Whether `reader` may be told to read `target` at the addresses of `access`, given what it saw at each of them.

    Every given address must answer as the target. Of the addresses of a Service some may be silent, but not all.
    """
    is_reached = any(found.problem == FINE for found in answers.values())
    rows = []
    for address, found in answers.items():
        result, detail = CheckResult.OK, f"{address} port {access.port} is {target.name}, by TLS"
        if found.problem != FINE:
            is_excused = access.service_type != GIVEN and is_reached and found.problem in ABSENT
            result = CheckResult.WARN if is_excused else CheckResult.FAIL
            detail = f"{reader.name} cannot use {target.name} at {address} port {access.port}: {found.detail or found.problem}"
        rows.append(
            CheckRow(
                check=ENDPOINT, clusters=[reader.name, target.name], result=result, detail=detail, next=found.advice
            )
        )
    return rows


def reach_text(row: CheckRow) -> str:
    """A row of `judge_reach` as one sentence."""
    return f"{row.detail} ({row.next})" if row.next else row.detail
