# SPDX-License-Identifier: Apache-2.0
"""Rights that only the server can judge: nobody gives rights that they do not hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clustermesh_cli.exit_code import CommandRefusedError
from clustermesh_cli.rights_check import check_rights
from kube.client import KubeClient
from kube.config import load_client
from tests.unit.kube.kube_recorder import kubeconfig
from tests.unit.kube.kube_script import ScriptedServer, document, status

ROLE = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "agent"}, "rules": []}
REFUSED = "user me is attempting to grant RBAC permissions not currently held"
MAY: dict[str, Any] = {"status": {"allowed": True}}
REVIEWS = 10  # get, create, patch and update of Secrets; get, create and patch of ConfigMaps and of roles


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer, tmp_path: Path) -> Iterator[KubeClient]:
    made = load_client(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.port}"))
    with closing(made.transport):
        yield made


def test_a_role_that_the_server_would_not_let_us_give_is_tried_before_anything_is_written(
    server: ScriptedServer, client: KubeClient
) -> None:
    server.steps = [document(MAY, 201)] * REVIEWS + [status(404, "NotFound"), status(403, "Forbidden", REFUSED)]
    with pytest.raises(CommandRefusedError, match=f"Nothing was changed: .* rights of ClusterRole agent: {REFUSED}"):
        check_rights(client, [ROLE], "mesh")
    assert [request.query for request in server.requests[REVIEWS:]] == [{"dryRun": "All"}] * 2


def test_a_server_that_answers_no_such_question_judges_by_itself(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [status(404, "NotFound"), document(ROLE)]
    check_rights(client, [ROLE], "mesh")
    assert len(server.requests) == 2
