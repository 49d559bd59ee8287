# SPDX-License-Identifier: Apache-2.0
"""The agent answers whatever is asked as its OpenAPI document says, and without a fault."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.agent.agent_process_world import world
from tests.integration.kvstore.private_etcd import needs_etcd
from tests.support.schema_probe import probe_schema

pytestmark = needs_etcd


async def test_every_answer_is_as_the_document_says(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        await mesh.connect()
        await mesh.agent.until("/readyz", lambda text: text.startswith("Ready"))
        asked = await asyncio.to_thread(probe_schema, mesh.agent.folder / "agent.sock", count=5)
    assert {"/healthz", "/metrics", "/v1/status", "/v1/clusters/{name}", "/v1/services/{namespace}/{name}"} <= asked
    assert "/v1/flows" not in asked, "it may never end"
