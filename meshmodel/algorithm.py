# SPDX-License-Identifier: Apache-2.0
"""How a new connection finds one of the backends that may take it, where a Service says so. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

LB_ALGORITHM: Final = "mesh.clustermesh.io/lb-algorithm"
MAGLEV_SIZES: Final = (251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521)
"""Slots of a table: primes, so that every step reaches every slot; the head of a frontend counts slots in 16 bits."""
_SHOWN: Final = 64


class Algorithm(StrEnum):
    """`random`: any. `maglev`: the one that the client's address and port stand for, alike on every node."""

    RANDOM = "random"
    MAGLEV = "maglev"


def parse_algorithm(annotations: Mapping[str, str], problems: list[str]) -> Algorithm | None:
    """What the Service asks for; None where it says nothing, or nothing that is known: then the agents' setting holds."""
    text = annotations.get(LB_ALGORITHM)
    if text is None:
        return None
    word = text.strip().lower()
    if word in tuple(Algorithm):
        return Algorithm(word)
    problems.append(f'{LB_ALGORITHM}: {text[:_SHOWN]!r} is neither "random" nor "maglev"; the annotation has no effect')
    return None
