# SPDX-License-Identifier: Apache-2.0
"""What a kubeconfig may say, and what is done with it: lists of files, every kind of credential, TLS names and proxies."""

from __future__ import annotations

import base64
import http.server
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from certs.authority import Authority
from certs.profile import Profile
from kube.config import SERVICE_ACCOUNT, load_client
from kube.errors import ConfigError, Unauthorized, Unreachable
from kube.exec_plugin import ExecPlugin
from kube.kubeconfig import read_kubeconfig
from kube.proxy import choose_proxy
from kube.resource import SERVICES
from meshkit.clock import ManualClock, SystemClock
from tests.unit.kube.kube_recorder import kubeconfig
from tests.unit.kube.kube_script import ScriptedServer, document, service, status, watch


def write(path: Path, **parts: Any) -> Path:
    """A kubeconfig with one cluster, user and context, all named as the file, changed by `parts`."""
    name = path.stem
    cluster = {"server": "http://127.0.0.1:9", **parts.pop("cluster", {})}
    found = {
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": parts.pop("user", {})}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    path.write_text(yaml.safe_dump({**found, **parts}))
    return path


def sent_authorization(server: ScriptedServer, folder: Path, **user: object) -> str | None:
    """The header that a request carries for this user."""
    server.steps = [document(service("a", 1))]
    load_client(kubeconfig(folder / "config", f"http://127.0.0.1:{server.port}", **user)).get(SERVICES, "a", "shop")
    return server.requests[-1].headers.get("authorization")


@pytest.mark.parametrize(("text", "said"), [("y", "true"), ("no", "false"), ("12", "12")])
def test_a_name_that_yaml_does_not_read_as_text_is_refused_as_kubectl_does(
    tmp_path: Path, text: str, said: str
) -> None:
    path = write(tmp_path / "one")
    whole = path.read_text()
    for line, what in (("user: one", "context one has user"), ("current-context: one", "it has current-context")):
        path.write_text(whole.replace(line, line.replace("one", text)))
        with pytest.raises(ConfigError, match=f"{what} {said}, which is no text: write it in quotes"):
            read_kubeconfig(str(path))
        path.write_text(whole.replace("one", f"'{text}'"))
        assert read_kubeconfig(str(path)).choose(None).context == text


def test_of_a_list_the_first_file_that_says_it_wins_and_absent_ones_are_left_out(tmp_path: Path) -> None:
    one = write(tmp_path / "one")
    two = write(tmp_path / "two", contexts=[{"name": "one", "context": {"cluster": "nowhere"}}])
    listed = os.pathsep.join(str(path) for path in (tmp_path / "absent", one, two))
    found = read_kubeconfig(listed)
    assert (found.current, [context.name for context in found.contexts()]) == ("one", ["one"])
    assert found.choose(None).cluster["server"] == "http://127.0.0.1:9"
    assert load_client(listed).context == "one"


def test_the_list_may_stand_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{write(tmp_path / 'one')}{os.pathsep}{write(tmp_path / 'two')}")
    assert [context.name for context in read_kubeconfig(None).contexts()] == ["one", "two"]
    assert load_client(None, "two").context == "two"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"current-context": ""}, "no current-context is set"),
        ({"clusters": []}, "there is no cluster 'c'"),
        ({"users": []}, "there is no user 'c'"),
        ({"cluster": {"server": ""}}, "has no server"),
        ({"users": ["me"]}, "an entry of users"),
        ({"clusters": {"c": {}}}, "clusters is no list"),
        ({"cluster": {"certificate-authority": "absent.pem"}}, "absent.pem"),
        ({"cluster": {"certificate-authority-data": "bm8="}}, "certificates cannot be used"),
        ({"user": {"client-certificate-data": "bm8=", "client-key-data": "bm8="}}, "certificates cannot be used"),
        ({"user": {"exec": {"apiVersion": "v0", "command": "x"}}}, "its apiVersion 'v0'"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_client(str(write(tmp_path / "c", **parts)))


def test_no_file_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.*no such file"):
        load_client(str(tmp_path / "absent"))


def test_a_token_file_stands_before_a_token_and_that_before_a_password(server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    assert sent_authorization(server, tmp_path, tokenFile="token", token="t") == "Bearer from-file"
    assert sent_authorization(server, tmp_path, token="t", username="u", password="p") == "Bearer t"
    basic = base64.b64encode(b"u:p").decode()
    assert sent_authorization(server, tmp_path, username="u", password="p") == f"Basic {basic}"
    assert sent_authorization(server, tmp_path) is None


def test_a_token_file_that_is_gone_is_named_with_the_request(server: ScriptedServer, tmp_path: Path) -> None:
    with pytest.raises(Unauthorized, match="token file"):
        sent_authorization(server, tmp_path, tokenFile="absent")


def test_a_token_file_is_read_anew_once_its_token_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    """Also before the minute is over, for requests that may not be done twice, and for streams."""
    (tmp_path / "token").write_text("old")
    config = kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.port}", tokenFile="token")
    client = load_client(config)
    server.steps = [document(service("a", 1)), status(401, "Unauthorized"), document(service("b", 2), 201)]
    client.get(SERVICES, "a", "shop")
    (tmp_path / "token").write_text("new")
    assert client.create(SERVICES, service("b", 0)) == service("b", 2)
    (tmp_path / "token").write_text("newer")
    server.steps = [status(401, "Unauthorized"), watch(end="hold")]
    client.transport.stream("/api/v1/services", query={"watch": True}, read_timeout_s=5).close()
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == [f"Bearer {token}" for token in ("old", "old", "new", "new", "newer")]


def test_the_same_token_is_not_tried_twice(server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    client = load_client(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.port}", tokenFile="token"))
    server.steps = [status(401, "Unauthorized")] * 2
    with pytest.raises(Unauthorized):
        client.get(SERVICES, "a", "shop")
    assert len(server.requests) == 1


def test_what_a_program_behind_the_server_refuses_costs_no_new_credentials(
    server: ScriptedServer, tmp_path: Path
) -> None:
    client = load_client(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.port}", exec=plugin_spec(tmp_path)))
    server.steps = [status(401, "Unauthorized")]
    assert client.pod_proxy_get("kube-system", "p", 9879, "v1/status", headers={"X-Token": "t"})[0] == 401
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


def test_a_plugin_is_asked_again_once_its_token_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    client = load_client(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.port}", exec=plugin_spec(tmp_path)))
    server.steps = [status(401, "Unauthorized"), document(service("a", 1))]
    assert client.get(SERVICES, "a", "shop") == service("a", 1)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer t1", "Bearer t2"]


PLUGIN = """
import json, os, sys
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
with open(sys.argv[1], "a") as file:
    print(json.dumps([info, os.environ.get("GIVEN")]), file=file)
ends = {"expirationTimestamp": sys.argv[2]} if len(sys.argv) > 2 else {}
count = len(open(sys.argv[1]).readlines())
print(json.dumps({"apiVersion": info["apiVersion"], "kind": "ExecCredential", "status": {"token": f"t{count}", **ends}}))
"""


def plugin_spec(folder: Path, *args: str, **extra: Any) -> dict[str, Any]:
    (folder / "plugin.py").write_text(PLUGIN)
    words = [str(folder / "plugin.py"), str(folder / "asked"), *args]
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": words, **extra}


def test_a_plugin_is_told_what_it_may_know_and_asked_once(server: ScriptedServer, tmp_path: Path) -> None:
    spec = plugin_spec(
        tmp_path, env=[{"name": "GIVEN", "value": "x"}], provideClusterInfo=True, interactiveMode="Never"
    )
    assert sent_authorization(server, tmp_path, exec=spec) == "Bearer t1"
    (line,) = (tmp_path / "asked").read_text().splitlines()
    info, given = orjson.loads(line)
    assert (info["spec"]["interactive"], given) == (False, "x")
    assert info["spec"]["cluster"]["server"] == f"http://127.0.0.1:{server.port}"


def test_a_plugin_is_asked_again_when_its_token_has_ended(tmp_path: Path) -> None:
    clock = ManualClock()
    plugin = ExecPlugin(plugin_spec(tmp_path, "2027-01-15T09:00:00.123456789Z"), tmp_path, {}, clock)
    assert [plugin.authorization(), plugin.authorization()] == ["Bearer t1", "Bearer t1"]
    clock.advance(3600)
    assert plugin.authorization() == "Bearer t2"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit(3)", "ended with code 3"),
        ("print('hello')", "no ExecCredential"),
        ('print(\'{"apiVersion": "client.authentication.k8s.io/v1", "status": {}}\')', "neither a token"),
        ('print(\'{"apiVersion": "v9", "status": {}}\')', "it answers in v9"),
    ],
)
def test_a_plugin_that_fails_is_named(tmp_path: Path, code: str, said: str) -> None:
    spec = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", code]}
    with pytest.raises(ConfigError, match=said):
        load_client(str(write(tmp_path / "c", user={"exec": spec})))


