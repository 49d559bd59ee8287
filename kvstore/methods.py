# SPDX-License-Identifier: Apache-2.0
"""etcd's remote procedures by name: a few lines here replace generated stubs and their version floors."""

from __future__ import annotations

from typing import Final, TypeVar

import grpc.aio
from google.protobuf.message import Message

from kvstore.proto import rpc_pb2 as pb

PACKAGE: Final = "/etcdserverpb."
RANGE: Final = f"{PACKAGE}KV/Range"
WATCH: Final = f"{PACKAGE}Watch/Watch"

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


def unary(
    channel: grpc.aio.Channel, method: str, request: type[RequestT], response: type[ResponseT]
) -> grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]:
    """One call, one answer."""
    return channel.unary_unary(
        PACKAGE + method, request_serializer=request.SerializeToString, response_deserializer=response.FromString
    )


def stream(
    channel: grpc.aio.Channel, method: str, request: type[RequestT], response: type[ResponseT]
) -> grpc.aio.StreamStreamMultiCallable[RequestT, ResponseT]:
    """Messages both ways."""
    return channel.stream_stream(
        PACKAGE + method, request_serializer=request.SerializeToString, response_deserializer=response.FromString
    )


class Methods:
    """The procedures our client uses, bound to one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.range = unary(channel, "KV/Range", pb.RangeRequest, pb.RangeResponse)
        self.put = unary(channel, "KV/Put", pb.PutRequest, pb.PutResponse)
        self.delete_range = unary(channel, "KV/DeleteRange", pb.DeleteRangeRequest, pb.DeleteRangeResponse)
        self.txn = unary(channel, "KV/Txn", pb.TxnRequest, pb.TxnResponse)
        self.compact = unary(channel, "KV/Compact", pb.CompactionRequest, pb.CompactionResponse)
        self.watch = stream(channel, "Watch/Watch", pb.WatchRequest, pb.WatchResponse)
        self.grant = unary(channel, "Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
        self.revoke = unary(channel, "Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
        self.keep_alive = stream(channel, "Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse)
        self.status = unary(channel, "Maintenance/Status", pb.StatusRequest, pb.StatusResponse)
