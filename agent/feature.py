# SPDX-License-Identifier: Apache-2.0
"""What a feature brings to the node agent. `agent/<feature>/feature.py` holds one subclass, `agent/node_agent.py` lists them.

The node agent calls the methods in the order in which they stand here. Features do not know each other: they meet in the
tables of `agent/tables.py`, and what one needs of another besides is handed to its constructor as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prometheus_client.metrics_core import Metric

from meshapi.agent import MapDifference
from meshapi.peer import RemoteCluster
from meshkit.health import Health
from meshkit.reconciler import Reconciler
from meshkit.rest import Rest
from meshkit.table import Table

Tasks = Mapping[str, Coroutine[Any, Any, None]]


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Reconciling:
    """One reconciler, and what must be known before its first write.

    On a node whose maps hold entries of an earlier agent it waits until every source of `waits_for` has finished its first
    listing: what is in force stays until we know as much. On an empty node it starts at once, unless `always_waits`.
    `before_first` is called after the wait, in the same step of the loop as the first round; again each second, and no round
    begins, while it raises a TransientError.
    """

    name: str
    reconciler: Reconciler[Any, Any]
    waits_for: tuple[Table[Any, Any], ...]
    always_waits: bool = False
    before_first: Callable[[], object] = _nothing


Compare = Callable[[], Sequence[MapDifference]]


def _nothing_differs() -> Sequence[MapDifference]:
    return ()


class Feature:
    """A feature overrides what it brings; by default that is nothing."""

    name: ClassVar[str]

    def restore(self) -> int:
        """What an earlier agent left in the maps is taken over; returns how many entries that were. Writes nothing."""
        return 0

    def expect(self) -> None:
        """Every source whose first listing must be complete before anything is pruned is named in its table."""

    def reconcilers(self) -> Sequence[Reconciling]:
        """What drives maps towards tables."""
        return ()

    def tasks(self) -> Tasks:
        """Everything else that runs until the agent ends, by name. An exception in one of them ends the agent."""
        return {}

    def servers(self) -> Tasks:
        """What answers on sockets of the feature's own, beside REST; an agent that serves nothing does not run them."""
        return {}

    def stop_waiting(self) -> Sequence[str]:
        """The sync time-out passed: sources that may never come are waited for no longer; returns what is missing."""
        return ()

    def add_routes(self, rest: Rest) -> None:
        """REST paths of the feature are served."""

    def metrics(self) -> Iterable[Metric]:
        """What an operator would graph or alert on, read from state when it is asked for."""
        return ()

    def differences(self) -> Compare:
        """Where this feature's maps and attachments are not as its tables say, read from the kernel. Writes nothing.

        What is needed of the tables is taken now. The call that is returned may take long, and runs in a thread of its own:
        what is written meanwhile may look like a difference.
        """
        return _nothing_differs

    def doubt(self) -> None:
        """Called before a repair: the feature's reconcilers compare everything when they prune next."""

    def peers(self) -> Sequence[RemoteCluster]:
        """Followed clusters, as status shows them."""
        return ()

    def problems(self) -> Sequence[str]:
        """One sentence for each thing a person should look at."""
        return ()

    def check_health(self, health: Health) -> None:
        """Called once a second: report the components of this feature."""


async def wait_until_listed(*tables: Table[Any, Any]) -> None:
    """Every source of these tables finished its first listing."""
    for table in tables:
        while not table.initialized:
            await table.changed.wait(table.changed.count)
