# SPDX-License-Identifier: Apache-2.0
"""Single requests: what is sent, what a refusal becomes, and where credentials come from."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest

from kube.client import KubeClient, in_thread
from kube.config import list_contexts, load_client
from kube.errors import (
    AlreadyExists,
    ConfigError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    ServerFailed,
    Unauthorized,
    Unreachable,
)
from kube.events import emit_event
from kube.resource import (
    CILIUM_IDENTITIES,
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    NODES,
    SECRETS,
    SERVICES,
    Resource,
    from_manifest,
)
from meshkit.errors import PermanentError, TransientError
from tests.unit.kube.kube_recorder import kubeconfig
from tests.unit.kube.kube_script import Request, ScriptedServer, document, listing, service, status


def test_a_get_carries_the_token_and_absent_is_none(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [document(service("a", 1)), status(404, "NotFound")]
    assert client.get(SERVICES, "a", "shop") == service("a", 1)
    assert client.get(SERVICES, "b", "shop") is None
    assert server.requests[0].headers["authorization"] == "Bearer secret"
    assert [request.path for request in server.requests] == [
        "/api/v1/namespaces/shop/services/a",
        "/api/v1/namespaces/shop/services/b",
    ]


def test_a_list_follows_pages_and_starts_over_when_one_expired(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [
        listing(service("a", 1), version="1", token="t"),
        status(410, "Expired"),
        listing(service("b", 2), version="2", token="u"),
        listing(service("c", 3), version="2"),
    ]
    assert [item["metadata"]["name"] for item in client.list(SERVICES, label_selector="app=x")] == ["b", "c"]
    assert {request.query["labelSelector"] for request in server.requests} == {"app=x"}


def test_apply_patches_what_is_there_and_creates_what_is_not(server: ScriptedServer, client: KubeClient) -> None:
    given = {"metadata": {"name": "c", "namespace": "shop"}, "data": {"a": "1"}}
    server.steps = [document(given), status(404, "NotFound"), document(given, 201)]
    client.apply(CONFIG_MAPS, given)
    client.apply(CONFIG_MAPS, given)
    assert [request.method for request in server.requests] == ["PATCH", "PATCH", "POST"]
    assert server.requests[0].headers["content-type"] == "application/merge-patch+json"
    assert orjson.loads(server.requests[2].body) == {"apiVersion": "v1", "kind": "ConfigMap", **given}


def test_apply_meets_another_creator_and_patches_after_all(server: ScriptedServer, client: KubeClient) -> None:
    given = {"metadata": {"name": "c", "namespace": "shop"}}
    server.steps = [status(404, "NotFound"), status(409, "AlreadyExists"), document(given)]
    client.apply(CONFIG_MAPS, given)
    assert [request.method for request in server.requests] == ["PATCH", "POST", "PATCH"]


def test_delete_says_whether_there_was_anything(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [document({"kind": "Status"}), status(404, "NotFound")]
    assert client.delete(NODES, "n1") is True
    assert client.delete(NODES, "n1") is False


def test_a_status_patch_goes_to_the_subresource(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [document({})]
    client.patch_status(SERVICES, "a", {"x": 1}, "shop")
    assert server.requests[0].path == "/api/v1/namespaces/shop/services/a/status"
    assert orjson.loads(server.requests[0].body) == {"status": {"x": 1}}


@pytest.mark.parametrize(
    ("code", "reason", "kind", "retry_helps"),
    [
        (400, "BadRequest", Invalid, False),
        (401, "Unauthorized", Unauthorized, True),
        (403, "Forbidden", Forbidden, True),
        (404, "NotFound", NotFound, False),
        (409, "Conflict", Conflict, True),
        (409, "AlreadyExists", AlreadyExists, True),
        (410, "Expired", Gone, True),
        (422, "Invalid", Invalid, False),
        (429, "TooManyRequests", ServerFailed, True),
        (503, "ServiceUnavailable", ServerFailed, True),
    ],
)
def test_every_refusal_has_its_error_and_says_whether_to_try_again(
    server: ScriptedServer, client: KubeClient, code: int, reason: str, kind: type[KubeError], retry_helps: bool
) -> None:
    server.steps = [status(code, reason, "because of this")]
    with pytest.raises(kind, match="because of this") as caught:
        client.replace(SERVICES, service("a", 1))
    assert type(caught.value) is kind
    assert caught.value.status == code
    assert isinstance(caught.value, TransientError if retry_helps else PermanentError)


def test_a_refusal_that_is_no_kubernetes_status_is_still_readable(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [document("<html>proxy says no", 502)]
    with pytest.raises(ServerFailed, match="proxy says no"):
        client.get(SERVICES, "a", "shop")


def test_an_answer_that_is_no_object_is_an_error_of_the_server(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [document([1, 2])]
    with pytest.raises(ServerFailed):
        client.get(SERVICES, "a", "shop")


@pytest.mark.parametrize("answer", [{}, {"items": None, "metadata": None}, {"items": {}, "metadata": {}}])
def test_an_object_that_is_no_list_and_no_token_is_an_error_of_the_server(
    server: ScriptedServer, client: KubeClient, answer: dict[str, object]
) -> None:
    server.steps += [document(answer), document(answer)]
    with pytest.raises(ServerFailed, match="NotAList"):
        client.list(NODES)
    with pytest.raises(ServerFailed, match="NoToken"):
        client.service_account_token("ns", "viewer", audience="a", lifetime_s=600)


def test_an_answer_that_trickles_is_given_up_when_the_time_is_over(client: KubeClient, server: ScriptedServer) -> None:
    ended = threading.Event()

    def trickle(_request: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        while not ended.wait(0.02):
            connection.sendall(b" ")

    server.steps.append(trickle)
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        client.within(0.2).get(NODES, "a")
    ended.set()


def test_headers_that_trickle_are_given_up_when_the_time_is_over(client: KubeClient, server: ScriptedServer) -> None:
    ended, whole = threading.Event(), threading.Event()

    def trickle(_request: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(200):
            if ended.wait(0.02):
                return
            connection.sendall(b"a")
        whole.set()
        connection.sendall(b"\r\nContent-Length: 2\r\n\r\n{}")

    server.steps.append(trickle)
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        client.within(0.2).get(NODES, "a")
    assert not whole.is_set()
    ended.set()


def test_no_server_is_unreachable_and_one_attempt(tmp_path: Path) -> None:
    lonely = load_client(kubeconfig(tmp_path / "c", "http://127.0.0.1:9"))
    with pytest.raises(Unreachable):
        lonely.get(SERVICES, "a", "shop")


def test_a_kept_connection_that_the_server_dropped_costs_a_read_nothing(
    server: ScriptedServer, client: KubeClient
) -> None:
    def drop(request: object, connection: object) -> None:
        connection.close()  # type: ignore[attr-defined]
        raise OSError

    server.steps = [drop, document(service("a", 1)), drop]
    assert client.get(SERVICES, "a", "shop") == service("a", 1)
    with pytest.raises(Unreachable):
        client.create(SERVICES, service("a", 1))
    assert [request.method for request in server.requests] == ["GET", "GET", "POST"]


def test_a_proxy_get_returns_any_status(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [document({"ready": False}, 503), document({})]
    assert client.service_proxy_get("kube-system", "clustermesh-apiserver", 9880, "/v1/status?nodes=true")[0] == 503
    client.pod_proxy_get("kube-system", "p", 9879, "v1/status")
    assert server.requests[0].path == (
        "/api/v1/namespaces/kube-system/services/clustermesh-apiserver:9880/proxy/v1/status"
    )
    assert server.requests[0].query == {"nodes": "true"}
    assert server.requests[1].path == "/api/v1/namespaces/kube-system/pods/p:9879/proxy/v1/status"


def test_discovery_tells_whether_a_kind_is_served(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [document({"resources": [{"name": "ciliumidentities"}]}), status(404, "NotFound")]
    assert client.has(CILIUM_IDENTITIES)
    assert not client.has(CILIUM_IDENTITIES)


async def test_a_call_in_a_thread_gives_its_result_and_its_error(server: ScriptedServer, client: KubeClient) -> None:
    server.steps = [document(service("a", 1)), status(403, "Forbidden")]
    assert await in_thread(client.get, SERVICES, "a", "shop") == service("a", 1)
    with pytest.raises(Forbidden):
        await in_thread(client.get, SERVICES, "a", "shop")


def test_contexts_are_listed_and_one_can_be_chosen(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "c", "https://127.0.0.1:6443")
    assert [(c.name, c.namespace, c.current) for c in list_contexts(path)] == [
        ("kind-blue", "default", True),
        ("kind-green", "shop", False),
    ]
    assert load_client(path).context == "kind-blue"
    assert load_client(path, "kind-green").context == "kind-green"


@pytest.mark.parametrize("content", ["", "][", "just text", "{}"])
def test_an_unusable_kubeconfig_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c"
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        load_client(str(path))


def test_an_unknown_context_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind-pink"):
        load_client(kubeconfig(tmp_path / "c", "https://127.0.0.1:6443"), "kind-pink")


def test_a_proxy_in_the_environment_does_not_capture_loopback(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.steps = [document(service("a", 1))]
    client = load_client(kubeconfig(tmp_path / "c", f"http://127.0.0.1:{server.port}"))
    assert client.get(SERVICES, "a", "shop") is not None


@pytest.mark.parametrize(
    ("api_version", "kind", "expected"),
    [
        ("v1", "Secret", SECRETS),
        ("discovery.k8s.io/v1", "EndpointSlice", ENDPOINT_SLICES),
        ("cilium.io/v2", "CiliumIdentity", CILIUM_IDENTITIES),
        ("example.org/v1", "Policy", Resource("example.org", "v1", "policies", "Policy", namespaced=False)),
        ("example.org/v1", "Mesh", Resource("example.org", "v1", "meshes", "Mesh", namespaced=False)),
        ("example.org/v1", "Gateway", Resource("example.org", "v1", "gateways", "Gateway", namespaced=False)),
    ],
)
def test_a_manifest_says_where_it_lives(api_version: str, kind: str, expected: Resource) -> None:
    assert from_manifest({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}}) == expected


def test_a_manifest_without_a_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind"):
        from_manifest({"metadata": {}})


def test_an_event_is_created_once_and_then_renewed(server: ScriptedServer, client: KubeClient) -> None:
    target = {**service("a", 1, uid="u1"), "kind": "Service", "apiVersion": "v1"}
    server.steps = [document({}, 201), status(409, "AlreadyExists"), document({})]
    emit_event(
        client, target, "BadAnnotation", "unknown affinity", wall_s=1_800_000_000.0, component="clustermesh-apiserver"
    )
    emit_event(
        client, target, "BadAnnotation", "unknown affinity", wall_s=1_800_000_000.0, component="clustermesh-apiserver"
    )
    created = orjson.loads(server.requests[0].body)
    assert created["involvedObject"]["uid"] == "u1"
    assert (created["type"], created["count"], created["reason"]) == ("Warning", 1, "BadAnnotation")
    assert [request.method for request in server.requests] == ["POST", "POST", "PATCH"]
    assert server.requests[2].path.rsplit("/", 1)[1] == created["metadata"]["name"]


def test_importing_the_package_does_not_import_kubernetes() -> None:
    """The heavy package is paid for only by who makes a client."""
    code = "import kube.config, kube.client, kube.reflector, kube.events, sys; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
