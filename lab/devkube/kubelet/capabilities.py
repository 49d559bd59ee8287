# SPDX-License-Identifier: Apache-2.0
"""Which capabilities of root a container keeps. Pure.

A container that drops ALL has those that it adds and no others, as on a real node. What drops nothing keeps all: the pods of
the lab do things that a runtime's default set would refuse them.
"""

from __future__ import annotations

from typing import Final

from lab.devkube.api.objects import Obj, part

ALL: Final = "ALL"


def kept_capabilities(container: Obj) -> str:
    """As setpriv(1) writes a bounding set; empty where nothing is taken away."""
    said = part(part(container, "securityContext"), "capabilities")
    if ALL not in (said.get("drop") or ()):
        return ""
    added = sorted(name.removeprefix("CAP_").lower() for name in said.get("add") or ())
    return ",".join(["-all", *(f"+{name}" for name in added)])
