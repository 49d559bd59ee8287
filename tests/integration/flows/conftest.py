# SPDX-License-Identifier: Apache-2.0
"""The observer that these tests ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.flows.flow_world import FlowWorld


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[FlowWorld]:
    made = FlowWorld(tmp_path)
    await made.server.start()
    yield made
    await made.channel.close()
    await made.server.stop()
