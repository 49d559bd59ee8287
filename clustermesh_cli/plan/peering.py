# SPDX-License-Identifier: Apache-2.0
"""The objects that hold a cluster's peers, and what a new or a leaving peer changes in them. Pure.

Secret cilium-kvstoremesh: one etcd client file and one CA certificate per peer. Always the real ones, for the mirror.
Secret cilium-clustermesh: what agents read. With the mirror on, every peer's file names our own store; off, a copy.
ConfigMap clustermesh-ca-bundle: the CAs our facade accepts client certificates from.
ConfigMap clustermesh-remote-users: the users our facade lets in, `remote-<peer>` each.
No private key is in any of them: every cluster signs its own client certificate.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson
import yaml

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.connect import mirrored_config, peer_config
from clustermesh_cli.plan.facts import ClusterFacts, KnownPeer
from meshapi.installed import CA_SUFFIX, OWN_PREFIX, REMOTE_USER, REMOTE_USERS
from meshkit.yamltext import YamlTextError, load_documents
from meshmodel.address import canonical_prefix
from meshpeer.allowed import NETWORKS, NODE_NETWORKS

PEERS_ANNOTATION: Final = OWN_PREFIX + "peers"
USERS_KEY: Final = "users.yaml"

Data = Mapping[str, str | None]
"""Data of a Secret, base64; None removes a key in a merge patch."""


def read_peers(secret: Mapping[str, Any] | None) -> Mapping[str, KnownPeer]:
    """What the peers' Secret was annotated with when they were connected."""
    raw = ((secret or {}).get("metadata", {}).get("annotations") or {}).get(PEERS_ANNOTATION, "{}")
    return {name: KnownPeer(int(p["id"]), tuple(p.get("podCIDRs", ()))) for name, p in orjson.loads(raw).items()}


def known_peers(
    secrets: Iterable[Mapping[str, Any] | None], bundle: Mapping[str, Any] | None, users: Mapping[str, Any] | None
) -> frozenset[str]:
    """Whoever has an entry in any object of a cluster, which includes the cluster itself: its own CA is in the bundle."""
    found: set[str] = set()
    for secret in secrets:
        found |= {name.removesuffix(CA_SUFFIX) for name in (secret or {}).get("data") or {}}
        found |= set(read_peers(secret))
    found |= {name.removesuffix(".crt") for name in (bundle or {}).get("data") or {}}
    return frozenset(found | admitted_readers(users))


def admitted_readers(users: Mapping[str, Any] | None) -> frozenset[str]:
    """The clusters that have a user here."""
    names = (str(user.get("name", "")) for user in _users(((users or {}).get("data") or {}).get(USERS_KEY, "")))
    return frozenset(name.removeprefix(REMOTE_USER) for name in names if name.startswith(REMOTE_USER))


def real_files(target: ClusterFacts) -> Data:
    """What reading `target` itself takes: its connection file and its authority."""
    return {str(target.name): _encode(peer_config(target).encode()), target.name + CA_SUFFIX: _encode(target.ca_pem)}


def agent_files(real: Data, *, is_mirrored: bool, namespace: str) -> Data:
    """What agents get in place of the real files: the same, or the way to our own store for each of the peers."""
    if not is_mirrored:
        return real
    own = _encode(mirrored_config(namespace).encode())
    return {name: None if name.endswith(CA_SUFFIX) or value is None else own for name, value in real.items()}


def keep_lists(before: Data, after: Data) -> Data:
    """The files as given, with the lists of what a peer may own that somebody wrote into the files that were there.

    A file that says the same but for these lists stays as it was written.
    """
    return {name: value and _keep_lists(before.get(name), value) for name, value in after.items()}


def _keep_lists(before: str | None, after: str) -> str:
    old, new = (_document(value) for value in (before, after))
    lists = {name: old[name] for name in (NETWORKS, NODE_NETWORKS) if name in old}
    if not lists or before is None:
        return after
    wanted = new | lists
    return before if old == wanted else _encode(yaml.safe_dump(wanted, sort_keys=False).encode())


def with_networks(files: Data, peer: str, networks: tuple[str, ...] | None) -> Data:
    """The files with this list of what the peer may own: None leaves the list that is there, an empty one removes it."""
    document = _document(files.get(peer))
    wanted = {name: value for name, value in document.items() if name != NETWORKS} | (
        {NETWORKS: list(networks)} if networks else {}
    )
    if networks is None or wanted == document:
        return files
    return {**files, peer: _encode(yaml.safe_dump(wanted, sort_keys=False).encode())}