def test_a_plugin_that_is_absent_says_how_to_install_it_and_is_sought_beside_the_file(tmp_path: Path) -> None:
    spec = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./absent", "installHint": "get it there"}
    with pytest.raises(ConfigError, match="get it there"):
        load_client(str(write(tmp_path / "c", user={"exec": spec})))
    script = tmp_path / "here"
    script.write_text(f"#!{sys.executable}\n{PLUGIN}")
    script.chmod(0o700)
    spec = {**plugin_spec(tmp_path), "command": "./here", "args": [str(tmp_path / "asked")]}
    load_client(str(write(tmp_path / "c", user={"exec": spec})))
    assert (tmp_path / "asked").exists()


def server_context(folder: Path, authority: Authority, name: str) -> ssl.SSLContext:
    """TLS as a server that proves `name`, and asks clients who they are."""
    issued = authority.issue(Profile("server", (name,), (), is_server=True), SystemClock().wall())
    (folder / "server.pem").write_bytes(issued.cert_pem + issued.key_pem)
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("test", SystemClock().wall())


@pytest.fixture
def tls_port(tmp_path: Path, authority: Authority) -> Iterator[int]:
    """A server that proves to be api.mesh and says by which name the client proves itself."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            subject = dict(pair for (pair,) in (self.connection.getpeercert() or {}).get("subject", ()))  # type: ignore[attr-defined]
            body = orjson.dumps({"metadata": {"name": subject.get("commonName", "nobody")}})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = server_context(tmp_path, authority, "api.mesh").wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def asked_as(path: Path) -> str:
    found = load_client(str(path)).get(SERVICES, "a", "shop")
    assert found is not None
    return str(found["metadata"]["name"])


def test_tls_proves_the_server_by_another_name_and_the_client_by_its_certificate(
    tmp_path: Path, tls_port: int, authority: Authority
) -> None:
    server = {"server": f"https://127.0.0.1:{tls_port}", "certificate-authority": "ca.pem"}
    named = {**server, "tls-server-name": "api.mesh"}
    issued = authority.issue(Profile("someone", (), (), is_server=False), SystemClock().wall())
    (tmp_path / "cert.pem").write_bytes(issued.cert_pem)
    (tmp_path / "key.pem").write_bytes(issued.key_pem)
    as_data = {
        "client-certificate-data": base64.b64encode(issued.cert_pem).decode(),
        "client-key-data": base64.b64encode(issued.key_pem).decode(),
    }
    before = set(tmp_path.iterdir())
    assert asked_as(write(tmp_path / "c", cluster=named)) == "nobody"
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        asked_as(write(tmp_path / "c", cluster=server))
    user = {"client-certificate": "cert.pem", "client-key": "key.pem"}
    assert asked_as(write(tmp_path / "c", cluster=named, user=user)) == "someone"
    assert asked_as(write(tmp_path / "c", cluster=named, user=as_data)) == "someone"
    given = {"clientCertificateData": issued.cert_pem.decode(), "clientKeyData": issued.key_pem.decode()}
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "status": given}
    code = f"print({orjson.dumps(answer).decode()!r})"
    spec = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", code]}
    assert asked_as(write(tmp_path / "c", cluster=named, user={"exec": spec})) == "someone"
    assert set(tmp_path.iterdir()) - before == {tmp_path / "c"}, "no key is left in a file"


def test_an_unknown_authority_is_refused_unless_the_user_says_so(tmp_path: Path, tls_port: int) -> None:
    server = {"server": f"https://127.0.0.1:{tls_port}"}
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        asked_as(write(tmp_path / "c", cluster=server))
    assert asked_as(write(tmp_path / "c", cluster={**server, "insecure-skip-tls-verify": True})) == "nobody"


def test_a_proxy_of_the_kubeconfig_is_asked_with_its_password(server: ScriptedServer, tmp_path: Path) -> None:
    server.steps = [document(service("a", 1))]
    cluster = {"server": "http://api.mesh:8080", "proxy-url": f"http://u:p@127.0.0.1:{server.port}"}
    assert asked_as(write(tmp_path / "c", cluster=cluster)) == "a"
    assert server.requests[0].headers["host"] == "api.mesh:8080"
    assert server.requests[0].headers["proxy-authorization"] == f"Basic {base64.b64encode(b'u:p').decode()}"


@pytest.mark.parametrize(
    ("server", "configured", "environ", "chosen"),
    [
        ("https://api.mesh:6443", "", {}, None),
        ("https://api.mesh:6443", "http://c:1", {"HTTPS_PROXY": "http://e:1"}, "http://c:1"),
        ("https://api.mesh:6443", "", {"HTTPS_PROXY": "http://e:1"}, "http://e:1"),
        ("https://api.mesh:6443", "", {"https_proxy": "e:1"}, "http://e:1"),
        ("https://api.mesh:6443", "", {"all_proxy": "socks5://e:1"}, "socks5://e:1"),
        ("https://api.mesh:6443", "", {"HTTP_PROXY": "http://e:1"}, None),
        ("https://127.0.0.1:6443", "http://c:1", {}, None),
        ("https://localhost:6443", "", {"HTTPS_PROXY": "http://e:1"}, None),
        ("https://[::1]:6443", "", {"HTTPS_PROXY": "http://e:1"}, None),
        ("https://api.mesh:6443", "", {"HTTPS_PROXY": "http://e:1", "NO_PROXY": "a, .mesh"}, None),
        ("https://api.mesh:6443", "", {"HTTPS_PROXY": "http://e:1", "NO_PROXY": "api.mesh:6443"}, None),
        ("https://api.mesh:6443", "", {"HTTPS_PROXY": "http://e:1", "NO_PROXY": "api.mesh:443"}, "http://e:1"),
        ("https://10.1.2.3", "", {"HTTPS_PROXY": "http://e:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://[fd00::1]", "", {"HTTPS_PROXY": "http://e:1", "NO_PROXY": "fd00::/8"}, None),
        ("https://api.mesh", "", {"HTTPS_PROXY": "http://e:1", "NO_PROXY": "*"}, None),
        ("https://api.mesh", "", {"HTTPS_PROXY": "http://e:1", "NO_PROXY": "sh"}, "http://e:1"),
    ],
)
def test_which_proxy_stands_between(server: str, configured: str, environ: dict[str, str], chosen: str | None) -> None:
    assert choose_proxy(server, configured, environ) == chosen


def test_a_pod_uses_its_service_account(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("mine")
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem)
    assert str(SERVICE_ACCOUNT).startswith("/var/run/secrets")
    monkeypatch.setattr("kube.config.SERVICE_ACCOUNT", tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    client = load_client()
    assert (client.context, client.server) == ("in-cluster", "https://[fd00::1]:6443")
    (tmp_path / "ca.crt").write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        load_client()


def test_the_library_is_loaded_for_who_needs_it_only(tmp_path: Path) -> None:
    code = (
        "import sys; from kube.config import load_client; load_client(sys.argv[1]); print('kubernetes' in sys.modules)"
    )
    oidc = {"auth-provider": {"name": "oidc", "config": {"id-token": "a.b.c"}}}
    for user, loaded in (({"token": "t"}, "False"), (oidc, "True")):
        path = str(write(tmp_path / "c", user=user))
        ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
        assert ended.stdout.strip() == loaded, ended.stderr
