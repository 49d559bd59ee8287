# SPDX-License-Identifier: Apache-2.0
"""`clustermesh connect` and `disconnect`: who reads whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import kube.resource as k
from clustermesh_cli.cluster_facts import read_config, read_facts, read_peers
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.plan.connect import Mode, PeerLink, check_access, check_all, plan_links
from clustermesh_cli.plan.facts import ClusterFacts, StoreAccess
from clustermesh_cli.plan.peering import (
    USERS_KEY,
    admit_users,
    agent_files,
    expel_users,
    forget_peer,
    forgotten_files,
    keep_lists,
    learn_peer,
    real_files,
)
from kube.client import KubeClient
from meshapi.installed import CA_BUNDLE, CLUSTER_NAME_KEY, MIRROR_SECRET, PEERS_SECRET, REMOTE_USERS


def connect(
    clients: Mapping[str, KubeClient],
    namespace: str,
    *,
    mode: Mode,
    endpoints: Mapping[str, Sequence[str]],
    console: Console,
    dry_run: bool = False,
) -> tuple[PeerLink, ...]:
    """Connect the first context of `clients` to the others. Everything is checked before anything is written.

    `endpoints` maps a context to HOST:PORT entries that replace what its Service says.
    Returns the links made. Raises CommandRefusedError, having changed nothing, when the clusters cannot share a mesh.
    """
    facts = []
    for context, client in clients.items():
        console.step(f"Reading cluster {context}...")
        found = read_facts(client, namespace, context)
        facts.append(replace(found, access=given_access(endpoints[context])) if endpoints.get(context) else found)
        access = check_access(facts[-1])
        console.info(
            f"{facts[-1].name} (id {facts[-1].id}) is reached at {', '.join(access.addresses)} port {access.port}"
        )
    check_all(facts)
    local, *remotes = facts
    links = plan_links(local, remotes, mode)
    for link in links:
        if not dry_run:
            _admit(clients[link.target.context], namespace, link.reader)
    for link in links:
        if not dry_run:
            _learn(clients[link.reader.context], namespace, link)
        console.info(
            f"{link.reader.context} reads {link.target.context}{' (dry run, nothing written)' if dry_run else ''}"
        )
    return links


def given_access(entries: Sequence[str]) -> StoreAccess:
    """The access that HOST:PORT entries describe. Raises CommandRefusedError when ports differ or an entry is malformed."""
    addresses, ports = [], set()
    for entry in entries:
        host, colon, port = entry.rpartition(":")
        if not colon or not port.isdigit() or not host:
            raise CommandRefusedError(f"endpoint {entry!r} is not HOST:PORT")
        addresses.append(host.strip("[]"))
        ports.add(int(port))
    if len(ports) != 1:
        raise CommandRefusedError(f"endpoints {', '.join(entries)} must share one port")
    return StoreAccess("given", tuple(addresses), ports.pop())


def disconnect(client: KubeClient, namespace: str, peer: str, console: Console) -> bool:
    """Forget `peer` in this cluster only; works when the peer is gone. Returns False when it was not known."""
    known = read_peers(client.get(k.SECRETS, PEERS_SECRET, namespace))
    bundle = client.get(k.CONFIG_MAPS, CA_BUNDLE, namespace) or {}
    if peer not in known and f"{peer}.crt" not in (bundle.get("data") or {}):
        return False
    client.patch_merge(k.SECRETS, PEERS_SECRET, forget_peer(known, peer), namespace)
    if client.get(k.SECRETS, MIRROR_SECRET, namespace) is not None:
        client.patch_merge(k.SECRETS, MIRROR_SECRET, {"data": dict(forgotten_files(peer))}, namespace)
    users = _users(client, namespace)
    client.patch_merge(k.CONFIG_MAPS, REMOTE_USERS, {"data": {USERS_KEY: expel_users(users, peer)}}, namespace)
    client.patch_merge(k.CONFIG_MAPS, CA_BUNDLE, {"data": {f"{peer}.crt": None}}, namespace)
    console.ok(
        f"Removed {peer}: its configuration, its trusted CA and its user remote-{peer}; agents drain its records"
    )
    return True


def run_disconnect(
    local: KubeClient, others: Mapping[str, KubeClient], namespace: str, peer: str | None, console: Console
) -> None:
    """Forget `peer`, or each of `others` on both sides. Raises CommandRefusedError when a named peer was never known."""
    if peer is not None:
        if not disconnect(local, namespace, peer, console):
            raise CommandRefusedError(f"{peer} is not a peer of this cluster")
        return
    own = read_config(local, namespace).get(CLUSTER_NAME_KEY, "")
    for client in others.values():
        name = read_config(client, namespace).get(CLUSTER_NAME_KEY, "")
        disconnect(local, namespace, name, console)
        disconnect(client, namespace, own, console)


def split_endpoints(
    local: str, destinations: Sequence[str], source: Sequence[str], destination: Sequence[str]
) -> dict[str, list[str]]:
    """Which HOST:PORT entries belong to which context. An entry without CONTEXT= is allowed for one destination only."""
    found: dict[str, list[str]] = {local: list(source)} if source else {}
    for entry in destination:
        context, equals, endpoint = entry.partition("=")
        if not equals and len(destinations) != 1:
            raise CommandRefusedError(
                f"--destination-endpoint {entry}: with several destinations write CONTEXT=HOST:PORT"
            )
        target, value = (context, endpoint) if equals else (destinations[0], entry)
        if target not in destinations:
            raise CommandRefusedError(f"--destination-endpoint {entry}: {target} is not a destination context")
        found.setdefault(target, []).append(value)
    return found


def link_text(links: Sequence[PeerLink], mode: Mode) -> str:
    """The last line of `connect`, as users of `cilium clustermesh connect` know it."""
    contexts = list(dict.fromkeys(c.context for link in links for c in (link.reader, link.target)))
    match mode:
        case Mode.UNICAST:
            return f"Connected cluster {contexts[0]} => {', '.join(contexts[1:])}!"
        case Mode.BIDIRECTIONAL:
            return f"Connected cluster {contexts[0]} <=> {', '.join(contexts[1:])}!"
        case Mode.MESH:
            return f"Connected clusters {', '.join(contexts[:-1])} and {contexts[-1]}!"


def _admit(client: KubeClient, namespace: str, reader: ClusterFacts) -> None:
    """Let `reader` in: trust its CA for its own name, and give it a user. Only certificates are copied, never keys."""
    client.patch_merge(k.CONFIG_MAPS, CA_BUNDLE, {"data": {f"{reader.name}.crt": reader.ca_pem.decode()}}, namespace)
    users = _users(client, namespace)
    client.patch_merge(k.CONFIG_MAPS, REMOTE_USERS, {"data": {USERS_KEY: admit_users(users, reader.name)}}, namespace)


def _learn(client: KubeClient, namespace: str, link: PeerLink) -> None:
    """Our mirror first, then our agents. What their files say about what the peer may own stays."""
    real = real_files(link.target)
    mirror, agents = (client.get(k.SECRETS, name, namespace) for name in (MIRROR_SECRET, PEERS_SECRET))
    if mirror is not None:
        kept = keep_lists(mirror.get("data") or {}, real)
        client.patch_merge(k.SECRETS, MIRROR_SECRET, {"data": dict(kept)}, namespace)
    known = read_peers(agents)
    files = agent_files(real, is_mirrored=link.reader.is_mirrored, namespace=namespace)
    files = keep_lists((agents or {}).get("data") or {}, files)
    client.patch_merge(k.SECRETS, PEERS_SECRET, learn_peer(known, link.target, files), namespace)


def _users(client: KubeClient, namespace: str) -> str:
    found = client.get(k.CONFIG_MAPS, REMOTE_USERS, namespace) or {}
    return str((found.get("data") or {}).get(USERS_KEY, ""))
