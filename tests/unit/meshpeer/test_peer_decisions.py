# SPDX-License-Identifier: Apache-2.0
"""The pure decisions of following a cluster: kinds, signals, reservations, views and the status."""

from __future__ import annotations

import pytest

from kvstore.store import ChangeKind as Happened
from kvstore.store import Event
from meshapi.peer import PeerState
from meshmodel.cluster_config import ClusterConfig
from meshmodel.errors import ModelError
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.consumer import Change
from meshpeer.followed import FollowedCluster
from meshpeer.kinds import backends_once, offered_kinds
from meshpeer.record_views import RecordViews, View
from meshpeer.reservations import Own, Reservations
from meshpeer.signals import SignalLimits, Streams, why_config_ends, why_over
from meshpeer.status import remote_cluster

SOUTH, EAST = ClusterName("south"), ClusterName("east")
BOTH, ONLY = "services-and-endpointslices", "endpointslices-only"


def config(number: int = 2, **fields: object) -> ClusterConfig:
    return ClusterConfig(id=ClusterId(number), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "prefer", "expected"),
    [
        ("", False, Kind.SERVICES),
        ("", True, Kind.SERVICES),
        (BOTH, False, Kind.SERVICES),
        (BOTH, True, Kind.ENDPOINT_SLICES),
        (ONLY, False, Kind.ENDPOINT_SLICES),
        (ONLY, True, Kind.ENDPOINT_SLICES),
    ],
)
def test_backends_are_read_in_one_form(mode: str, prefer: bool, expected: Kind) -> None:
    kinds = backends_once(config(endpoint_slices_export_mode=mode), prefer_slices=prefer)
    assert kinds == (Kind.NODES, Kind.IDENTITIES, expected, Kind.IPS)


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({}, {Kind.ENDPOINT_SLICES, Kind.SERVICE_EXPORTS}),
        ({"service_exports_enabled": False}, {Kind.ENDPOINT_SLICES}),
        ({"endpoint_slices_export_mode": BOTH}, {Kind.SERVICE_EXPORTS}),
        ({"endpoint_slices_export_mode": ONLY, "service_exports_enabled": True}, {Kind.SERVICES}),
    ],
)
def test_everything_offered_is_what_the_configuration_says(fields: dict[str, object], missing: set[Kind]) -> None:
    assert set(Kind) - set(offered_kinds(config(**fields))) == missing


def test_an_unknown_export_mode_is_an_error_for_everybody() -> None:
    with pytest.raises(ModelError, match="export mode"):
        offered_kinds(config(endpoint_slices_export_mode="new"))


def test_the_limits_are_exact() -> None:
    limits = SignalLimits(heartbeat_silence_s=120, lost_limit_s=10)
    streams = Streams(100.0)
    assert why_over(110.0, streams, 100.0, limits) is None
    assert why_over(110.1, streams, 100.0, limits) == "connection lost for 10 s"
    streams.note("nodes", is_standing=True, now_s=110.1)
    assert why_over(220.0, streams, 100.0, limits) is None
    assert why_over(220.1, streams, 100.0, limits) == "no heartbeat for 120 s"


def test_only_the_loss_of_every_stream_is_a_lost_connection() -> None:
    streams = Streams(0.0)
    for name in ("nodes", "ip"):
        streams.note(name, is_standing=True, now_s=1.0)
    streams.note("ip", is_standing=False, now_s=2.0)
    streams.note("ip", is_standing=False, now_s=9.0)
    assert streams.is_connected
    assert streams.none_since_s is None
    assert streams.lost(12.0, 10.0) == ()
    assert streams.lost(12.1, 10.0) == ("ip",)
    streams.note("nodes", is_standing=False, now_s=20.0)
    streams.note("nodes", is_standing=False, now_s=25.0)
    assert (streams.is_connected, streams.none_since_s) == (False, 20.0)
    streams.note("ip", is_standing=True, now_s=26.0)
    assert (streams.none_since_s, streams.lost(40.0, 10.0)) == (None, ("nodes",))


