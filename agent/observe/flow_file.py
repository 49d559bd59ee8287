# SPDX-License-Identifier: Apache-2.0
"""Flows as lines of JSON in a file. Each line is an ExportEvent of Hubble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flows.document import json_line
from flows.errors import RequestError
from flows.proto import observer_pb2 as observer
from meshkit.rotated_file import RotatedFile

MIB: Final = 1 << 20


class FlowFile:
    """What `--flow-export-file` names. Raises: RequestError for sizes that mean nothing."""

    def __init__(self, path: str, limit_mib: int, backups: int) -> None:
        if limit_mib < 1 or backups < 0:
            raise RequestError("--flow-export-mib is at least 1, --flow-export-backups at least 0")
        self.name, self.place = "flow export", path
        self._file = RotatedFile(Path(path), limit_mib * MIB, backups)

    def send(self, found: Sequence[observer.GetFlowsResponse]) -> None:
        """They are in the file, each with its end of line. Raises: OSError."""
        self._file.append("".join(f"{json_line(each)}\n" for each in found).encode())

    def close(self) -> None:
        self._file.close()
