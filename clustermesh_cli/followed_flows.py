# SPDX-License-Identifier: Apache-2.0
"""Flows without end, through ends of the answers that bring them: a program restarts, or the token it was asked with ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from clustermesh_cli.exit_code import CommandError, ExitCode
from flows.proto import observer_pb2 as observer

LIVED_S: Final = 10.0
"""An answer that ends sooner is not asked for again."""

Ask = Callable[[observer.GetFlowsRequest], Iterator[observer.GetFlowsResponse]]


def followed(
    who: str, ask: Ask, request: observer.GetFlowsRequest, warn: Callable[[str], None]
) -> Iterator[observer.GetFlowsResponse]:
    """What `ask` answers, asked again from where it was heard last; `warn` is told each time.

    Raises: CommandError, once an answer ends that has just begun.
    """
    while True:
        began_s, last_ns = time.monotonic(), 0
        ended = CommandError(f"{who} ended its answer", ExitCode.DEGRADED)
        try:
            for answer in ask(request):
                last_ns = max(last_ns, answer.time.ToNanoseconds())
                yield answer
        except CommandError as exc:
            if exc.code is ExitCode.USAGE:
                raise
            ended = exc
        if time.monotonic() - began_s < LIVED_S:
            raise ended
        warn(f"{ended}, asking again")
        request = _continued(request, last_ns)


def _continued(request: observer.GetFlowsRequest, last_ns: int) -> observer.GetFlowsRequest:
    """From the last answer on; from now on where there was none."""
    found = observer.GetFlowsRequest()
    found.CopyFrom(request)
    found.number = 0
    found.ClearField("since")
    if last_ns:
        found.since.FromNanoseconds(last_ns + 1)
    return found
