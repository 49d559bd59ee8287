# SPDX-License-Identifier: Apache-2.0
"""What a stream tells of nodes, and how often."""

from __future__ import annotations

from flows.proto import relay_pb2 as relay
from relay.notices import TOGETHER_S, Notices


def _told(notices: Notices, now_s: float, *, is_last: bool = False) -> list[tuple[int, list[str], str]]:
    return [(e.state_change, list(e.node_names), e.message) for e in notices.take(now_s, is_last=is_last)]


def test_nodes_in_one_state_are_told_together_and_once() -> None:
    notices = Notices()
    for name in ("n2", "n1", "n2"):
        notices.note(relay.NODE_CONNECTED, name)
    notices.note(relay.NODE_UNAVAILABLE, "n3", "refused")
    assert _told(notices, 0.0) == [
        (relay.NODE_CONNECTED, ["n1", "n2"], ""),
        (relay.NODE_UNAVAILABLE, ["n3"], "refused"),
    ]
    assert _told(notices, 0.0) == []


def test_errors_with_one_text_are_told_for_all_nodes_after_a_while() -> None:
    notices = Notices()
    notices.note(relay.NODE_ERROR, "n1", "full")
    assert _told(notices, 0.0) == [(relay.NODE_ERROR, ["n1"], "full")]
    notices.note(relay.NODE_ERROR, "n2", "full")
    notices.note(relay.NODE_ERROR, "n3", "full")
    notices.note(relay.NODE_ERROR, "n4", "other")
    assert _told(notices, 1.0) == [(relay.NODE_ERROR, ["n4"], "other")]
    assert _told(notices, TOGETHER_S) == [(relay.NODE_ERROR, ["n2", "n3"], "full")]


def test_nothing_is_kept_back_at_the_end() -> None:
    notices = Notices()
    notices.note(relay.NODE_ERROR, "n1", "full")
    assert len(_told(notices, 0.0)) == 1
    notices.note(relay.NODE_ERROR, "n2", "full")
    assert _told(notices, 0.0, is_last=True) == [(relay.NODE_ERROR, ["n2"], "full")]
