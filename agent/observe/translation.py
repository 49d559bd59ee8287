# SPDX-License-Identifier: Apache-2.0
"""One record of a translation as two: the packet before it, and the packet after it. Pure.

Source: Hubble tells of a socket's translation so. Its own end has no port then, and replies come from who answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum

from agent.datapath.flow_layout import EventType, Translation, event_point, event_type, with_ends


class SocketPoint(IntEnum):
    """`point` of the two records, Hubble's numbers."""

    BEFORE_FORWARD = 1
    AFTER_FORWARD = 2
    BEFORE_BACK = 3
    AFTER_BACK = 4


def split_translations(records: Iterable[bytes]) -> Iterator[bytes]:
    """The records, each translation among them replaced by two."""
    for raw in records:
        if event_type(raw) != EventType.TRANSLATION:
            yield raw
        elif event_point(raw) == Translation.FORWARD:
            yield with_ends(raw, SocketPoint.BEFORE_FORWARD, is_frontend=True, is_source=False)
            yield with_ends(raw, SocketPoint.AFTER_FORWARD, is_frontend=False, is_source=False)
        else:
            yield with_ends(raw, SocketPoint.BEFORE_BACK, is_frontend=False, is_source=True)
            yield with_ends(raw, SocketPoint.AFTER_BACK, is_frontend=True, is_source=True)
