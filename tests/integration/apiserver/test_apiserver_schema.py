# SPDX-License-Identifier: Apache-2.0
"""The apiserver answers whatever is asked as its OpenAPI document says, and without a fault."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kube.client import KubeClient
from tests.integration.apiserver.apiserver_world import Pki, run_apiserver, settings, until
from tests.support.schema_probe import probe_schema


async def test_every_answer_is_as_the_document_says(client: KubeClient, pki: Pki, tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    async with run_apiserver(client, chosen) as apiserver:
        await until(lambda: apiserver.status_port != 0)
        asked = await asyncio.to_thread(probe_schema, chosen.status_socket, count=8)
    assert {"/healthz", "/metrics", "/v1/status", "/v1/kv", "/v1/kv/get", "/v1/reach"} <= asked
    assert "/v1/kv/watch" not in asked, "it never ends"
