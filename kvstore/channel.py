# SPDX-License-Identifier: Apache-2.0
"""gRPC channels to etcd, with the options that were learnt the hard way."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import grpc
import grpc.aio

from kvstore.errors import Rejected
from kvstore.options import Options, Tls

ChannelOptions = list[tuple[str, int | str]]


def open_channel(targets: Sequence[str], tls: Tls | None, options: Options) -> grpc.aio.Channel:
    """A channel to one of the targets; it connects on first use and reconnects by itself.

    Raises: Rejected for an unusable set of targets.
    """
    target = channel_target(targets)
    arguments = channel_options(tls, options)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=arguments)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
    return grpc.aio.secure_channel(target, credentials, options=arguments)


def channel_options(tls: Tls | None, options: Options) -> ChannelOptions:
    """The channel arguments of a client."""
    arguments: ChannelOptions = [
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", int(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1000)),
        # without this one a frozen server is noticed after 70 s only
        ("grpc.http2.ping_timeout_ms", int(options.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", int(options.backoff_minimum_s * 1000)),
        # gRPC's name for the least time that an attempt to connect is given
        ("grpc.min_reconnect_backoff_ms", int(options.connect_timeout_s * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(options.backoff_maximum_s * 1000)),
        # a shared connection would go on with the certificate of the channel that opened it
        ("grpc.use_local_subchannel_pool", 1),
        # a proxy variable in the environment must not capture calls inside the mesh
        ("grpc.enable_http_proxy", 0),
    ]
    if tls is not None and tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return arguments


def channel_target(targets: Sequence[str]) -> str:
    """gRPC's name for the targets, each "host:port".

    Several addresses fail over within one channel; gRPC has no such form for host names, so of several targets
    that include a name the first is taken.
    """
    if not targets:
        raise Rejected("no endpoint given")
    families = {_family(target) for target in targets}
    if families == {4}:
        return "ipv4:" + ",".join(targets)
    if families == {6}:
        return "ipv6:" + ",".join(targets)
    return "dns:///" + targets[0]


def _family(target: str) -> int:
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise Rejected(f"endpoint {target[:100]!r} is not host:port")
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).version
    except ValueError:
        return 0