def test_a_configuration_ends_the_attempt_when_it_differs_or_is_gone() -> None:
    assert why_config_ends(config(), config()) is None
    assert why_config_ends(config(), config(3)) == "the cluster configuration changed"
    assert why_config_ends(config(), None) == "the cluster configuration was removed"


def test_one_id_has_one_holder_and_a_refused_cluster_holds_none() -> None:
    held = Reservations(Own(ClusterName("north"), ClusterId(1)))
    held.accept(SOUTH, config(2))
    held.accept(SOUTH, config(2))
    with pytest.raises(ModelError, match="already used by cluster south"):
        held.accept(EAST, config(2))
    held.accept(SOUTH, config(4))
    held.accept(EAST, config(2))
    with pytest.raises(ModelError, match="local cluster"):
        held.accept(EAST, config(1))
    held.accept(SOUTH, config(2))
    held.release(SOUTH)
    held.accept(EAST, config(2))


def test_the_own_cluster_is_held_to_its_own_id_and_takes_none() -> None:
    held = Reservations(Own(ClusterName("north"), ClusterId(1)))
    held.accept(ClusterName("north"), config(1))
    with pytest.raises(ModelError, match="we are set to 1"):
        held.accept(ClusterName("north"), config(2))
    held.accept(SOUTH, config(2))


@pytest.mark.runbook("port-differs")
def test_a_peer_with_another_overlay_port_is_refused() -> None:
    held = Reservations(Own(ClusterName("north"), ClusterId(1), vxlan_port=8473))
    with pytest.raises(ModelError, match="mismatched VXLAN port; local=8473, remote=8472"):
        held.accept(SOUTH, config(2))


def test_an_own_apiserver_that_names_another_port_is_a_warning() -> None:
    held = Reservations(Own(ClusterName("north"), ClusterId(1), vxlan_port=8473))
    [warning] = held.accept(ClusterName("north"), config(1))
    assert warning.startswith("our own apiserver says VXLAN port 8472, we are set to 8473")


def put(key: bytes, value: bytes) -> Event:
    return Event(Happened.PUT, b"p/" + key, value, 1)


def test_a_view_reports_changes_once_and_sweeps_what_a_listing_did_not_mention() -> None:
    view = View()
    assert view.feed([put(b"a", b"1"), put(b"b", b"1"), put(b"a", b"1")], 2) == [(b"a", b"1"), (b"b", b"1")]
    view.begin_listing()
    assert view.feed([put(b"a", b"2")], 2) == [(b"a", b"2")]
    assert view.take_gone(5) == [(b"b", None)]
    assert view.take_gone(5) == []
    gone = Event(Happened.DELETE, b"p/a", b"", 2)
    assert view.feed([gone, gone], 2) == [(b"a", None)]
    assert len(view) == 0


def test_a_listing_that_was_cut_off_sweeps_nothing() -> None:
    view = View()
    view.feed([put(b"a", b"1"), put(b"b", b"1")], 2)
    view.begin_listing()
    view.feed([put(b"a", b"1")], 2)
    view.begin_listing()
    view.feed([put(b"a", b"1"), put(b"b", b"1")], 2)
    assert view.take_gone(5) == []


def test_doubted_values_are_reported_again_and_still_swept() -> None:
    view = View()
    view.feed([put(b"a", b"1"), put(b"b", b"1")], 2)
    view.doubt()
    view.begin_listing()
    assert view.feed([put(b"a", b"1")], 2) == [(b"a", b"1")]
    assert view.take_gone(5) == [(b"b", None)]


class TwoParts:
    """The own cluster's addresses, whose parts are told of in any order."""

    def __init__(self) -> None:
        self.views = RecordViews()

    def tell(self, key: bytes, value: bytes | None, revision: int, *, is_private: bool) -> list[Change]:
        view = self.views.part(Kind.IPS, is_private=is_private)
        kind = Happened.DELETE if value is None else Happened.PUT
        changes = view.feed([Event(kind, key, value or b"", revision)], 0)
        return self.views.settle_twins(Kind.IPS, changes, {key: revision}, is_private=is_private)


