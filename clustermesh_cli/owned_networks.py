# SPDX-License-Identifier: Apache-2.0
"""What `connect` lets each peer own: as chosen, as its entry says already, or as the peer's objects and records say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from clustermesh_cli.announced import announced_networks, pod_ranges
from clustermesh_cli.console import Console
from clustermesh_cli.plan.connect import PeerLink
from clustermesh_cli.plan.facts import ClusterFacts
from clustermesh_cli.plan.link_change import Objects
from clustermesh_cli.plan.peer_networks import AUTO, Choices, decide_networks, outside
from clustermesh_cli.plan.peering import read_networks
from kube.client import KubeClient
from meshapi.installed import PEERS_SECRET
from meshkit.errors import MeshError


class OwnedNetworks:
    """`choices` by context of the peer. Everything is said on the console before anything is written."""

    def __init__(self, clients: Mapping[str, KubeClient], namespace: str, choices: Choices, console: Console) -> None:
        self._clients, self._namespace, self._choices, self._console = clients, namespace, choices, console
        self._known: dict[str, tuple[str, ...]] = {}

    def decide(self, links: Sequence[PeerLink], objects: Objects) -> tuple[PeerLink, ...]:
        """The links with the list of what each target may own, None where the reader's entry stays as it is.

        Raises: CommandRefusedError where `auto` was asked for and nothing is known; CommandError where it cannot be read.
        """
        pod_cidrs = {c.name: c.pod_cidrs for link in links for c in (link.reader, link.target)}
        return tuple(
            replace(
                link,
                networks=self._decide(
                    link,
                    read_networks(_files(objects, link), link.target.name),
                    [cidr for name, cidrs in pod_cidrs.items() if name != link.target.name for cidr in cidrs],
                ),
            )
            for link in links
        )

    def _decide(self, link: PeerLink, kept: tuple[str, ...], others: Sequence[str]) -> tuple[str, ...] | None:
        target, choice = link.target, self._choices.get(link.target.context)
        if choice is None and kept:
            self._say_kept(link, kept)
            return None
        announced: tuple[str, ...] = ()
        ranges: tuple[str, ...] = ()
        if choice in (AUTO, None):
            announced = self._announced(target)
            ranges = pod_ranges(self._clients[target.context], self._namespace)
        if choice is None and not (announced or ranges):
            self._console.warn(
                f"{target.name} announces no pod networks yet: {link.reader.name} lets it own whatever nobody else has, "
                "until you connect again"
            )
            return None
        networks = decide_networks(choice or AUTO, announced, others, ranges)
        owned = f"{', '.join(networks)} and its nodes' addresses" if networks else "whatever nobody else has"
        self._console.info(f"{link.reader.name} lets {target.name} own {owned}")
        return networks

    def _announced(self, target: ClusterFacts) -> tuple[str, ...]:
        """What the target's records say; where they cannot be read and no list was asked for, what its Node objects say."""
        if target.context not in self._known:
            try:
                found = announced_networks(self._clients[target.context], self._namespace, target)
            except MeshError as exc:
                if target.context in self._choices:
                    raise
                self._console.warn(f"{target.name}: its records cannot be read, its Nodes are asked instead: {exc}")
                found = target.pod_cidrs
            self._known[target.context] = found
        return self._known[target.context]

    def _say_kept(self, link: PeerLink, kept: tuple[str, ...]) -> None:
        reader, target = link.reader.name, link.target
        self._console.info(f"{reader} lets {target.name} own {', '.join(kept)} and its nodes' addresses, as before")
        if refused := outside(self._announced(target), kept):
            self._console.warn(
                f"{target.name} announces {', '.join(refused)}, which {reader} refuses: "
                f"--peer-networks {target.context}=auto lets it own that"
            )


def _files(objects: Objects, link: PeerLink) -> Mapping[str, str]:
    secret = objects.get((link.reader.context, PEERS_SECRET)) or {}
    return secret.get("data") or {}
