# SPDX-License-Identifier: Apache-2.0
"""The few settings of a cluster that change what a policy means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from meshpolicy.proxy_ports import ProxyPorts


class Enforcement(StrEnum):
    """When an endpoint that no rule selects is enforced nevertheless."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """Where policies are read.

    `cluster` is the local cluster's name. With `default_local_cluster`, peers that do not mention a cluster mean the
    local one (spec: policy-default-local-cluster). With `dual_stack`, the address families have worlds of their own; with `ipv6`
    packets of IPv6 are judged too, and outsiders of IPv4 are labelled `world` nevertheless: entities and selectors find them as
    `world-ipv4` too, and those of IPv6 as `world`.
    Without `proxy_ports` there is no proxy: what HTTP rules and lists of names would allow is denied. `with_staged`: staged
    policies are judged as if they were in force.
    """

    cluster: str
    default_local_cluster: bool = True
    dual_stack: bool = False
    allow_localhost: bool = True
    enforcement: Enforcement = Enforcement.DEFAULT
    proxy_ports: ProxyPorts | None = None
    with_staged: bool = False
    ipv6: bool = False

    @property
    def proxied(self) -> frozenset[str]:
        """The kinds of rules that a proxy enforces."""
        return self.proxy_ports.kinds if self.proxy_ports is not None else frozenset()

    @property
    def scope(self) -> str:
        """The cluster that an unscoped peer selector means; empty = any."""
        return self.cluster if self.default_local_cluster else ""
