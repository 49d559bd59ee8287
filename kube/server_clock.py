# SPDX-License-Identifier: Apache-2.0
"""What the clock of an API server shows, and how far it is behind ours: certificates that we make are to be valid by both."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from kube.client import KubeClient
from kube.errors import KubeError

PATH: Final = "/version"
"""Answered to everybody, and by the API server itself: what it passes on for others has the date of others."""
TOLD_S: Final = 30.0
"""A difference above this is told to people."""


def read_date(value: str) -> float | None:
    """Wall seconds of a `Date` header, whole seconds; None for what is no date. Source: RFC 9110, section 6.6.1."""
    try:
        found = parsedate_to_datetime(value)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def server_wall_s(client: KubeClient) -> float | None:
    """What the API server's clock shows now, within a second or as long as it takes to ask; None if it does not say."""
    try:
        return read_date(client.answer_headers(PATH).get("date", ""))
    except KubeError:
        return None


def behind_s(client: KubeClient, wall_s: float) -> float:
    """How far the API server's clock is behind ours; 0 where it is not, or does not say."""
    shown_s = server_wall_s(client)
    return 0.0 if shown_s is None else max(wall_s - shown_s, 0.0)


def clock_notice(client: KubeClient, wall_s: float) -> str:
    """That our clock and the API server's differ, for people; empty if they do not, or it does not say."""
    shown_s = server_wall_s(client)
    if shown_s is None or abs(wall_s - shown_s) <= TOLD_S:
        return ""
    word = "ahead of" if wall_s > shown_s else "behind"
    return (
        f"the clock of this machine is {abs(wall_s - shown_s):.0f} s {word} the API server's: certificates begin "
        "by the earlier one; correct the clock that is wrong"
    )
