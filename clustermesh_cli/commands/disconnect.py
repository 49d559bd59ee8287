# SPDX-License-Identifier: Apache-2.0
"""`clustermesh disconnect`: a cluster stops reading a peer and stops letting it read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clustermesh_cli.cluster_facts import read_config
from clustermesh_cli.console import Console
from clustermesh_cli.contexts import naming
from clustermesh_cli.exit_code import CommandError, CommandRefusedError
from clustermesh_cli.link_writer import read_objects, write_steps
from clustermesh_cli.plan.link_change import Objects, parting_steps
from clustermesh_cli.plan.peering import known_peers
from kube.client import KubeClient
from meshapi.installed import CA_BUNDLE, CLUSTER_NAME_KEY, MIRROR_SECRET, PEERS_SECRET, REMOTE_USERS


def disconnect_peer(client: KubeClient, namespace: str, context: str, peer: str, console: Console) -> None:
    """This cluster has forgotten `peer`; works when the peer is gone.

    Raises: CommandRefusedError, having changed nothing, when `peer` is this cluster or none of its peers.
    """
    own = _name(
        client, namespace, context, "if its ConfigMap has lost the name, clustermesh enable puts it back; then again"
    )
    objects = read_objects({context: client}, namespace)
    _refuse_itself(own, peer)
    known = _known(objects, context, own)
    if peer not in known:
        raise CommandRefusedError(
            f"{peer} is not a peer of {own}: nothing was changed; its peers: {', '.join(sorted(known)) or 'none'}"
        )
    _forget({context: client}, namespace, [(context, peer)], console)


def disconnect_contexts(clients: Mapping[str, KubeClient], namespace: str, console: Console) -> None:
    """The first context of `clients` and each of the others have forgotten each other.

    Raises: CommandRefusedError, having changed nothing, when one of them is the first cluster itself, or not connected to it.
    """
    advice = "where a peer is gone, name it: clustermesh disconnect PEER"
    names = {context: _name(client, namespace, context, advice) for context, client in clients.items()}
    objects = read_objects(clients, namespace)
    local, *others = clients
    own = names[local]
    for context in others:
        _refuse_itself(own, names[context])
        if not any(_knows(objects, names, reader, target) for reader, target in ((local, context), (context, local))):
            raise CommandRefusedError(
                f"{own} and {names[context]} are not connected: neither is a peer of the other; nothing was changed"
            )
    partings = []
    for context in others:
        for reader, target in ((local, context), (context, local)):
            if _knows(objects, names, reader, target):
                partings.append((reader, names[target]))
            else:
                console.info(f"{names[target]} was not a peer of {names[reader]}")
    _forget(clients, namespace, partings, console)


def _name(client: KubeClient, namespace: str, context: str, advice: str) -> str:
    with naming(context):
        name = read_config(client, namespace).get(CLUSTER_NAME_KEY, "")
    if not name:
        raise CommandError(f"the mesh is not enabled in {context or 'this cluster'}; {advice}")
    return name


def _refuse_itself(own: str, peer: str) -> None:
    if peer == own:
        raise CommandRefusedError(
            f"{own} is this cluster itself and cannot be disconnected from: name a peer, or take the cluster out of the mesh "
            "with clustermesh disable; nothing was changed"
        )


def _known(objects: Objects, context: str, own: str) -> frozenset[str]:
    secrets = (objects[context, PEERS_SECRET], objects[context, MIRROR_SECRET])
    return known_peers(secrets, objects[context, CA_BUNDLE], objects[context, REMOTE_USERS]) - {own}


def _knows(objects: Objects, names: Mapping[str, str], reader: str, target: str) -> bool:
    return names[target] in _known(objects, reader, names[reader])


def _forget(
    clients: Mapping[str, KubeClient],
    namespace: str,
    partings: Sequence[tuple[str, str]],
    console: Console,
) -> None:
    for context, peer in partings:
        console.step(f"Removing {peer} from {context or 'this cluster'}...")
    write_steps(clients, namespace, lambda: parting_steps(partings), lambda: None)
    for _, peer in partings:
        console.ok(
            f"Removed {peer}: its configuration, its trusted CA and its user remote-{peer}; agents drain its records"
        )
