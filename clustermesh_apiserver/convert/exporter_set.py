# SPDX-License-Identifier: Apache-2.0
"""From tables to stores: which exporters there are, and when each converts what changed.

A burst of changes is converted in slices between which the loop may do other things; one change is converted in the
same turn of the loop in which it arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from clustermesh_apiserver.convert.exporter import Exporter
from meshmodel.keys import Kind

SLICE_ROWS: Final = 250


class ExporterSet:
    """The exporters of one run of the store; `flush` after every batch of changes."""

    def __init__(self, exporters: Mapping[Kind, Exporter]) -> None:
        self.by_kind = exporters
        self._is_scheduled = False
        self._is_closed = False

    def touch(self, kind: Kind, rows: Iterable[str]) -> None:
        """These rows of the kind's table changed."""
        exporter = self.by_kind.get(kind)
        if exporter is not None:
            exporter.touch(rows)

    def touch_namespace(self, namespace: str) -> None:
        for exporter in self.by_kind.values():
            exporter.touch_namespace(namespace)

    def flush(self) -> None:
        """Everything touched is converted, now or in the next turns of the loop."""
        if self._is_closed or self._is_scheduled:
            return
        self._flush()

    def close(self) -> None:
        self._is_closed = True

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._is_closed:
            return
        left = sum(exporter.flush(SLICE_ROWS) for exporter in self.by_kind.values())
        if left:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)
