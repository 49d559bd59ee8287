# SPDX-License-Identifier: Apache-2.0
"""A service of one cluster that changes again and again, and how long each change takes to be known in the other."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from e2e.mesh import Mesh

KEY: Final = "cilium/cache/services/v1/tion/default/rebel-base"


@dataclass
class Pulse:
    """Changes of one service in tion, and how long each took to be in koornacht's store."""

    mesh: Mesh
    delays_s: list[float] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def beat(self) -> None:
        number = next(self._numbers)
        self.mesh.kubectl("tion", "label", "service", "rebel-base", f"pulse=p{number}", "--overwrite")
        began = time.monotonic()
        self.mesh.wait_until("the change is in the other cluster's store", lambda: self._is_there(f"p{number}"), 20)
        self.delays_s.append(time.monotonic() - began)

    def _is_there(self, value: str) -> bool:
        entries = self.mesh.apiserver_rest("koornacht", f"/v1/kv?prefix={KEY}")["entries"]
        return any(value in base64.b64decode(entry["value"]).decode() for entry in entries)
