# SPDX-License-Identifier: Apache-2.0
"""What connecting and parting clusters writes next, and what takes one write back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.connect import PeerLink, check_flows
from clustermesh_cli.plan.facts import StoreAccess
from clustermesh_cli.plan.peering import (
    PEERS_ANNOTATION,
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
    restore_peers,
    restore_users,
    with_networks,
)
from meshapi.installed import CA_BUNDLE, FLOW_GRANT, FLOW_PEERS, GRANTED, MIRROR_SECRET, PEERS_SECRET, REMOTE_USERS

PEERING_SECRETS: Final = (MIRROR_SECRET, PEERS_SECRET)
PEERING_OBJECTS: Final = (CA_BUNDLE, REMOTE_USERS, FLOW_PEERS, *PEERING_SECRETS)

Objects = Mapping[tuple[str, str], Mapping[str, Any] | None]
"""Objects by context and name; None where there is none."""


Settled = dict[int, Mapping[str, Any]]
"""By the number of a step, the object of which it needs nothing."""

Decide = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""The merge patch that makes of an object as it stands what it should be."""


@dataclass(frozen=True, slots=True)
class LinkStep:
    """What one object of a cluster must come to say. Where it is not `needed`, a cluster may be without the object.

    `link` names the reader and the target, or the cluster and the peer that it forgets: a link is made or ended by all its steps.
    """

    context: str
    name: str
    decide: Decide
    is_needed: bool = True
    link: str = ""


@dataclass(frozen=True, slots=True)
class LinkChange:
    """One write: the object it was decided from, of that version, and its merge patch."""

    context: str
    name: str
    before: Mapping[str, Any]
    patch: Mapping[str, Any]
    link: str = ""

    @property
    def after(self) -> Mapping[str, Any]:
        """The object once the patch is written."""
        return merge(self.before, self.patch)


def connecting_steps(links: Iterable[PeerLink], namespace: str) -> tuple[LinkStep, ...]:
    """What these links need, in order: first every target lets its readers in, then readers learn their targets."""
    links = tuple(links)
    return (
        *(step for link in links for step in _admit(link)),
        *(step for link in links for step in _learn(link, namespace)),
    )


def parting_steps(partings: Iterable[tuple[str, str]]) -> tuple[LinkStep, ...]:
    """What it takes that each cluster, named by its context, has forgotten a peer, named by its cluster's name.

    The files go first, so that agents drain; then the user, which cuts open streams; then the trust, by which the
    peer is known until all else is gone.
    """
    return tuple(step for context, peer in partings for step in _part(context, peer))


def next_change(steps: Iterable[LinkStep], objects: Objects, settled: Settled | None = None) -> LinkChange | None:
    """What to write next, from whatever state somebody left the objects in; None once all is as the steps want it.

    `settled` is kept from one call to the next with the same steps: one that needed nothing of an object is not decided again
    while the object is the same. Raises: CommandRefusedError if an object that `enable` makes is missing.
    """
    settled = {} if settled is None else settled
    for number, step in enumerate(steps):
        before = objects.get((step.context, step.name))
        if before is not None and settled.get(number) is before:
            continue
        if before is None:
            if step.is_needed:
                raise CommandRefusedError(
                    f"{step.context}: {step.name} is missing: run `clustermesh enable --context {step.context}` again"
                )
            continue
        patch = step.decide(before)
        if has_effect(before, patch):
            return LinkChange(step.context, step.name, before, patch, step.link)
        settled[number] = before
    return None


def plan_changes(steps: Iterable[LinkStep], objects: Objects) -> tuple[LinkChange, ...]:
    """Everything there is to write if nobody else writes meanwhile. Raises: CommandRefusedError as `next_change` does."""
    steps, after, found, settled = tuple(steps), dict(objects), list[LinkChange](), Settled()
    while (change := next_change(steps, after, settled)) is not None:
        found.append(change)
        after[change.context, change.name] = change.after
    return tuple(found)