def read_networks(files: Mapping[str, str], peer: str) -> tuple[str, ...]:
    """The list of what the peer may own in its entry; empty where there is none."""
    found = _document(files.get(peer)).get(NETWORKS)
    lists = []
    for item in found if isinstance(found, list) else ():
        with suppress(ValueError):  # agents say what is wrong with it
            lists.append(canonical_prefix(item if isinstance(item, str) else ""))
    return tuple(lists)


def _document(file: str | None) -> dict[object, object]:
    """A connection file's content; empty for what is none, a certificate for example."""
    try:
        found = next(iter(load_documents(base64.b64decode(file or "").decode())), None)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def learn_peer(known: Mapping[str, KnownPeer], target: ClusterFacts, files: Data) -> dict[str, Any]:
    """Merge patch of the agents' Secret by which they start to read `target`, by these files."""
    record = KnownPeer(target.id, target.pod_cidrs)
    return {
        "metadata": {"annotations": {PEERS_ANNOTATION: _dump_peers({**known, target.name: record})}},
        "data": dict(files),
    }


def forget_peer(known: Mapping[str, KnownPeer], peer: str) -> dict[str, Any]:
    """Merge patch of the agents' Secret by which they drain and forget `peer`."""
    rest = {name: record for name, record in known.items() if name != peer}
    note = _dump_peers(rest) if rest else None
    return {"metadata": {"annotations": {PEERS_ANNOTATION: note}}, "data": dict(forgotten_files(peer))}


def forgotten_files(peer: str) -> Data:
    """No file of the peer is left."""
    return {peer: None, peer + CA_SUFFIX: None}


def find_real_files(mirror: Mapping[str, str], agents: Mapping[str, str]) -> dict[str, str]:
    """The peers' real files, given the data of both Secrets.

    A cluster from before there was a mirror has them in its agents' Secret only.
    """
    older = {name.removesuffix(CA_SUFFIX) for name in agents if name.endswith(CA_SUFFIX)}
    kept = {name: value for name, value in agents.items() if name.removesuffix(CA_SUFFIX) in older}
    return {**kept, **mirror}


def admit_users(users_yaml: str, reader: str) -> str:
    """users.yaml in which `reader` may read us; the same text when it already may."""
    wanted = {"name": f"{REMOTE_USER}{reader}", "role": "remote"}
    users = _users(users_yaml)
    return users_yaml if wanted in users else _dump_users([*users, wanted])


def expel_users(users_yaml: str, reader: str) -> str:
    """users.yaml without `reader`, the same text when it is not there: the facade then cuts its open streams."""
    users = _users(users_yaml)
    rest = [u for u in users if u.get("name") != f"{REMOTE_USER}{reader}"]
    return users_yaml if rest == users else _dump_users(rest)


def restore_users(before: str, after: str, now: str) -> str:
    """users.yaml `now` without the change from `before` to `after`; users that others let in or expelled since stay so."""
    old, ours, current = ({u["name"]: u for u in _users(text)} for text in (before, after, now))
    return _dump_users(list(_restore_entries(old, ours, current).values()))


def restore_peers(before: str, after: str, now: str) -> str:
    """The note of peers, in the same way."""
    old, ours, current = (orjson.loads(text or "{}") for text in (before, after, now))
    return json.dumps(_restore_entries(old, ours, current), separators=(",", ":"), sort_keys=True)


def _restore_entries(before: Mapping[str, Any], after: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(now)
    for name in {*before, *after}:
        old, ours = before.get(name), after.get(name)
        if old != ours and now.get(name) == ours:
            found.pop(name, None)
            if old is not None:
                found[name] = old
    return found


def _users(text: str) -> list[dict[str, str]]:
    """Raises: CommandRefusedError for what the apiserver cannot read either, naming what is wrong."""
    try:
        document = next(iter(load_documents(text)), None) or {}
    except YamlTextError as exc:
        raise _unreadable_users(str(exc)) from exc
    users = (document.get("users") or []) if isinstance(document, dict) else None
    if not isinstance(users, list):
        raise _unreadable_users("there is no list under users")
    for user in users:
        if not isinstance(user, dict) or not isinstance(user.get("name"), str):
            raise _unreadable_users(f"{str(user)[:80]} has no name")
    return users


def _unreadable_users(why: str) -> CommandRefusedError:
    return CommandRefusedError(
        f"ConfigMap {REMOTE_USERS}: {USERS_KEY} cannot be read ({why}): correct it with kubectl edit"
    )


def _dump_users(users: list[dict[str, str]]) -> str:
    return yaml.safe_dump({"users": sorted(users, key=lambda u: u["name"])}, sort_keys=False)


def _dump_peers(peers: Mapping[str, KnownPeer]) -> str:
    plain = {n: {"id": p.id, "podCIDRs": list(p.pod_cidrs)} for n, p in sorted(peers.items())}
    return json.dumps(plain, separators=(",", ":"), sort_keys=True)


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()
