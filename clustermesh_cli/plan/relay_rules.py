# SPDX-License-Identifier: Apache-2.0
"""Whether the relay of flows does its work. Pure. It may be away without harm to traffic, so that nothing here forbids a link."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from clustermesh_cli.plan.check_row import CheckResult, CheckRow
from meshapi.installed import RELAY

_CHECK: Final = "relay"
_NAMED: Final = 5


class RelayState(NamedTuple):
    """`problem` says why it does not answer, `silent` names the nodes whose flows it does not have."""

    nodes: int = 0
    silent: tuple[str, ...] = ()
    problem: str = ""

    @property
    def detail(self) -> str:
        """In one sentence."""
        if self.problem:
            return self.problem
        if not self.silent:
            return f"{RELAY} has the flows of {self.nodes} of {self.nodes} nodes"
        more = f" and {len(self.silent) - _NAMED} more" if len(self.silent) > _NAMED else ""
        return (
            f"{RELAY} has the flows of {self.nodes - len(self.silent)} of {self.nodes} nodes; "
            f"without {', '.join(self.silent[:_NAMED])}{more}"
        )


def judge_relay(cluster: str, state: RelayState | None) -> Iterable[CheckRow]:
    """No row for a cluster without one."""
    if state is None:
        return
    is_whole = not state.problem and not state.silent
    yield CheckRow(
        check=_CHECK,
        clusters=[cluster],
        result=CheckResult.OK if is_whole else CheckResult.WARN,
        detail=state.detail,
        next="" if is_whole else f"clustermesh flows list nodes, and the log of deployment/{RELAY}",
    )
