# SPDX-License-Identifier: Apache-2.0
"""Documents as careless and as hostile authors write them: valid ones with a few of their parts changed. One seed, one list."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import yaml
from policy_histories import history

ODD: tuple[Any, ...] = (
    None, {}, [], "", "*", "**", True, False, 0, -1, 65_536, 1 << 70, 1.5, "0", "-1", "65536", "http", "0.0.0.0/0", "::/0",
    "10.0.0.0/33", "010.0.0.0/8", "10.1.2.3", "::ffff:0:0/96", "k8s:", ":", "reserved:world", "all", "world", "Deny",
    "In", "exists", "y", "a" * 300, "b" * 70_000, [None], [[]], [{}], {"": ""}, {"matchLabels": {"app": ["a"]}}, "é\x00\n",
)  # fmt: skip
"""In place of anything."""
SECTIONS = (
    "ingress",
    "egress",
    "ingressDeny",
    "egressDeny",
    "specs",
    "nodeSelector",
    "endpointSelector",
    "enableDefaultDeny",
)
FREE = ("matchLabels", "labels", "annotations", "metadata", "status")
"""Maps whose keys are the author's own."""
HOSTILE_TEXT = (
    "[" * 200, "{", "}", "*a", "&a ", "<<: *a", "!!python/object/apply:os.system [x]", "\t", "\x00", "---\n", ": ", "? ", "- ",
    "!!binary x", "\u2028", "'", '"', "#", "%YAML 9.9\n---\n", "&a [*a]", "1e999999", "0x" + "f" * 5000, "2001-01-01", "~",
    "...\n", "|\n", ">-\n",
)  # fmt: skip
KINDS = {
    "policy": ("cilium.io/v2", "CiliumNetworkPolicy"),
    "host": ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
    "kubernetes": ("networking.k8s.io/v1", "NetworkPolicy"),
    "tiered": ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
}


def valid_documents(seed: int) -> Iterator[dict[str, Any]]:
    """Valid policies of all kinds, without end."""
    pick = random.Random(seed)
    while True:
        for kind, *parts in (step for step in history(pick.getrandbits(32), 50) if step[0] in KINDS):
            version, word = KINDS[kind]
            has_namespace = kind in ("policy", "kubernetes")
            metadata = {"namespace": parts[0], "name": parts[1]} if has_namespace else {"name": parts[0]}
            spec = parts[2 if has_namespace else 1]
            yield {"apiVersion": version, "kind": word, "metadata": metadata, "spec": spec}


def changed(pick: random.Random, document: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """The document with one to three parts changed; its kind and name stay."""
    found = copy.deepcopy(document)
    for _ in range(pick.randint(1, 3)):
        places = list(_places(found))
        if places:
            _change(pick, *pick.choice(places), others)
    return found


def misspelt(pick: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """The document with one field that does not exist in place of one that does."""
    found = copy.deepcopy(document)
    places = [(holder, key) for holder, key in _places(found, is_free=False) if isinstance(holder, dict) and key]
    holder, key = pick.choice(places)
    odd = pick.choice([f"{key}s", key[:-1] + key[-1].swapcase(), f"x{key}", key.upper(), f"{key} "])
    holder[odd] = holder.pop(key)
    return found


def hostile_text(pick: random.Random, document: dict[str, Any]) -> str:
    """The document as YAML, with pieces put in, lines given twice, or its end missing."""
    text = yaml.safe_dump(document)
    for _ in range(pick.randint(1, 4)):
        place = pick.randrange(len(text) + 1)
        lines = text.splitlines(keepends=True)
        match pick.randrange(5):
            case 0:
                text = text[:place]
            case 1 if lines:
                lines.insert(pick.randrange(len(lines)), pick.choice(lines))
                text = "".join(lines)
            case _:
                text = text[:place] + pick.choice(HOSTILE_TEXT) + text[place:]
    return text


def _places(value: Any, *, is_free: bool = True, is_top: bool = True) -> Iterator[tuple[Any, Any]]:
    """Every entry of a map or list; of the document itself only what says what the policy means."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        if is_top and key in ("kind", "metadata", "apiVersion"):
            continue
        yield value, key
        if isinstance(value[key], dict | list) and (is_free or key not in FREE):
            yield from _places(value[key], is_free=is_free, is_top=False)


def _change(pick: random.Random, holder: Any, key: Any, others: list[dict[str, Any]]) -> None:
    match pick.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        case 1:
            holder[pick.choice(SECTIONS)] = holder.pop(key)
        case 2:
            holder[key] = [holder[key]] if pick.random() < 0.5 else {"matchLabels": holder[key]}
        case 3:
            other, place = pick.choice(list(_places(pick.choice(others))))
            holder[key] = copy.deepcopy(other[place])
        case 4 if isinstance(holder, dict):
            holder[pick.choice(SECTIONS)] = pick.choice(ODD)
        case _:
            holder[key] = copy.deepcopy(pick.choice(ODD))
