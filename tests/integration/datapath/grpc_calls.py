# SPDX-License-Identifier: Apache-2.0
"""A server of gRPC and a client that makes three calls, each a program of its own: gRPC's threads live in one namespace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc


class _Cart(grpc.GenericRpcHandler):
    """Every call of `shop.Cart` is answered: `Watch` three times, the others once."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if handler_call_details.method.endswith("/Watch"):
            return grpc.unary_stream_rpc_method_handler(_three)
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"OK")


def _three(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from (b"OK", b"OK", b"OK")


def serve(port: str) -> None:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[_Cart()])
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        print("Get", channel.unary_unary("/shop.Cart/Get")(b"", timeout=5).decode())
        seen = [answer.decode() for answer in channel.unary_stream("/shop.Cart/Watch")(b"", timeout=5)]
        print("Watch", *seen)
        try:
            channel.unary_unary("/shop.Cart/Delete")(b"", timeout=5)
        except grpc.RpcError as exc:
            print("Delete", exc.code().name)


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
