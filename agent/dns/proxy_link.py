# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the link with the DNS proxy. What is said, and how, is in `link`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from agent.answered_names import AnsweredAddress, NameListener
from agent.dns.link import LONGEST_LINE, SOCKET
from meshkit.errors import TransientError


class LinkError(TransientError):
    """The proxy said what is no message, or went away."""


class Said(NamedTuple):
    """What the proxy said last of itself; nothing while there is no link."""

    listening: frozenset[int] = frozenset()
    closed: Mapping[str, str] = {}
    counts: Mapping[str, int] = {}


class ProxyLink:
    """`names` hears answers, `on_questions` gets records of questions, `on_change` is called when `said` is another."""

    def __init__(
        self,
        directory: Path,
        names: NameListener | None,
        on_questions: Callable[[Sequence[Mapping[str, Any]]], None],
        on_change: Callable[[], None],
    ) -> None:
        self._directory, self._names = directory, names
        self._on_questions, self._on_change = on_questions, on_change
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.said = Said()

    async def run(self) -> None:
        """Until the link ends. Raises: OSError if the proxy is not there, LinkError."""
        reader, self._writer = await self._open()
        self.rules_changed()  # it may have started before they were written
        try:
            while line := await reader.readline():
                self._hear(line)
        except ValueError as exc:
            raise LinkError(f"the DNS proxy says what is no message: {exc}") from exc
        finally:
            self._writer.close()
            self._writer = None
            self._set_said(Said(counts=self.said.counts))
        raise LinkError("the DNS proxy went away")

    def rules_changed(self) -> None:
        """The proxy reads its file again."""
        self._send({"read": True})

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Paths of sockets are short, and that of a node's directory may not be."""
        descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{descriptor}/{SOCKET}", limit=LONGEST_LINE)
        finally:
            os.close(descriptor)

    def _hear(self, line: bytes) -> None:
        """Raises: ValueError."""
        try:
            message = orjson.loads(line)
            if "answer" in message:
                self._learn(message)
                return
            if message["flows"]:
                self._on_questions(message["flows"])
            self._set_said(Said(frozenset(message["listening"]), message["closed"], message["counts"]))
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(repr(exc)) from exc

    def _learn(self, message: Mapping[str, Any]) -> None:
        number = message["answer"]
        addresses = [AnsweredAddress(str(address), int(ttl_s)) for address, ttl_s in message["addresses"]]
        if self._names is None:
            self._send({"installed": number})
            return
        task = asyncio.create_task(self._names.learn(str(message["endpoint"]), str(message["name"]), addresses))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._installed(number, done))

    def _installed(self, number: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()
            self._send({"installed": number})

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    def _set_said(self, said: Said) -> None:
        if said != self.said:
            self.said = said
            self._on_change()
