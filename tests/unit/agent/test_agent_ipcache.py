# SPDX-License-Identifier: Apache-2.0
"""What the ipcache map is told of a prefix: an identity only when its labels are known, and only what is wanted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agent.datapath.layout import IpcacheKey, IpcacheValue
from agent.datapath.memory import memory_maps
from agent.ipcache.ops import IpcacheTarget
from agent.ipcache.rows import address_row
from agent.ipcache.writer import PrefixWriter
from agent.tables import AgentDB, ClaimOrigin, Identity, Prefix
from meshkit.clock import ManualClock
from meshkit.errors import ExhaustedError
from meshkit.reconciler import Reconciler
from meshmodel.identity import FIRST_ALLOCATED, LOCAL_SCOPE_CIDR
from meshmodel.names import ClusterId, ClusterName

NORTH, SOUTH = ClusterName("north"), ClusterName("south")
POD, IDENTITY = "10.2.0.5/32", 2 << 16 | 7


def prefix(text: str = POD, *, is_known: bool = True) -> Prefix:
    return Prefix(text, IDENTITY, "172.18.0.9", SOUTH, ClusterId(2), ClaimOrigin.POD, "172.18.0.9", is_known=is_known)


@pytest.mark.parametrize(("is_known", "identity"), [(True, IDENTITY), (False, 0)])
def test_an_address_has_no_identity_in_the_kernel_until_the_labels_are_known(is_known: bool, identity: int) -> None:
    maps = memory_maps()
    assert IpcacheTarget(maps.ipcache).update([prefix(is_known=is_known)]) == {}
    assert maps.ipcache.get(IpcacheKey(POD)) == IpcacheValue(identity, "172.18.0.9", 2, 0)


def test_labels_that_come_and_go_change_what_the_kernel_holds_for_the_address() -> None:
    db, maps = AgentDB(NORTH, ClusterId(1), "n1", "172.18.0.2"), memory_maps()
    writer = PrefixWriter(db)
    reconciler = Reconciler(db.prefixes, IpcacheTarget(maps.ipcache), clock=ManualClock())

    def held() -> int:
        reconciler.run_once(0.0)
        found = maps.ipcache.get(IpcacheKey(POD))
        assert found is not None
        return found.identity

    with db.write():
        writer.set_pod(prefix())
    assert held() == 0
    with db.write():
        db.identities.put(Identity(IDENTITY, SOUTH, ()))
        writer.set_identity_known(IDENTITY)
    assert held() == IDENTITY
    with db.write():
        db.identities.delete(IDENTITY)
        writer.set_identity_unknown(IDENTITY)
    assert held() == 0


def test_each_prefix_of_a_peer_without_room_is_tried_again_also_where_one_cannot_be_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maps = memory_maps()
    target, stuck, delete = (
        IpcacheTarget(maps.ipcache, NORTH, entries=2),
        IpcacheKey("10.2.0.7/32"),
        maps.ipcache.delete,
    )

    def refuse(keys: Sequence[IpcacheKey]) -> None:
        if stuck in keys:
            raise OSError("not now")
        delete(keys)

    monkeypatch.setattr(maps.ipcache, "delete", refuse)
    failures = target.update([prefix(f"10.2.0.{number}/32") for number in (5, 6, 7, 8)])
    assert sorted(map(str, failures)) == ["10.2.0.6/32", "10.2.0.7/32", "10.2.0.8/32"]
    assert isinstance(failures["10.2.0.7/32"], OSError)


def test_a_prefix_that_cannot_be_written_does_not_stop_the_others() -> None:
    maps = memory_maps()
    failures = IpcacheTarget(maps.ipcache).update([prefix("10.2.0.6/32"), prefix("no prefix"), prefix("10.2.0.7/32")])
    assert set(failures) == {"no prefix"}
    assert {key.prefix for key, _ in maps.ipcache.items()} == {"10.2.0.6/32", "10.2.0.7/32"}


def own(text: str) -> Prefix:
    return Prefix(text, 1 << 16 | 7, "", NORTH, ClusterId(1), ClaimOrigin.POD, "172.18.0.2")


def test_peers_have_half_of_the_map_together_and_our_own_always_find_room() -> None:
    maps = memory_maps({"mesh_ipcache": 10})
    target = IpcacheTarget(maps.ipcache, NORTH, entries=10)

    def held() -> set[str]:
        return {key.prefix for key, _ in maps.ipcache.items()}

    ours, theirs = [f"10.1.0.{n}/32" for n in range(5)], [f"10.2.0.{n}/32" for n in range(8)]
    failures = target.update([prefix(text) for text in theirs])
    assert failures.keys() == {*theirs[5:]}
    assert all(isinstance(error, ExhaustedError) for error in failures.values())
    assert target.update([own(text) for text in ours]) == {}
    assert held() == {*ours, *theirs[:5]}
    assert target.update([prefix(theirs[0], is_known=False)]) == {}, "what is there may change"
    assert target.update([prefix(ours[0])]).keys() == {ours[0]}
    assert held() == {*ours[1:], *theirs[:5]}, "it does not say any more what it said before"
    assert target.update([own(theirs[0])]) == {}
    assert target.update([prefix(theirs[5])]) == {}, "one of a peer became ours"
    target.delete([prefix(theirs[1])])
    assert target.update([prefix(theirs[6]), prefix(theirs[7])]).keys() == {theirs[7]}


def test_pruning_leaves_wanted_prefixes_only() -> None:
    maps = memory_maps()
    target = IpcacheTarget(maps.ipcache)
    target.update([prefix("10.2.0.6/32"), prefix("10.2.0.0/16")])
    assert not any(target.prune({"10.2.0.0/16": prefix("10.2.0.0/16")}))
    assert [key.prefix for key, _ in maps.ipcache.items()] == ["10.2.0.0/16"]


@pytest.mark.parametrize(
    ("identity", "is_known"),
    [(0, True), (FIRST_ALLOCATED - 1, True), (FIRST_ALLOCATED, False), (LOCAL_SCOPE_CIDR - 1, False), (LOCAL_SCOPE_CIDR, True)],
)  # fmt: skip
def test_only_numbers_whose_meaning_is_fixed_are_known_without_labels(identity: int, is_known: bool) -> None:
    db = AgentDB(NORTH, ClusterId(1), "n1", "172.18.0.2")
    writer = PrefixWriter(db)
    with db.write():
        writer.set_pod(Prefix(POD, identity, "", NORTH, ClusterId(1), ClaimOrigin.POD, "172.18.0.9"))
    row = db.prefixes.get(POD)
    assert row is not None
    assert row.is_known is is_known


def test_a_row_is_found_by_the_longest_prefix_that_holds_an_address() -> None:
    db = AgentDB(NORTH, ClusterId(1), "n1", "172.18.0.2")
    with db.write():
        for text in ("0.0.0.0/0", "10.2.0.0/16", "10.2.0.4/31", POD):
            db.prefixes.put(prefix(text))

    def held_by(address: str) -> str:
        row = address_row(db, address)
        return "" if row is None else row.cidr

    found = {
        address: held_by(address)
        for address in ("10.2.0.5", "10.2.0.4", "10.2.9.9", "10.2.0.0/24", "11.0.0.1", "fd00::1")
    }
    assert found == {
        "10.2.0.5": POD, "10.2.0.4": "10.2.0.4/31", "10.2.9.9": "10.2.0.0/16", "10.2.0.0/24": "10.2.0.0/16",
        "11.0.0.1": "0.0.0.0/0", "fd00::1": "",
    }  # fmt: skip
