# SPDX-License-Identifier: Apache-2.0
"""What each certificate of a cluster must contain.

Source: Cilium's certificate roles; the client's common name is its etcd user.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from meshapi.installed import (
    ADMIN_SECRET,
    LOCAL_SECRET,
    OBSERVER_SECRET,
    RELAY_SECRET,
    RELAY_SERVER_SECRET,
    RELAY_SERVICE,
    REMOTE_SECRET,
    REMOTE_USER,
    SERVER_SECRET,
    STORE_SERVICE,
)

MESH_DOMAIN: Final = "mesh.cilium.io"
FLOW_DOMAIN: Final = "hubble-grpc.cilium.io"
RELAY_DOMAIN: Final = "hubble-relay.cilium.io"
DEFAULT_DAYS: Final = 365
DAY_S: Final = 86_400.0
SHORTEST_LIFETIME_S: Final = 10.0
"""Less than an hour is for trials: a kubelet takes up to two minutes to show pods a Secret that changed."""
SHARED_REMOTE_USER: Final = "remote"
"""The name that the credentials of every peer may share instead of one each."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The facts of one leaf certificate; `is_server` decides its one extended key usage."""

    common_name: str
    dns_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    is_server: bool = False
    days: float = DEFAULT_DAYS


def server(cluster: str, namespace: str, extra_sans: Iterable[str] = ()) -> Profile:
    """The apiserver's own certificate; it has no client usage, which keeps etcd's HTTP gateway shut."""
    name = f"{STORE_SERVICE}.{namespace}.svc"
    names = [name, f"*.{MESH_DOMAIN}", f"{cluster}.{MESH_DOMAIN}"]
    addresses = ["127.0.0.1", "::1"]
    for extra in extra_sans:
        try:
            addresses.append(str(ipaddress.ip_address(extra)))
        except ValueError:
            names.append(extra)
    return Profile(name, tuple(dict.fromkeys(names)), tuple(dict.fromkeys(addresses)), is_server=True)


def admin(cluster: str) -> Profile:
    """The apiserver towards its own etcd."""
    return Profile(admin_user(cluster))


def local(cluster: str) -> Profile:
    """The cluster's own agents towards their own apiserver."""
    return Profile(local_user(cluster))


def remote(cluster: str) -> Profile:
    """This cluster's credential towards its peers."""
    return Profile(remote_user(cluster))


def observer(cluster: str) -> Profile:
    """Every node's observer of flows: one name, as Hubble's relay expects it, stands for all nodes of the cluster."""
    return Profile(f"observer-{cluster}", (f"*.{cluster}.{FLOW_DOMAIN}",), is_server=True)


def relay(cluster: str) -> Profile:
    """The relay towards observers, and towards relays of peers."""
    return Profile(relay_user(cluster))


def relay_server(cluster: str, namespace: str) -> Profile:
    """The relay towards those who ask it."""
    name = relay_name(cluster)
    return Profile(
        name, (name, f"*.{RELAY_DOMAIN}", f"{RELAY_SERVICE}.{namespace}.svc"), ("127.0.0.1", "::1"), is_server=True
    )


def own_shapes(
    cluster: str, namespace: str, lifetime_s: float, extra_sans: Iterable[str] = ()
) -> Mapping[str, Profile]:
    """What the certificate in each of a cluster's own Secrets must contain, by the Secret's name."""
    shapes = {
        SERVER_SECRET: server(cluster, namespace, extra_sans),
        ADMIN_SECRET: admin(cluster),
        LOCAL_SECRET: local(cluster),
        REMOTE_SECRET: remote(cluster),
        OBSERVER_SECRET: observer(cluster),
        RELAY_SECRET: relay(cluster),
        RELAY_SERVER_SECRET: relay_server(cluster, namespace),
    }
    return {name: replace(shape, days=lifetime_s / DAY_S) for name, shape in shapes.items()}


def admin_user(cluster: str) -> str:
    """The user that may write the cluster's own etcd."""
    return f"admin-{cluster}"


def local_user(cluster: str) -> str:
    """The user the cluster's own agents read as."""
    return f"local-{cluster}"


def remote_user(cluster: str) -> str:
    """The user the named cluster reads its peers' state as."""
    return f"{REMOTE_USER}{cluster}"


def relay_user(cluster: str) -> str:
    """The name by which the relay of a cluster asks."""
    return f"relay-{cluster}"


def relay_name(cluster: str) -> str:
    """What the certificate of a cluster's relay is for."""
    return f"{cluster}.{RELAY_DOMAIN}"


def names_another_cluster(common_name: str, cluster: str) -> bool:
    """Whether it is the name of a program of another cluster than this one: some clusters share an authority."""
    prefixes = [user(cluster).removesuffix(cluster) for user in (admin_user, local_user, remote_user, relay_user)]
    return common_name == SHARED_REMOTE_USER or any(
        common_name.startswith(prefix) and common_name != f"{prefix}{cluster}" for prefix in prefixes
    )
