# SPDX-License-Identifier: Apache-2.0
"""Items of a ring as answers of GetFlows, whole or the fields that were asked for. Pure."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.field_mask_pb2 import FieldMask

from flows.errors import RequestError
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.ring import Decode, Item, Lost

Answer = Callable[[Item, int], observer.GetFlowsResponse]


def coverage(said: str, node_name: str, wall_ns: int) -> observer.GetFlowsResponse | None:
    """The shortfall of a request as the node says it at its end; None if there is none."""
    if not said:
        return None
    event = relay.NodeStatusEvent(state_change=relay.NODE_CONNECTED, node_names=[node_name], message=said)
    found = observer.GetFlowsResponse(node_status=event, node_name=node_name)
    found.time.FromNanoseconds(wall_ns)
    return found


def answers(decode: Decode, node_name: str, mask: FieldMask) -> Answer:
    """What makes an answer of an item and its number. An empty mask: every field. Raises: RequestError."""
    if mask.paths and not mask.IsValidForDescriptor(pb.Flow.DESCRIPTOR):
        wrong = [path for path in mask.paths if not FieldMask(paths=[path]).IsValidForDescriptor(pb.Flow.DESCRIPTOR)]
        raise RequestError(f"field_mask: a flow has no field {', '.join(wrong)}")

    def answer(item: Item, number: int) -> observer.GetFlowsResponse:
        found = observer.GetFlowsResponse(node_name=node_name)
        found.time.seconds, found.time.nanos = divmod(item.time_ns, 1_000_000_000)
        if isinstance(item, Lost):
            found.lost_events.source = pb.LostEventSource.ValueType(item.source)
            found.lost_events.num_events_lost = item.number
            found.lost_events.cpu.value = item.cpu
        elif mask.paths:
            found.flow.SetInParent()
            mask.MergeMessage(decode(item, number), found.flow)
        else:
            found.flow.CopyFrom(decode(item, number))
        return found

    return answer