def test_a_key_that_stands_in_the_other_part_is_not_gone() -> None:
    parts = TwoParts()
    assert parts.tell(b"a", b"1", 5, is_private=True) == [(b"a", b"1")]
    assert parts.tell(b"a", b"2", 6, is_private=False) == [(b"a", b"2")]
    assert parts.tell(b"a", None, 7, is_private=True) == []
    assert parts.views.wanted_parts == set()
    assert parts.tell(b"a", None, 8, is_private=False) == [(b"a", None)]


def test_what_one_part_said_before_the_other_is_no_news_when_it_arrives_later() -> None:
    parts = TwoParts()
    assert parts.tell(b"a", b"new", 6, is_private=False) == [(b"a", b"new")]
    assert parts.tell(b"a", b"old", 5, is_private=True) == []
    assert parts.tell(b"a", None, 7, is_private=True) == []
    assert parts.views.wanted_parts == set()


def test_a_part_whose_value_was_hidden_is_listed_again_when_the_newer_twin_goes() -> None:
    parts = TwoParts()
    parts.tell(b"a", b"1", 5, is_private=True)
    parts.tell(b"a", b"2", 6, is_private=False)
    assert parts.tell(b"a", None, 7, is_private=False) == []
    assert parts.views.wanted_parts == {(Kind.IPS, True)}
    assert parts.tell(b"a", b"1", 5, is_private=True) == [(b"a", b"1")]


def test_revisions_of_a_store_that_was_emptied_count_from_its_listing_on() -> None:
    parts = TwoParts()
    parts.tell(b"a", b"1", 900, is_private=False)
    parts.views.begin_listing(Kind.IPS, is_private=False)
    parts.tell(b"a", b"1", 3, is_private=False)
    assert parts.tell(b"a", b"2", 4, is_private=True) == [(b"a", b"2")]


def followed() -> FollowedCluster:
    state = FollowedCluster(SOUTH)
    state.begin(config(), (Kind.NODES, Kind.IPS))
    state.synced.update({Kind.NODES: True, Kind.IPS: True})
    return state


def test_the_status_is_ready_only_when_everything_followed_is_where_the_program_needs_it() -> None:
    state = followed()
    state.connect(10.0, 1000.0)
    assert remote_cluster(state, 12.0).ready
    half = remote_cluster(state, 12.0, synced={Kind.NODES: True, Kind.IPS: False})
    assert (half.ready, half.state) == (False, PeerState.SYNCING)
    assert (half.synced.nodes, half.synced.endpoints, half.synced.endpoint_slices) == (True, False, None)
    state.withdrawn = "lost on both paths"
    assert not remote_cluster(state, 12.0).ready


def test_attempts_to_reach_a_withdrawn_cluster_do_not_hide_that_it_is_withdrawn() -> None:
    state = followed()
    state.connect(10.0, 1000.0)
    state.lose(12.0, "gone")
    state.withdrawn = "lost on both paths"
    state.fail(1000.0, "refused", is_refused=False)
    row = remote_cluster(state, 12.0)
    assert (row.state, row.reason, row.last_error) == (PeerState.WITHDRAWN, "lost on both paths", "refused")
    state.withdrawn = ""
    row = remote_cluster(state, 12.0)
    assert (row.state, row.reason.partition(";")[0]) == (PeerState.DISCONNECTED, "refused")


def test_the_age_counts_from_the_moment_the_store_was_last_heard_of() -> None:
    state = followed()
    assert remote_cluster(state, 5.0).age_s is None
    state.connect(10.0, 1000.0)
    state.lose(12.0, "gone")
    shown = remote_cluster(state, 70.0)
    assert (shown.age_s, shown.connected, shown.session_since) == (60.0, False, 0.0)
    assert shown.reason == "gone; last known state is kept"
    assert shown.state is PeerState.DISCONNECTED


def test_a_kind_that_is_followed_anew_must_be_listed_before_the_cluster_is_ready() -> None:
    state = followed()
    state.connect(10.0, 1000.0)
    state.begin(config(), (Kind.NODES, Kind.ENDPOINT_SLICES))
    assert not state.is_ready
    state.synced[Kind.ENDPOINT_SLICES] = True
    assert state.is_ready
    state.begin(config(), (Kind.NODES, Kind.IPS))
    assert not state.is_ready
