# SPDX-License-Identifier: Apache-2.0
"""Which identity the nodes of every cluster have here, for rules that name nodes by label (ADR 34).

Nodes with the same labels, as far as rules ask for them, share a number of this node's own. Addresses move to another
number only when the pods' policies that know it are in the kernel, and a number is given up only when no address has it
there any more, so that a packet between two writes is judged by the old labels or by the new ones.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from agent.tables import AgentDB, Identity, Node
from meshkit.table import HistoryLostError
from meshmodel.identity import LOCAL_SCOPE_REMOTE_NODE, Reserved
from meshmodel.labels import CLUSTER_LABEL, NODE, Labels, labels_text
from meshmodel.names import ClusterName
from meshpolicy.node_peer import node_labels

MOST_OF_A_PEER: Final = 1024
"""Sets of labels that nodes of one other cluster may have: each is an entry in the map of every pod that lets nodes in."""
_NUMBERS: Final = LOCAL_SCOPE_REMOTE_NODE // 2 - 1
NodeKey = tuple[ClusterName, str]


UNKNOWN_NODE: Final = (
    "this node was judged by host policies and has no record with its labels any more: until it has one, only the guard "
    "lets anything in or out"
)


class NodeVerbs(NamedTuple):
    """What following nodes needs of others. Both questions are answered with yes before this agent's first write."""

    set_identity: Callable[[Identity], None]
    delete_identity: Callable[[int], None]
    set_addresses: Callable[[Mapping[NodeKey, int]], None]
    are_verdicts_written: Callable[[], bool]
    are_addresses_written: Callable[[], bool]


class NodeFollower:
    """`follow` before verdicts are computed, `move` after. Nothing is followed while no rule names nodes."""

    def __init__(self, db: AgentDB, verbs: NodeVerbs) -> None:
        self._db, self._verbs = db, verbs
        self._keys: tuple[str, ...] = ()
        self._seen = 0
        self._numbers: dict[Labels, int] = {}
        self._labels: dict[int, Labels] = {}
        self._wanted: dict[NodeKey, int] = {}
        self._assigned: dict[NodeKey, int] = {}
        self._host: Labels | None = None
        self._own: Node | None = None
        self._of_cluster: Counter[ClusterName] = Counter()
        self._left_out: set[NodeKey] = set()
        self.is_moving = False
        """Addresses wait for verdicts to be written."""
        self._is_tidy = True
        """No number can have become nobody's since they were looked through."""

    @property
    def knows_own_node(self) -> bool:
        """This node's own record was there at some time of this agent's."""
        return self._own is not None

    def problems(self) -> list[str]:
        """Clusters some of whose nodes are nobody to rules that name nodes, because there is no number left for them."""
        left_out = Counter(cluster for cluster, _ in self._left_out)
        return [
            f"{count} nodes of {cluster} are nobody to rules that allow nodes by label, and denied by those that deny: "
            f"nodes of one peer may have at most {MOST_OF_A_PEER} different sets of the labels that rules ask for"
            for cluster, count in sorted(left_out.items())
        ]

    def follow(self, keys: frozenset[str]) -> None:
        """The identities of all nodes are known by their cluster and, as far as rules ask for these keys, by their labels."""
        # this node is still there when its record is gone, and so are the policies that select it
        self._own = self._db.nodes.get((self._db.own, self._db.node_name)) or self._own
        changed = self._changed(tuple(sorted({*keys, CLUSTER_LABEL})) if keys else ())
        if changed:
            self._is_tidy = False
            with self._db.write():
                for key in changed:
                    self._take(key, self._db.nodes.get(key))
            self.is_moving = self._wanted != self._assigned
        self._give_up()

    def move(self) -> None:
        """Addresses have the identities of their nodes, if the kernel knows what to do with these."""
        if self.is_moving and self._verbs.are_verdicts_written():
            self._assigned, self.is_moving = dict(self._wanted), False
            with self._db.write():
                self._verbs.set_addresses(self._assigned)

    def _changed(self, keys: tuple[str, ...]) -> Iterable[NodeKey]:
        before, self._keys = self._keys, keys
        seen, self._seen = self._seen, self._db.nodes.revision
        if not keys and not before:
            return ()
        if keys == before:
            try:
                return [change.key for change in self._db.nodes.changes_since(seen)]
            except HistoryLostError:
                pass
        own = (self._db.own, self._db.node_name)
        return sorted({own, *self._wanted, *((row.cluster, row.name) for row in self._db.nodes.rows())})

    def _take(self, key: NodeKey, row: Node | None) -> None:
        is_own = key == (self._db.own, self._db.node_name)
        row = self._own if is_own else row
        labels = None
        if row is not None and self._keys:
            labels = node_labels(row.labels, row.cluster, self._keys, is_own=is_own)
        self._left_out.discard(key)
        if is_own:
            self._take_host(labels)
            return
        self._wanted.pop(key, None)
        number = None if labels is None else self._number_of(labels, key[0])
        if number is not None:
            self._wanted[key] = number
        elif labels is not None:
            self._left_out.add(key)

    def _take_host(self, labels: Labels | None) -> None:
        """This node has the same number with and without labels: it needs no other entry in the kernel."""
        if labels == self._host:
            return
        self._host = labels
        if labels is None:
            self._verbs.delete_identity(Reserved.HOST)
        else:
            self._verbs.set_identity(Identity(Reserved.HOST, self._db.own, labels))

    def _number_of(self, labels: Labels, cluster: ClusterName) -> int | None:
        """Follows from the labels, so that a restart gives the same one, unless two sets of labels meet on it.

        None: nodes of this peer have too many sets of labels already.
        """
        number = self._numbers.get(labels)
        if number is None:
            if cluster != self._db.own and self._of_cluster[cluster] >= MOST_OF_A_PEER:
                return None
            self._of_cluster[cluster] += 1
            offset = zlib.crc32("\n".join(labels_text(labels)).encode()) % _NUMBERS
            while LOCAL_SCOPE_REMOTE_NODE + 1 + offset in self._labels:
                offset = (offset + 1) % _NUMBERS
            number = self._numbers[labels] = LOCAL_SCOPE_REMOTE_NODE + 1 + offset
            self._labels[number] = labels
            self._verbs.set_identity(Identity(number, self._db.own, labels))
        return number

    def _give_up(self) -> None:
        """Numbers that no node has are nobody's, and there is room for nodes that had none."""
        if self._is_tidy or self.is_moving or not self._verbs.are_addresses_written():
            return
        self._is_tidy = True
        with self._db.write():
            for number in sorted(self._labels.keys() - self._assigned.values()):
                labels = self._labels.pop(number)
                del self._numbers[labels]
                self._of_cluster[_cluster_of(labels)] -= 1
                self._verbs.delete_identity(number)
            for key in sorted(self._left_out):
                self._take(key, self._db.nodes.get(key))
        self.is_moving = self._wanted != self._assigned


def _cluster_of(labels: Labels) -> ClusterName:
    """The cluster is always looked up."""
    return ClusterName(next(label.value for label in labels if (label.source, label.key) == (NODE, CLUSTER_LABEL)))
