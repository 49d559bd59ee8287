# SPDX-License-Identifier: Apache-2.0
"""Three clusters' peering objects and operators who connect and part them at the same time, write by write.

The command's own decisions run: `LinkRun` says what to do next, `restoring_patch` what takes a write back. This is the part of
`link_writer` that has no decision in it: reads, and writes that name a version.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

import msgspec
import yaml

from clustermesh_cli.plan.connect import PeerLink, plan_links
from clustermesh_cli.plan.connection_mode import Mode
from clustermesh_cli.plan.facts import ClusterFacts, StoreAccess
from clustermesh_cli.plan.link_change import (
    PEERING_OBJECTS,
    LinkChange,
    LinkStep,
    connecting_steps,
    merge,
    next_change,
    parting_steps,
    restoring_patch,
)
from clustermesh_cli.plan.link_run import LinkMove, LinkRun, contexts_of
from clustermesh_cli.plan.peering import known_peers, read_peers
from meshapi.installed import CA_BUNDLE, CA_SUFFIX, MIRROR_SECRET, PEERS_SECRET, REMOTE_USERS
from meshmodel.names import ClusterId, ClusterName

NAMES: Final = ("east", "north", "west")
NAMESPACE: Final = "kube-system"
Place = tuple[str, str]
Objects = dict[Place, Mapping[str, Any]]


def facts(name: str) -> ClusterFacts:
    number = NAMES.index(name) + 1
    access = StoreAccess("NodePort", (f"192.0.2.{number}",), 32379)
    authority, pods = f"CA of {name}".encode(), (f"10.{number}.0.0/24",)
    return ClusterFacts(name, ClusterName(name), ClusterId(number), 255, authority, access, pods, {}, True)


def fresh() -> Objects:
    """Three clusters in which the mesh is enabled and nobody is connected."""
    found: Objects = {(n, o): {"metadata": {}, "data": {}} for n in NAMES for o in PEERING_OBJECTS}
    for name in NAMES:
        found[name, REMOTE_USERS] = {"metadata": {}, "data": {"users.yaml": "users: []\n"}}
        found[name, CA_BUNDLE] = {"metadata": {}, "data": {f"{name}.crt": f"CA of {name}"}}
    return found


@dataclass(frozen=True, slots=True)
class Verb:
    """What an operator types. `links` are the directed links, reader first, that it makes or ends."""

    name: str
    steps: tuple[LinkStep, ...]
    links: frozenset[tuple[str, str]]
    is_connect: bool


def connect(*names: str, mode: Mode = Mode.BIDIRECTIONAL) -> Verb:
    local, *others = (facts(name) for name in names)
    links = plan_links(local, others, mode)
    return Verb(
        f"connect {' '.join(names)}", connecting_steps(links, NAMESPACE), frozenset(map(_ends, links)), is_connect=True
    )


def disconnect(own: str, peer: str) -> Verb:
    """`disconnect` with two contexts: both forget each other."""
    pairs = ((own, peer), (peer, own))
    return Verb(f"disconnect {own} {peer}", parting_steps(pairs), frozenset(pairs), is_connect=False)


def disconnect_here(own: str, peer: str) -> Verb:
    """`disconnect PEER`: only this cluster forgets; neither end can read the other's facade or be admitted afterwards."""
    links = frozenset({(own, peer), (peer, own)})
    return Verb(f"{own} disconnects {peer}", parting_steps([(own, peer)]), links, is_connect=False)


def _ends(link: PeerLink) -> tuple[str, str]:
    return str(link.reader.name), str(link.target.name)


def run_alone(objects: Objects, verb: Verb) -> Objects:
    """The objects after the verb ran with nobody else about."""
    after = dict(objects)
    while (change := next_change(verb.steps, after)) is not None:
        after[change.context, change.name] = change.after
    return after


def working(objects: Objects) -> frozenset[tuple[str, str]]:
    """The links that work: the reader's agents and mirror have the target's files, the target knows the reader's user and CA."""
    return frozenset((a, b) for a in NAMES for b in NAMES if a != b and _works(objects, a, b))


