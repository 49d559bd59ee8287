# SPDX-License-Identifier: Apache-2.0
"""Flows of this node as lines of JSON in a file, for whoever collects such files. Each line is an ExportEvent of Hubble."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.settings import AgentSettings
from flows.answer import answers
from flows.document import json_line, read_json
from flows.errors import RequestError
from flows.live import LiveFlows
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.request import check_request
from flows.ring import Decode, Item, Lost
from meshkit.health import Health
from meshkit.rotated_file import RotatedFile

MIB: Final = 1 << 20


class FlowExport:
    """What `--flow-export-*` asks for. Raises: RequestError, FilterError for filters and fields that mean nothing."""

    def __init__(self, settings: AgentSettings, decode: Decode, health: Health) -> None:
        self._path, self._health = Path(settings.flow_export_file), health
        self._request = observer.GetFlowsRequest(
            follow=True,
            whitelist=_filters("--flow-export-allowlist", settings.flow_export_allowlist),
            blacklist=_filters("--flow-export-denylist", settings.flow_export_denylist),
        )
        self._request.field_mask.paths.extend(settings.flow_export_fields)
        if settings.flow_export_mib < 1 or settings.flow_export_backups < 0:
            raise RequestError("--flow-export-mib is at least 1, --flow-export-backups at least 0")
        check_request(self._request)
        self._file = RotatedFile(self._path, settings.flow_export_mib * MIB, settings.flow_export_backups)
        self._decode = decode
        self.written = self.unwritten = 0

    async def run(self, flows: LiveFlows) -> None:
        """Until cancelled. A file that cannot be written is told and tried again; the flows that it missed are counted."""
        if not self._path.name:
            await asyncio.get_running_loop().create_future()
        answer = answers(self._decode, flows.node_name, self._request.field_mask)
        try:
            async for found in flows.steps(flows.read(self._request)):
                if found:
                    await self._write(found, answer)
                await asyncio.sleep(0)
        finally:
            self._file.close()

    async def _write(
        self, found: list[tuple[Item, int]], answer: Callable[[Item, int], observer.GetFlowsResponse]
    ) -> None:
        lines = "".join(f"{json_line(answer(item, number))}\n" for item, number in found).encode()
        number = sum(1 for item, _ in found if not isinstance(item, Lost))
        try:
            await asyncio.to_thread(self._file.append, lines)
        except OSError as exc:
            self.unwritten += number
            self._health.degraded("flow export", f"{self._path}: {exc.strerror}")
        else:
            self.written += number
            self._health.ok("flow export")


def _filters(flag: str, text: str) -> list[pb.FlowFilter]:
    """The filters of a JSON list. Raises: RequestError."""
    if not text:
        return []
    try:
        parts = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.DecodeError as exc:
        raise RequestError(f'{flag}: {exc}: write a list of filters, as [{{"verdict": ["DROPPED"]}}]') from exc
    return [read_json(bytes(part), pb.FlowFilter(), flag) for part in parts]
