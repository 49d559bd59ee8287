# SPDX-License-Identifier: Apache-2.0
"""Which history finds each mutant first, as docs/testing.md says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

TABLE: Final = Path(__file__).resolve().parents[3] / "docs/testing.md"
_ROW: Final = re.compile(r"^\| `([a-z-]+)` \| .* \| (\d+) \|$", re.M)


def first_histories() -> dict[str, int]:
    """By mutant, the seed of the first history of the mixture that finds it."""
    return {name: int(seed) for name, seed in _ROW.findall(TABLE.read_text(encoding="utf-8"))}
