# SPDX-License-Identifier: Apache-2.0
"""What a map should hold against what it holds, entry by entry, as lines for a person. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from meshapi.agent import MapDifference

MISSING: Final = "missing"
UNEXPECTED: Final = "nothing asks for it"


def fields(record: NamedTuple) -> str:
    """The fields of a key or value; equal records give equal text."""
    return " ".join(f"{name}={value}" for name, value in record._asdict().items())


def compare_entries(place: str, wanted: Mapping[Any, Any], found: Mapping[Any, Any]) -> list[MapDifference]:
    """One difference for each key that only one side has, or whose values differ."""
    result = [MapDifference(place, fields(key), MISSING) for key in wanted.keys() - found.keys()]
    result += [MapDifference(place, fields(key), UNEXPECTED) for key in found.keys() - wanted.keys()]
    for key in wanted.keys() & found.keys():
        if wanted[key] != found[key]:
            what = f"holds {fields(found[key])}, should hold {fields(wanted[key])}"
            result.append(MapDifference(place, fields(key), what))
    return result
