# SPDX-License-Identifier: Apache-2.0
"""The settings of a cluster's agents that change what its policies mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import kube.resource as k
from meshapi.installed import AGENT, SCOPE_KEY
from meshpolicy.range_shares import LIMITS, ShareLimits

if TYPE_CHECKING:
    from kube.client import KubeClient

IPV6_KEY: Final = "ipv6"
RANGES_KEY: Final = "policy-ranges-per-namespace"
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


class PolicySettings(NamedTuple):
    """As agents have them where nobody says otherwise. `ranges_per_namespace`: how many one namespace's policies may name."""

    default_local_cluster: bool = True
    ipv6: bool = False
    ranges_per_namespace: int = LIMITS.of_namespace

    def with_ranges(self, ranges_per_namespace: int | None) -> PolicySettings:
        """The same, but for what is given."""
        return self if ranges_per_namespace is None else self._replace(ranges_per_namespace=ranges_per_namespace)

    @property
    def limits(self) -> ShareLimits:
        """How many address ranges policies may name."""
        return LIMITS._replace(of_namespace=self.ranges_per_namespace)


DEFAULTS: Final = PolicySettings()


def read_settings(client: KubeClient, system: str, config: Mapping[str, str]) -> PolicySettings:
    """What the agents were started with, else what they would read of `config`. Source: agent.bootstrap."""
    daemon = client.get(k.DAEMON_SETS, AGENT, system)
    containers = daemon["spec"]["template"]["spec"]["containers"] if daemon is not None else ()
    words = [str(word) for container in containers for word in container.get("args") or ()]

    def text_of(key: str) -> str:
        given = [_given(words[index:], key) for index in range(len(words))]
        return next((text for text in reversed(given) if text), "") or config.get(key, "")

    ranges = text_of(RANGES_KEY)
    return PolicySettings(
        default_local_cluster=text_of(SCOPE_KEY).lower() not in _FALSE,
        ipv6=text_of(IPV6_KEY).lower() in _TRUE,
        ranges_per_namespace=int(ranges) if ranges.isascii() and ranges.isdigit() else LIMITS.of_namespace,
    )


def _given(words: list[str], key: str) -> str:
    """The value that the first of these words gives a flag: behind "=", as the next word, or true by itself."""
    name, equals, value = words[0].partition("=")
    if name == f"--no-{key}":
        return "false"
    if name != f"--{key}":
        return ""
    if equals:
        return value
    return words[1] if len(words) > 1 and not words[1].startswith("--") else "true"
