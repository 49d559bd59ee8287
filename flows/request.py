# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a request for flows, said before anybody is asked. Pure."""

from __future__ import annotations

from flows.answer import answers
from flows.errors import RequestError
from flows.proto import observer_pb2 as observer
from flows.ring import decode_nothing
from flows.selection import FlowSelection


def check_request(request: observer.GetFlowsRequest) -> None:
    """An observer can answer it. Raises: RequestError, FilterError."""
    if request.first and request.follow:
        raise RequestError("first and follow cannot be asked for together")
    FlowSelection(request.whitelist, request.blacklist)
    answers(decode_nothing, "", request.field_mask)
