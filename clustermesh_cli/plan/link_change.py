# SPDX-License-Identifier: Apache-2.0
"""What connecting clusters writes where, and what puts back what was there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.connect import PeerLink
from clustermesh_cli.plan.peering import (
    USERS_KEY,
    Data,
    admit_users,
    agent_files,
    expel_users,
    forget_peer,
    forgotten_files,
    keep_lists,
    learn_peer,
    read_peers,
    real_files,
    with_networks,
)
from meshapi.installed import CA_BUNDLE, MIRROR_SECRET, PEERS_SECRET, REMOTE_USERS

PEERING_SECRETS: Final = (MIRROR_SECRET, PEERS_SECRET)
PEERING_OBJECTS: Final = (CA_BUNDLE, REMOTE_USERS, *PEERING_SECRETS)

Objects = Mapping[tuple[str, str], Mapping[str, Any] | None]
"""Objects by context and name; None where there is none."""


@dataclass(frozen=True, slots=True)
class SecretChange:
    """One merge patch of one object of a cluster, and the merge patch that takes it back."""

    context: str
    name: str
    patch: Mapping[str, Any]
    undo: Mapping[str, Any]


def plan_changes(links: Iterable[PeerLink], objects: Objects, namespace: str) -> tuple[SecretChange, ...]:
    """What to write for these links, in order: first every target lets its readers in, then readers learn their targets.

    What is there already is not written again. Raises: CommandRefusedError if an object that `enable` makes is missing.
    """
    draft = _Draft(objects)
    links = tuple(links)
    for link in links:
        _admit(draft, link)
    for link in links:
        _learn(draft, link, namespace)
    return tuple(draft.changes)


def plan_partings(partings: Iterable[tuple[str, str]], objects: Objects) -> tuple[SecretChange, ...]:
    """What to write so that each cluster, named by its context, has forgotten a peer, named by its cluster's name.

    The files go first, so that agents drain; then the user, which cuts open streams; then the trust.
    """
    draft = _Draft(objects)
    for context, peer in partings:
        _part(draft, context, peer)
    return tuple(draft.changes)


def inverse(before: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that makes `before` of what `patch` makes of it, in the fields of `patch`; others are left alone."""
    found: dict[str, Any] = {}
    for name, value in patch.items():
        old = before.get(name)
        is_inner = isinstance(value, Mapping)
        found[name] = inverse(old if isinstance(old, Mapping) else {}, value) if is_inner else old
    return found


def merge(before: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """What a JSON merge patch makes of an object."""
    found = dict(before)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        elif isinstance(value, Mapping):
            old = found.get(name)
            found[name] = merge(old if isinstance(old, Mapping) else {}, value)
        else:
            found[name] = value
    return found


class _Draft:
    """The objects as they will be after the changes so far."""

    def __init__(self, objects: Objects) -> None:
        self._objects = dict(objects)
        self.changes: list[SecretChange] = []

    def change(
        self, context: str, name: str, decide: Callable[[Mapping[str, Any]], Mapping[str, Any]], *, needed: bool = True
    ) -> None:
        before = self._objects.get((context, name))
        if before is None:
            if needed:
                raise CommandRefusedError(
                    f"{context}: {name} is missing: run `clustermesh enable --context {context}` again"
                )
            return
        patch = decide(before)
        undo = inverse(before, patch)
        if merge(before, patch) != merge(before, undo):
            self.changes.append(SecretChange(context, name, patch, undo))
            self._objects[context, name] = merge(before, patch)


def _part(draft: _Draft, context: str, peer: str) -> None:
    draft.change(context, PEERS_SECRET, lambda old: forget_peer(read_peers(old), peer), needed=False)
    draft.change(context, MIRROR_SECRET, lambda _: {"data": dict(forgotten_files(peer))}, needed=False)
    draft.change(context, REMOTE_USERS, lambda old: {"data": {USERS_KEY: expel_users(_users(old), peer)}}, needed=False)
    draft.change(context, CA_BUNDLE, lambda _: {"data": {f"{peer}.crt": None}}, needed=False)


def _users(config_map: Mapping[str, Any]) -> str:
    return str((config_map.get("data") or {}).get(USERS_KEY, ""))


def _admit(draft: _Draft, link: PeerLink) -> None:
    """The target trusts the reader's CA for the reader's own name, and has a user for it. No key is copied."""
    reader, context = link.reader, link.target.context
    draft.change(context, CA_BUNDLE, lambda _: {"data": {f"{reader.name}.crt": reader.ca_pem.decode()}})
    draft.change(context, REMOTE_USERS, lambda old: {"data": {USERS_KEY: admit_users(_users(old), reader.name)}})


def _learn(draft: _Draft, link: PeerLink, namespace: str) -> None:
    """The reader's mirror first, then its agents. What their files say about what the peer may own stays."""
    real, context, peer = real_files(link.target), link.reader.context, link.target.name
    files = agent_files(real, is_mirrored=link.reader.is_mirrored, namespace=namespace)

    def kept(old: Mapping[str, Any], new: Data) -> Data:
        return with_networks(keep_lists(_data(old), new), peer, link.networks)

    draft.change(context, MIRROR_SECRET, lambda old: {"data": dict(kept(old, real))}, needed=False)
    draft.change(context, PEERS_SECRET, lambda old: learn_peer(read_peers(old), link.target, kept(old, files)))


def _data(secret: Mapping[str, Any]) -> Mapping[str, str]:
    return secret.get("data") or {}
