# SPDX-License-Identifier: Apache-2.0
"""A pod's addresses → one record each. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from kubeintent.rows import EndpointIntent, PodIntent
from meshmodel.identity import NumericIdentity
from meshmodel.ip import IpRecord, NamedPort


def convert_pod(pod: PodIntent, identity: NumericIdentity, *, is_private: bool = False) -> dict[bytes, bytes]:
    """Key remainder and value of every address of a pod whose identity is known.

    Container ports that have a name go with it: policies of every cluster may name them. Private records have the pod's
    uid too, by which its node's agent confirms it.
    """
    ports, owner = _named_ports(pod.named_ports), (pod.namespace, pod.name, pod.service_account)
    uid = pod.uid if is_private else ""
    return _records(pod.ips, pod.host_ip, identity, 0, owner, named_ports=ports, uid=uid)


def convert_endpoint(endpoint: EndpointIntent) -> dict[bytes, bytes]:
    """The same from what Cilium wrote; an endpoint without identity is published as unknown, as Cilium does."""
    owner = (endpoint.namespace, endpoint.name, endpoint.service_account)
    identity = NumericIdentity(endpoint.identity)
    ports = _named_ports(endpoint.named_ports)
    return _records(endpoint.ips, endpoint.host_ip, identity, endpoint.encryption_key, owner, named_ports=ports)


def _records(
    ips: tuple[str, ...],
    host_ip: str,
    identity: NumericIdentity,
    key: int,
    owner: tuple[str, str, str],
    *,
    named_ports: tuple[NamedPort, ...],
    uid: str = "",
) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    for address in ips:
        record = IpRecord(
            prefix=f"{address}/{128 if ':' in address else 32}",
            host_ip=host_ip,
            identity=identity,
            encryption_key=key,
            namespace=owner[0],
            pod=owner[1],
            service_account=owner[2],
            named_ports=named_ports,
            pod_uid=uid,
        )
        records[address.encode()] = record.encode()
    return records


def _named_ports(ports: Iterable[tuple[str, int, str]]) -> tuple[NamedPort, ...]:
    return tuple(NamedPort(name=name, port=port, protocol=protocol) for name, port, protocol in ports)
