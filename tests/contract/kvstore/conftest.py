# SPDX-License-Identifier: Apache-2.0
"""`store` is the in-memory store and a real etcd in turn; `prefix` is the test's own corner of it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kvstore.process import EtcdProcess
from tests.contract.kvstore.stores_under_test import EtcdUnderTest, MemoryUnderTest, StoreUnderTest
from tests.integration.kvstore.private_etcd import FAST_ELECTIONS, Pki, needs_etcd

_numbers = itertools.count()


class LazyEtcd:
    """One etcd for a module's tests, started by the first that needs it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = EtcdProcess(directory, Pki().etcd, FAST_ELECTIONS)

    async def running(self) -> EtcdProcess:
        if self.process.pid is None:
            await self.process.start()
        return self.process


@pytest_asyncio.fixture(scope="module")
async def real_etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LazyEtcd]:
    etcd = LazyEtcd(tmp_path_factory.mktemp("etcd"))
    yield etcd
    await etcd.process.kill()


@pytest_asyncio.fixture(params=["memory", pytest.param("etcd", marks=needs_etcd)])
async def store(request: pytest.FixtureRequest, real_etcd: LazyEtcd) -> AsyncIterator[StoreUnderTest]:
    under_test: MemoryUnderTest | EtcdUnderTest
    if request.param == "memory":
        under_test = MemoryUnderTest()
    else:
        under_test = EtcdUnderTest(await real_etcd.running(), real_etcd.directory)
        await under_test.start()
    try:
        yield under_test
    finally:
        await under_test.close()


@pytest.fixture
def prefix() -> bytes:
    return b"cilium/state/test%d/" % next(_numbers)
