# SPDX-License-Identifier: Apache-2.0
"""The networks all pods of a cluster are in, as its own objects say: nodes that are added later get theirs inside. Pure.

Where several objects say something, all of it counts. A value that is no prefix, or too wide for a peer, is passed over: the
nodes' records still say what is in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from meshkit.yamltext import load_documents
from meshmodel.address import canonical_prefix
from meshpeer.allowed import WIDEST

POD_CIDR_FLAG: Final = "--pod-cidr"
CLUSTER_POOL: Final = "cluster-pool"
POOL_KEYS: Final = ("cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr")


def flag_ranges(deployment: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What the apiserver is told by `--pod-cidr`."""
    spec = ((deployment or {}).get("spec") or {}).get("template", {}).get("spec") or {}
    found: list[str] = []
    for container in spec.get("containers") or ():
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word == POD_CIDR_FLAG:
                found.append(following)
            elif word.startswith(f"{POD_CIDR_FLAG}="):
                found.append(word.partition("=")[2])
    return _prefixes(found)


def cilium_ranges(config_map: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The pools Cilium gives nodes their networks from, in its mode `cluster-pool`."""
    data = (config_map or {}).get("data") or {}
    if data.get("ipam", CLUSTER_POOL) != CLUSTER_POOL:
        return ()
    return _prefixes(str(data.get(key) or "") for key in POOL_KEYS)


def kubeadm_ranges(config_map: Mapping[str, Any] | None) -> tuple[str, ...]:
    """`networking.podSubnet` of kubeadm's ConfigMap."""
    text = ((config_map or {}).get("data") or {}).get("ClusterConfiguration") or ""
    try:
        document = next(iter(load_documents(text)), None)
    except ValueError:
        return ()
    networking = document.get("networking") if isinstance(document, dict) else None
    subnet = networking.get("podSubnet") if isinstance(networking, dict) else None
    return _prefixes([subnet] if isinstance(subnet, str) else [])


def calico_ranges(pools: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Calico's IPPools, but those that are switched off."""
    specs = [pool.get("spec") or {} for pool in pools]
    return _prefixes(str(spec.get("cidr") or "") for spec in specs if not spec.get("disabled"))


def _prefixes(texts: Iterable[str]) -> tuple[str, ...]:
    found = []
    for part in (part for text in texts for part in text.replace(",", " ").split()):
        try:
            prefix = canonical_prefix(part)
        except ValueError:
            continue
        if int(prefix.partition("/")[2]) >= WIDEST[6 if ":" in prefix else 4]:
            found.append(prefix)
    return tuple(dict.fromkeys(found))
