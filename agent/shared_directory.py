# SPDX-License-Identifier: Apache-2.0
"""Where this node's agent shares files with its proxies, which run as nobody."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from agent.proxy_files import ProxyFiles
from agent.settings import AgentSettings

_WAY: Final = 0o011


def proxy_files(settings: AgentSettings) -> ProxyFiles:
    """As the settings say."""
    return ProxyFiles(Path(settings.proxy_directory) if settings.proxy_directory else settings.socket.parent)


def make_enterable(directory: Path) -> None:
    """The directory is there, and whoever a proxy runs as may enter it. Raises: OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    parent = directory.parent
    parent.chmod(stat.S_IMODE(parent.stat().st_mode) | _WAY)
    directory.chmod(0o755)


def is_content(path: Path, data: bytes) -> bool:
    """Whether the file is there and holds just this."""
    try:
        return path.read_bytes() == data
    except OSError:
        return False
