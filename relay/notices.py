# SPDX-License-Identifier: Apache-2.0
"""What a stream tells of the nodes it comes from: who is connected, unavailable, gone, and what went wrong. Pure.

Source: Hubble's relay, which tells errors with equal text once in a while for all nodes together.
"""

from __future__ import annotations

from typing import Final

from flows.proto import relay_pb2 as relay

TOGETHER_S: Final = 10.0


class Notices:
    """Collected by what they say, told in turn."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[relay.NodeState.ValueType, str], list[str]] = {}
        self._errors: dict[str, float] = {}
        """Until when an error with this text is kept back, in monotonic seconds."""

    def note(self, state: relay.NodeState.ValueType, name: str, message: str = "") -> None:
        """A node is in this state now, or had this error."""
        names = self._waiting.setdefault((state, message), [])
        if name not in names:
            names.append(name)

    def take(self, now_s: float, *, is_last: bool = False) -> list[relay.NodeStatusEvent]:
        """What is to be told now. An error that was told less than TOGETHER_S ago is kept back, but not at the end."""
        found = []
        for key in list(self._waiting):
            state, message = key
            if state == relay.NODE_ERROR:
                if not is_last and now_s < self._errors.get(message, now_s):
                    continue
                self._errors[message] = now_s + TOGETHER_S
            names = sorted(self._waiting.pop(key))
            found.append(relay.NodeStatusEvent(state_change=state, node_names=names, message=message))
        return found
