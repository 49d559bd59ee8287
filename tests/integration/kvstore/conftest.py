# SPDX-License-Identifier: Apache-2.0
"""One real etcd with users per module, and a facade in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.kvstore.facade_under_test import Facade, facade_for
from tests.integration.kvstore.private_etcd import Pki, running_etcd


@pytest_asyncio.fixture(scope="module")
async def facade(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Facade]:
    pki = Pki()
    async with running_etcd(tmp_path_factory.mktemp("etcd"), pki) as etcd, facade_for(pki, etcd) as running:
        yield running
