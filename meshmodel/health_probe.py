# SPDX-License-Identifier: Apache-2.0
"""How the agents of a service's own cluster ask its pods whether they are well: the annotation `health-probe`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

HEALTH_PROBE: Final = "mesh.clustermesh.io/health-probe"
_HTTP: Final = "http:"
_MAXIMUM: Final = 1024
_SHOWN: Final = 64


class HealthProbe(NamedTuple):
    """`path`: what an HTTP GET asks for; empty: a TCP connection that is accepted says enough."""

    path: str = ""


def parse_health_probe(annotations: Mapping[str, str], problems: list[str]) -> HealthProbe | None:
    """What the Service asks for; None where it asks for nothing, or for nothing that is known."""
    text = annotations.get(HEALTH_PROBE)
    if text is None:
        return None
    word = text.strip()
    if word.lower() == "tcp":
        return HealthProbe()
    path = word[len(_HTTP) :]
    is_path = (
        path.startswith("/") and len(path) <= _MAXIMUM and path.isascii() and path.isprintable() and " " not in path
    )
    if word.lower().startswith(_HTTP) and is_path:
        return HealthProbe(path)
    problems.append(f'{HEALTH_PROBE}: {text[:_SHOWN]!r} is neither "tcp" nor "http:/PATH"; nothing is probed')
    return None
