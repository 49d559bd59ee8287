# SPDX-License-Identifier: Apache-2.0
"""Entries of a ring of flows, for tests that have no kernel: their bytes are the flow, but for its time and its number."""

from __future__ import annotations

from typing import Final

from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry

S: Final = 10**9


def decode(entry: FlowEntry, number: int) -> pb.Flow:
    flow = pb.Flow.FromString(entry.raw)
    flow.time.FromNanoseconds(entry.time_ns)
    flow.uuid = str(number)
    return flow
