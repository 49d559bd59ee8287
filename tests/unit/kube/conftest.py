# SPDX-License-Identifier: Apache-2.0
"""A scripted server, a client for it, and a recorder of what a reflector reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kube.client import KubeClient
from kube.config import load_client
from tests.unit.kube.kube_recorder import Recorder, kubeconfig
from tests.unit.kube.kube_script import ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer, tmp_path: Path) -> KubeClient:
    return load_client(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.port}", token="secret"))


@pytest.fixture
def recorder(client: KubeClient) -> Callable[..., Recorder]:
    return lambda **options: Recorder(client, **options)
