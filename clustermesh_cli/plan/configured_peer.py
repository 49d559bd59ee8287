# SPDX-License-Identifier: Apache-2.0
"""A peer as the connection files of a cluster describe it: where it is reached, and by which authority. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from clustermesh_cli.plan.facts import ClusterFacts, StoreAccess
from meshapi.installed import CA_SUFFIX
from meshkit.yamltext import load_documents
from meshmodel.names import ClusterId, ClusterName

CONFIGURED = "configured"
"""The kind of access that a connection file describes."""


def configured_peer(reader: ClusterFacts, files: Mapping[str, str], peer: str) -> ClusterFacts | None:
    """What `reader` would read `peer` by, given the data of its Secret; None where the file is none for a peer by TLS."""
    try:
        document = next(iter(load_documents(base64.b64decode(files.get(peer, "")).decode())), None)
        ca_pem = base64.b64decode(files.get(peer + CA_SUFFIX, ""))
    except ValueError:
        return None
    scheme, _, place = str(_first(document, "endpoints")).partition("://")
    host, _, port = place.rpartition(":")
    if not isinstance(document, Mapping) or scheme != "https" or not host or not port.isdecimal() or not ca_pem:
        return None
    aliases = document.get("cilium-host-aliases")
    found = [alias for alias in aliases if isinstance(alias, Mapping)] if isinstance(aliases, list) else []
    addresses = [str(ip) for alias in found if alias.get("hostname") == host for ip in alias.get("ips") or ()]
    known = reader.peers.get(peer)
    return ClusterFacts(
        context="",
        name=ClusterName(peer),
        id=ClusterId(known.id if known else 0),
        maximum=reader.maximum,
        ca_pem=ca_pem,
        access=StoreAccess(CONFIGURED, tuple(addresses) or (host,), int(port)),
        pod_cidrs=known.pod_cidrs if known else (),
    )


def _first(document: object, key: str) -> object:
    found = document.get(key) if isinstance(document, Mapping) else None
    return found[0] if isinstance(found, list) and found else ""