def restoring_patch(change: LinkChange, now: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that takes a change out of the object as it stands `now`; what somebody else wrote since stays."""
    before, after = change.before, change.after
    data = _restored(_data(before), _data(after), _data(now), {USERS_KEY: restore_users})
    notes = _restored(_notes(before), _notes(after), _notes(now), {PEERS_ANNOTATION: restore_peers})
    return {**({"data": data} if data else {}), **({"metadata": {"annotations": notes}} if notes else {})}


def has_effect(before: Mapping[str, Any], patch: Mapping[str, Any]) -> bool:
    """Whether a merge patch changes an object."""
    return any(
        has_effect(old if isinstance(old := before.get(name), Mapping) else {}, value)
        if isinstance(value, Mapping)
        else before.get(name) != value
        for name, value in patch.items()
    )


Restore = Callable[[str, str, str], str]


def _restored(
    before: Mapping[str, str], after: Mapping[str, str], now: Mapping[str, str], lists: Mapping[str, Restore]
) -> dict[str, str | None]:
    """Members to set. One that somebody else wrote since is left, but for `lists`, of which our entries are taken out."""
    found: dict[str, str | None] = {}
    for name in sorted({*before, *after}):
        old, ours, current = before.get(name), after.get(name), now.get(name)
        if old in (ours, current):
            continue
        if current == ours:
            found[name] = old
        elif name in lists and current is not None:
            found[name] = lists[name](old or "", ours or "", current)
    return {name: value for name, value in found.items() if now.get(name) != value}


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


def _part(context: str, peer: str) -> Iterable[LinkStep]:
    def expel(old: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"data": {USERS_KEY: expel_users(_users(old), peer)}}

    def step(name: str, decide: Decide) -> LinkStep:
        return LinkStep(context, name, decide, is_needed=False, link=f"{context} {peer}")

    yield step(PEERS_SECRET, lambda old: forget_peer(read_peers(old), peer))
    yield step(MIRROR_SECRET, lambda _: {"data": dict(forgotten_files(peer))})
    yield step(FLOW_PEERS, lambda _: {"data": {peer: None}})
    yield step(REMOTE_USERS, lambda _: {"data": {FLOW_GRANT + peer: None}})
    yield step(REMOTE_USERS, expel)
    yield step(CA_BUNDLE, lambda _: {"data": {f"{peer}.crt": None}})


def _users(config_map: Mapping[str, Any]) -> str:
    return str(_data(config_map).get(USERS_KEY, ""))


def _admit(link: PeerLink) -> Iterable[LinkStep]:
    """The target trusts the reader's CA for the reader's own name, and has a user for it. No key is copied."""
    reader, context = link.reader, link.target.context
    trusted = {f"{reader.name}.crt": reader.ca_pem.decode()}

    def admit(old: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"data": {USERS_KEY: admit_users(_users(old), reader.name)}}

    yield LinkStep(context, CA_BUNDLE, lambda _: {"data": trusted}, link=_name(link))
    yield LinkStep(context, REMOTE_USERS, admit, link=_name(link))
    if link.flows is not None:
        grant = {FLOW_GRANT + reader.name: GRANTED if link.flows else None}
        yield LinkStep(context, REMOTE_USERS, lambda _: {"data": grant}, link=_name(link))


def _name(link: PeerLink) -> str:
    return f"{link.reader.context} {link.target.context}"


def _learn(link: PeerLink, namespace: str) -> Iterable[LinkStep]:
    """The reader's mirror first, then its agents. What their files say about what the peer may own stays."""
    real, context, peer = real_files(link.target), link.reader.context, link.target.name
    files = agent_files(real, is_mirrored=link.reader.is_mirrored, namespace=namespace)

    def kept(old: Mapping[str, Any], new: Data) -> Data:
        return with_networks(keep_lists(_data(old), new), peer, link.networks)

    def learn(old: Mapping[str, Any]) -> Mapping[str, Any]:
        return learn_peer(read_peers(old), link.target, kept(old, files))

    name = _name(link)
    yield LinkStep(context, MIRROR_SECRET, lambda old: {"data": dict(kept(old, real))}, is_needed=False, link=name)
    yield LinkStep(context, PEERS_SECRET, learn, link=name)
    if link.flows is not None:
        places = {peer: _places(check_flows(link.target)) if link.flows else None}
        yield LinkStep(context, FLOW_PEERS, lambda _: {"data": places}, is_needed=link.flows, link=name)


def _places(access: StoreAccess) -> str:
    """HOST:PORT of each address, separated by commas."""
    return ",".join(f"[{ip}]:{access.port}" if ":" in ip else f"{ip}:{access.port}" for ip in access.addresses)


def _data(obj: Mapping[str, Any]) -> Mapping[str, str]:
    return obj.get("data") or {}


def _notes(obj: Mapping[str, Any]) -> Mapping[str, str]:
    return (obj.get("metadata") or {}).get("annotations") or {}
