# SPDX-License-Identifier: Apache-2.0
"""A running reflector and everything it has reported; a kubeconfig for any server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube.client import KubeClient
from kube.reflector import Change, Delete, Reflector, Synced, Timing, Upsert
from kube.resource import SERVICES, KubeObject

FAST = Timing(minimum_backoff_s=0.01, maximum_backoff_s=0.05, minimum_watch_s=0.01, silence_s=5.0, absent_s=0.05)


def kubeconfig(path: Path, server: str, **user: object) -> str:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "blue", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": user}],
        "contexts": [
            {"name": "kind-blue", "context": {"cluster": "blue", "user": "me"}},
            {"name": "kind-green", "context": {"cluster": "blue", "user": "me", "namespace": "shop"}},
        ],
        "current-context": "kind-blue",
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


class Recorder:
    """A running reflector and everything it has reported, as short sentences."""

    def __init__(self, client: KubeClient, **options: Any) -> None:
        options = {"strip": lambda obj: obj, "timing": FAST, **options}
        self.reflector: Reflector[KubeObject] = Reflector(client, options.pop("resource", SERVICES), **options)
        self.said: list[str] = []
        self.objects: dict[str, Any] = {}
        self.batches = 0
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Recorder:
        self.task = asyncio.create_task(self.reflector.run(self.take))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    def take(self, batch: Sequence[Change[Any]]) -> None:
        self.batches += 1
        for change in batch:
            match change:
                case Upsert(key, obj):
                    self.said.append(f"{key.removeprefix('shop/')}={_version(obj)}")
                    self.objects[key] = obj
                case Delete(key, obj):
                    self.said.append(f"{key.removeprefix('shop/')} gone")
                    self.objects.pop(key, None)
                case Synced():
                    self.said.append("synced")
        self._changed.set()

    async def until(self, holds: Callable[[], bool], limit_s: float = 5.0) -> None:
        """Waits for reports until `holds`; fails with everything that was said."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while not holds():
            if loop.time() > deadline:
                pytest.fail(f"not in {limit_s} s; said {self.said}, progress {self.reflector.progress}")
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 0.02)


def _version(obj: Any) -> str:
    return str(obj["metadata"]["resourceVersion"]) if isinstance(obj, dict) else str(obj)
