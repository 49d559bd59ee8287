# SPDX-License-Identifier: Apache-2.0
"""A server closes kept connections when it likes: what is sent again then, what never, and what a POST is trusted to."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import yaml

from certs import profile
from certs.authority import Authority
from kube import kept_connection
from kube.client import KubeClient
from kube.config import load_client
from kube.errors import Unreachable
from kube.resource import CONFIG_MAPS
from tests.unit.kube.kube_recorder import kubeconfig
from tests.unit.kube.kube_script import ScriptedServer, document, status, vanish

GIVEN = {"metadata": {"name": "c", "namespace": "shop", "resourceVersion": "7"}, "data": {"a": "1"}}
WRITES: dict[str, Callable[[KubeClient], object]] = {
    "PATCH": lambda client: client.patch_merge(CONFIG_MAPS, "c", GIVEN, "shop"),
    "PUT": lambda client: client.replace(CONFIG_MAPS, GIVEN),
    "DELETE": lambda client: client.delete(CONFIG_MAPS, "c", "shop"),
}
FOUND = document(GIVEN)


@pytest.fixture(params=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScriptedServer]:
    tls = _server_context(tmp_path) if request.param == "tls" else None
    with ScriptedServer(tls=tls) as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer, tmp_path: Path) -> KubeClient:
    scheme = "http" if server.tls is None else "https"
    path = Path(kubeconfig(tmp_path / "config", f"{scheme}://127.0.0.1:{server.port}"))
    described = yaml.safe_load(path.read_text())
    described["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
    path.write_text(yaml.safe_dump(described))
    return load_client(str(path))


def _server_context(folder: Path) -> ssl.SSLContext:
    made = Authority.create("mesh CA", time.time(), 1).issue(profile.server("north", "kube-system"), time.time())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (folder / "both.pem").write_bytes(made.cert_pem + made.key_pem)
    context.load_cert_chain(folder / "both.pem")
    return context


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("method", WRITES)
def test_what_may_be_done_twice_is_sent_again_whole_where_a_kept_connection_ended(
    server: ScriptedServer, client: KubeClient, method: str, how: str
) -> None:
    server.steps = [FOUND, vanish(how), FOUND]
    client.get(CONFIG_MAPS, "c", "shop")
    WRITES[method](client)
    _, first, second = server.requests
    assert (first.method, server.connections) == (method, 2)
    assert (first.path, first.body, first.headers) == (second.path, second.body, second.headers)


@pytest.mark.parametrize("method", WRITES)
def test_a_write_that_fails_on_a_new_connection_is_told(
    server: ScriptedServer, client: KubeClient, method: str
) -> None:
    server.steps = [vanish("close"), FOUND]
    with pytest.raises(Unreachable):
        WRITES[method](client)
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", WRITES)
def test_a_write_whose_answer_began_is_told(server: ScriptedServer, client: KubeClient, method: str) -> None:
    server.steps = [FOUND, vanish("half"), FOUND]
    client.get(CONFIG_MAPS, "c", "shop")
    with pytest.raises(Unreachable):
        WRITES[method](client)
    assert len(server.requests) == 2


def test_only_one_connection_is_forgiven(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [FOUND, vanish("close"), vanish("close"), FOUND]
    client.get(CONFIG_MAPS, "c", "shop")
    with pytest.raises(Unreachable):
        WRITES["PUT"](client)
    assert len(server.requests) == 3


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_repeated_write_in_conflict_may_be_in_conflict_with_itself(
    server: ScriptedServer, client: KubeClient, method: str
) -> None:
    server.steps = [FOUND, vanish("close"), status(409, "Conflict")]
    client.get(CONFIG_MAPS, "c", "shop")
    with pytest.raises(Unreachable):
        WRITES[method](client)


def test_a_repetition_takes_no_other_kept_connection(server: ScriptedServer, client: KubeClient) -> None:
    both = Barrier(2)

    def together(request: object, connection: object) -> None:
        both.wait(30)
        FOUND(request, connection)  # type: ignore[arg-type]

    server.steps = [together, together, vanish("close"), FOUND]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: client.get(CONFIG_MAPS, "c", "shop"), range(2)))
    assert server.connections == 2
    WRITES["PUT"](client)
    assert server.connections == 3


def test_a_post_is_never_sent_twice(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [FOUND, vanish("close"), FOUND]
    client.get(CONFIG_MAPS, "c", "shop")
    with pytest.raises(Unreachable):
        client.create(CONFIG_MAPS, GIVEN)
    assert [request.method for request in server.requests] == ["GET", "POST"]


def test_posts_share_a_connection_that_was_heard_just_now_and_others_none_that_was_silent(
    server: ScriptedServer, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.steps = [FOUND, *[document(GIVEN, 201)] * 4, FOUND]
    client.get(CONFIG_MAPS, "c", "shop")
    for _ in range(2):
        client.create(CONFIG_MAPS, GIVEN)
    assert server.connections == 1
    monkeypatch.setattr(kept_connection, "KEPT_FOR_POST_S", -1.0)
    for _ in range(2):
        client.create(CONFIG_MAPS, GIVEN)
    assert server.connections == 3
    client.get(CONFIG_MAPS, "c", "shop")
    assert server.connections == 3, "others use what is kept, however long it was silent"
