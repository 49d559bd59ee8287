# SPDX-License-Identifier: Apache-2.0
"""Who we say we are in each request, and what happens to that when the server does not believe it."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from kube.errors import Unauthorized

TOKEN_READ_EVERY_S: Final = 60.0


class Credentials(Protocol):
    """The header `Authorization` of the requests to one server."""

    def authorization(self) -> str | None:
        """The header for a request now, None for a request without. Raises: Unauthorized where there should be one."""
        ...

    def renew(self, refused: str | None) -> bool:
        """The server answered 401 to this header: look for another at once. Whether there is one to try."""
        ...


class Unchanging:
    """What was given once: a token, a name with a password, or nothing because a client certificate says it."""

    def __init__(self, header: str | None) -> None:
        self._header = header

    def authorization(self) -> str | None:
        return self._header

    def renew(self, refused: str | None) -> bool:
        return self._header != refused


class TokenFile:
    """A token that somebody else renews in its file, as the kubelet does: read anew every minute, and once it is refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read_s, self._token = float("-inf"), ""

    def authorization(self) -> str | None:
        """The header for a request now. Raises: Unauthorized if the file cannot be read, or is empty."""
        with self._lock:
            if time.monotonic() - self._read_s >= TOKEN_READ_EVERY_S:
                try:
                    self._token = self._path.read_text(encoding="utf-8").strip()
                except (OSError, ValueError) as exc:
                    raise Unauthorized(f"token file {self._path}", detail=str(exc)) from exc
                if not self._token:
                    raise Unauthorized(f"token file {self._path}", detail="it is empty")
                self._read_s = time.monotonic()
            return f"Bearer {self._token}"

    def renew(self, refused: str | None) -> bool:
        """Read the file. Raises: Unauthorized if it cannot be read, or is empty."""
        with self._lock:
            if refused == f"Bearer {self._token}":  # else another thread has read it meanwhile
                self._read_s = float("-inf")
        return self.authorization() != refused


def credentials_of(user: Mapping[str, Any]) -> Credentials:
    """As kubectl: a token file before a token, a token before a name and a password."""
    if user.get("tokenFile"):
        return TokenFile(Path(str(user["tokenFile"])))
    if user.get("token"):
        return Unchanging(f"Bearer {user['token']}")
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password') or ''}"
        return Unchanging(f"Basic {base64.b64encode(pair.encode()).decode()}")
    return Unchanging(None)
