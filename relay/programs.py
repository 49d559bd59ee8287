# SPDX-License-Identifier: Apache-2.0
"""The REST interfaces of this cluster's other programs, asked with the relay's own token."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from meshapi.installed import STATUS_SERVICE, TOKEN_HEADER
from meshkit.errors import MAXIMUM_TEXT
from meshkit.http_get import http_get
from meshkit.refusal import read_refusal
from relay.settings import RelaySettings
from relay.view import NotAskedError

ANSWER_S: Final = 5.0


class Programs:
    """Each is asked for a path with a query, and answers JSON."""

    def __init__(self, settings: RelaySettings) -> None:
        self._token_file: Path = settings.token_file
        self._apiserver = f"{STATUS_SERVICE}.{settings.namespace}.svc", settings.apiserver_port
        self._agent_port = settings.agent_port

    async def ask_apiserver(self, path: str) -> bytes:
        """Raises: NotAskedError."""
        return await self._ask("the apiserver", *self._apiserver, path)

    async def ask_agent(self, node: str, address: str, path: str) -> bytes:
        """Raises: NotAskedError."""
        if not address:
            raise NotAskedError(f"agent of {node}: there is no such node, or it has no address")
        return await self._ask(f"agent of {node}", address, self._agent_port, path)

    async def _ask(self, who: str, host: str, port: int, path: str) -> bytes:
        try:
            token = (await asyncio.to_thread(self._token_file.read_text)).strip()
            async with asyncio.timeout(ANSWER_S):
                status, body = await http_get(host, port, f"/{path}", {TOKEN_HEADER: token})
        except TimeoutError as exc:
            raise NotAskedError(f"{who} did not answer in {ANSWER_S:g} s") from exc
        except (OSError, EOFError, ValueError) as exc:
            raise NotAskedError(f"{who} is not reached: {exc}"[:MAXIMUM_TEXT]) from exc
        if status != 200:
            raise NotAskedError(f"{who} answered {status}: {read_refusal(body)}")
        return body
