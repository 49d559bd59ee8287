# SPDX-License-Identifier: Apache-2.0
"""An observer or a relay asked over gRPC, ours or Hubble's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

from flows.errors import RequestError
from flows.methods import CLUSTERS_HEADER, HEALTH, HEALTH_SERVICE, OBSERVER
from flows.proto import health_pb2 as health
from flows.proto import observer_pb2 as observer
from meshkit.errors import TransientError

TLS_SCHEME: Final = "tls://"
Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class NoAnswerFromServerError(TransientError):
    """`server` refused, or did not answer."""

    def __init__(self, server: str, why: str) -> None:
        super().__init__(f"{server}: {why}")
        self.server = server


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAccess:
    """How a server is reached: `host:port`, `tls://host:port` or `unix:///path`; PEM texts and the name to expect with TLS."""

    server: str
    tls: bool = False
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None
    server_name: str = ""
    timeout_s: float = 5.0


class FlowClient:
    """One server. Raises: RequestError for an address that is none."""

    def __init__(self, access: ServerAccess) -> None:
        self._access = access
        target = access.server.removeprefix(TLS_SCHEME)
        if not target or ("://" in target and not target.startswith("unix://")):
            raise RequestError(f"server {access.server!r}: expected host:port, tls://host:port or unix:///path")
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", 1 << 24),
            # gRPC's name for the time that an attempt to connect is given
            ("grpc.min_reconnect_backoff_ms", int(access.timeout_s * 1000)),
        ]
        if access.tls or access.server.startswith(TLS_SCHEME):
            if access.server_name:
                options.append(("grpc.ssl_target_name_override", access.server_name))  # type: ignore[arg-type]
            credentials = grpc.ssl_channel_credentials(access.ca, access.key, access.cert)
            self._channel = grpc.secure_channel(target, credentials, options=options)
        else:
            self._channel = grpc.insecure_channel(target, options=options)

    def close(self) -> None:
        """No more calls."""
        self._channel.close()

    def get_flows(
        self, request: observer.GetFlowsRequest, clusters: Sequence[str] = ()
    ) -> Iterator[observer.GetFlowsResponse]:
        """Answers as they come, of a relay those of these clusters. Raises: NoAnswerFromServerError."""
        metadata = ((CLUSTERS_HEADER, ",".join(clusters)),) if clusters else ()
        yield from self._stream("GetFlows", request, observer.GetFlowsResponse, metadata)

    def get_agent_events(self, request: observer.GetAgentEventsRequest) -> Iterator[observer.GetAgentEventsResponse]:
        """The same of what agents do."""
        yield from self._stream("GetAgentEvents", request, observer.GetAgentEventsResponse)

    def server_status(self) -> observer.ServerStatusResponse:
        """Raises: NoAnswerFromServerError."""
        return self._ask(OBSERVER, "ServerStatus", observer.ServerStatusRequest(), observer.ServerStatusResponse)

    def get_nodes(self) -> observer.GetNodesResponse:
        """Raises: NoAnswerFromServerError."""
        return self._ask(OBSERVER, "GetNodes", observer.GetNodesRequest(), observer.GetNodesResponse)

    def get_namespaces(self) -> observer.GetNamespacesResponse:
        """Raises: NoAnswerFromServerError."""
        return self._ask(OBSERVER, "GetNamespaces", observer.GetNamespacesRequest(), observer.GetNamespacesResponse)

    def is_healthy(self) -> bool:
        """Raises: NoAnswerFromServerError."""
        request = health.HealthCheckRequest(service=HEALTH_SERVICE)
        answer = self._ask(HEALTH, "Check", request, health.HealthCheckResponse)
        return answer.status == health.HealthCheckResponse.SERVING

    def _ask(self, service: str, method: str, request: Q, answer: type[A]) -> A:
        call = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=self._access.timeout_s)
        except grpc.RpcError as exc:
            raise self._translated(exc) from exc

    def _stream(
        self, method: str, request: Q, answer: type[A], metadata: tuple[tuple[str, str], ...] = ()
    ) -> Iterator[A]:
        call = self._channel.unary_stream(
            f"/{OBSERVER}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            yield from call(request, metadata=metadata)
        except grpc.RpcError as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: grpc.RpcError) -> NoAnswerFromServerError:
        why = f"{exc.code().name}: {exc.details()}" if isinstance(exc, grpc.Call) else str(exc)
        return NoAnswerFromServerError(self._access.server, why)