def _works(objects: Objects, reader: str, target: str) -> bool:
    mirror = _data(objects, reader, MIRROR_SECRET)
    is_told = target in mirror and target + CA_SUFFIX in mirror and target in _data(objects, reader, PEERS_SECRET)
    return is_told and reader in users_of(objects, target) and f"{reader}.crt" in _data(objects, target, CA_BUNDLE)


def users_of(objects: Objects, cluster: str) -> set[str]:
    return _users(_data(objects, cluster, REMOTE_USERS)["users.yaml"])


@lru_cache(None)
def _users(text: str) -> set[str]:
    return {user["name"].removeprefix("remote-") for user in yaml.safe_load(text)["users"]}


def traces(objects: Objects, cluster: str) -> set[str]:
    """Peers of which a cluster has anything at all."""
    secrets = [objects[cluster, name] for name in (MIRROR_SECRET, PEERS_SECRET)]
    found = {entry.removesuffix(CA_SUFFIX) for secret in secrets for entry in secret["data"]}
    found |= set(read_peers(objects[cluster, PEERS_SECRET])) | users_of(objects, cluster)
    return found | {entry.removesuffix(".crt") for entry in _data(objects, cluster, CA_BUNDLE)} - {cluster}


def told_peers(objects: Objects, cluster: str) -> set[str]:
    """Peers that `disconnect` would know in the cluster."""
    secrets = [objects[cluster, name] for name in (MIRROR_SECRET, PEERS_SECRET)]
    return set(known_peers(secrets, objects[cluster, CA_BUNDLE], objects[cluster, REMOTE_USERS])) - {cluster}


