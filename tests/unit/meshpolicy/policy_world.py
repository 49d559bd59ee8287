# SPDX-License-Identifier: Apache-2.0
"""A small mesh for engine tests: pods of two clusters and rules written as short as they can be."""

from __future__ import annotations

from typing import Any

from meshmodel.identity import NumericIdentity
from meshmodel.labels import Labels, pod_labels
from meshpolicy import Direction, Engine, Policy, PolicyContext, parse_policy

SERVER, CLIENT, REMOTE, STRANGER = (NumericIdentity(number) for number in (300, 301, 131_372, 302))


def labels(app: str, *, cluster: str = "north", namespace: str = "default") -> Labels:
    return pod_labels(
        {"app": app}, namespace=namespace, namespace_labels={}, service_account="default", cluster=cluster
    )


WHO: dict[NumericIdentity, Labels] = {
    SERVER: labels("server"),
    CLIENT: labels("client"),
    REMOTE: labels("client", cluster="south"),
    STRANGER: labels("client", namespace="elsewhere"),
}


def build(**context: Any) -> Engine:
    """An engine that knows everybody."""
    engine = Engine(PolicyContext("north", **{"default_local_cluster": False, **context}))
    for number, known in WHO.items():
        engine.set_identity(number, known)
    return engine


def policy(engine: Engine, name: str = "p", *, app: str = "server", **spec: Any) -> Policy:
    """A policy of the namespace default about one app."""
    subject = {"endpointSelector": {"matchLabels": {"app": app}}}
    document = {"kind": "CiliumNetworkPolicy", "metadata": {"name": name}, "spec": {**subject, **spec}}
    return parse_policy(document, engine.context)


def port(number: str, protocol: str = "TCP", **fields: Any) -> list[Any]:
    return [{"ports": [{"port": number, "protocol": protocol}], **fields}]


def allows(engine: Engine, subject: NumericIdentity, peer: int, where: int = 80, protocol: int = 6) -> bool:
    """The ingress verdict."""
    return engine.endpoint_policy(subject).verdict(Direction.INGRESS, peer, protocol, where).allowed
