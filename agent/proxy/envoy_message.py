# SPDX-License-Identifier: Apache-2.0
"""How messages of Envoy's API are written in JSON. Pure."""

from __future__ import annotations

from typing import Any, Final

_TYPE: Final = "type.googleapis.com/envoy"


def typed(kind: str, /, **fields: Any) -> dict[str, Any]:
    """A message that says what it is."""
    return {"@type": f"{_TYPE}.{kind}", **fields}