def _data(objects: Objects, cluster: str, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = objects[cluster, name]["data"]
    return found


class Operator(msgspec.Struct, frozen=True):
    """One run of a verb. `undone`: how many of its writes were taken back; None while it does not take back."""

    verb: Verb
    run: LinkRun = LinkRun()
    undone: int | None = None
    end: str = ""


@dataclass
class LinkWorld:
    """The objects, who is at work on them, and which cluster cannot be reached. Versions make every write conditional."""

    objects: Objects
    operators: tuple[Operator, ...]
    faults: frozenset[str] = frozenset({"die", "fail"})
    cut: str = ""
    versions: dict[Place, int] = field(default_factory=dict)
    seen: tuple[dict[Place, int], ...] = ()
    was_working: frozenset[tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        self.seen = self.seen or tuple({} for _ in self.operators)
        if self.was_working is None:
            self.was_working = working(self.objects)

    def fork(self) -> LinkWorld:
        return replace(
            self, objects=dict(self.objects), versions=dict(self.versions), seen=tuple(dict(s) for s in self.seen)
        )

    def steps(self) -> Iterable[str]:
        found = []
        for number, one in enumerate(self.operators):
            if one.end:
                continue
            found.append(f"{number} goes on")
            if one.run.begun or one.run.objects is not None:
                found += [
                    f"{number} {fault}" for fault in ("die", "fail") if fault in self.faults and self._may(one, fault)
                ]
        return found

    @staticmethod
    def _may(one: Operator, fault: str) -> bool:
        """What fails once all is written is the proof that it works: nobody else has it proven either."""
        is_all_written = one.run.objects is not None and next_change(one.verb.steps, one.run.objects) is None
        return fault == "die" or (one.undone is None and not is_all_written)

    def do(self, step: str) -> None:
        number_text, _, what = step.partition(" ")
        number = int(number_text)
        one = self.operators[number]
        match what:
            case "die":
                one = _ended(one, "died")
            case "fail":
                one = msgspec.structs.replace(one, undone=0)
            case _:
                one = self._undo(one) if one.undone is not None else self._go_on(number, one)
        self.operators = (*self.operators[:number], one, *self.operators[number + 1 :])

    def _go_on(self, number: int, one: Operator) -> Operator:
        run, verb = one.run, one.verb
        move, change = run.next_move()
        if move is LinkMove.DONE:
            return _ended(one, "done" if run.begun else "found done")
        if move is LinkMove.GIVE_UP:
            return msgspec.structs.replace(one, undone=0)
        contexts = contexts_of(verb.steps)
        if move is LinkMove.LOOK:
            if self.cut in contexts:
                return msgspec.structs.replace(one, undone=0)
            self.seen[number].update({place: self.versions.get(place, 0) for place in self.objects})
            seen: Objects = {place: obj for place, obj in self.objects.items() if place[0] in contexts}
            return msgspec.structs.replace(one, run=run.looked(verb.steps, seen))
        assert change is not None
        place = change.context, change.name
        run = run.begin(change)
        if self.cut == change.context:
            return msgspec.structs.replace(one, run=run, undone=0)
        if self.versions.get(place, 0) != self.seen[number].get(place, 0):
            return msgspec.structs.replace(one, run=run.collided())
        self._write(place, change.after)
        self.seen[number][place] = self.versions[place]
        return msgspec.structs.replace(one, run=run.wrote(change, self.objects[place]))

    def _undo(self, one: Operator) -> Operator:
        begun = one.run.begun
        assert one.undone is not None
        if one.undone == len(begun):
            return _ended(one, "taken back")
        change = begun[-1 - one.undone]
        place = change.context, change.name
        patch = restoring_patch(change, self.objects[place])
        if patch and change.context != self.cut and not one.run.is_finished_by_others(change, self.objects):
            self._write(place, merge(self.objects[place], patch))
        return msgspec.structs.replace(one, undone=one.undone + 1)

    def _write(self, place: Place, obj: Mapping[str, Any]) -> None:
        self.objects[place] = obj
        self.versions[place] = self.versions.get(place, 0) + 1

    def key(self) -> Hashable:
        """What matters of a version is whether an operator has seen the newest one."""
        operators = tuple(
            (one.end,)
            if one.end
            else (
                one.undone,
                _text(one.run.begun[: len(one.run.begun) - (one.undone or 0)]),
                "" if one.undone is not None else _text([one.run.objects, one.run.is_looked]),
                tuple(sorted(p for p, v in self.versions.items() if self.seen[number].get(p, 0) != v)),
            )
            for number, one in enumerate(self.operators)
        )
        return self.objects_key, operators

    @property
    def objects_key(self) -> str:
        """Equal for equal objects."""
        return "\n".join(_object_text(obj) for _, obj in sorted(self.objects.items(), key=lambda pair: pair[0]))

    def problem(self) -> str | None:
        """While all connect, no link that worked is broken, at any moment; a disconnect ends none but its own."""
        ended = {link for one in self.operators if not one.verb.is_connect for link in one.verb.links}
        assert self.was_working is not None
        lost = self.was_working - ended - working(self.objects)
        return f"links lost: {sorted(lost)}" if lost else None

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody is at work."""
        return all(one.end for one in self.operators)


def _ended(one: Operator, end: str) -> Operator:
    return Operator(one.verb, end=end)


_texts: dict[int, tuple[Mapping[str, Any], str]] = {}


def _object_text(obj: Mapping[str, Any]) -> str:
    """Objects are never changed once made, and shared by many worlds."""
    kept = _texts.get(id(obj))
    if kept is None or kept[0] is not obj:
        kept = _texts[id(obj)] = (obj, _text(obj))
    return kept[1]


def _text(found: object) -> str:
    """Equal for equal values."""
    return msgspec.json.encode(_plain(found), order="deterministic").decode()


def _plain(found: object) -> object:
    match found:
        case LinkChange():
            return [found.context, found.name, _plain(found.before), _plain(found.patch)]
        case Mapping():
            return {"/".join(name) if isinstance(name, tuple) else name: _plain(value) for name, value in found.items()}
        case tuple() | list():
            return [_plain(each) for each in found]
        case _:
            return found
