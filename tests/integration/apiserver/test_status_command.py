# SPDX-License-Identifier: Apache-2.0
"""`clustermesh status` over a real API and a real apiserver: what it says, and what a script reads from its exit code."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

import kube.resource as k
from certs import profile
from certs.authority import Authority
from certs.store import CertFiles, encode_data, secret_data
from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_cli.commands.status import status
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import ExitCode
from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient, in_thread
from meshapi.agent import AgentStatus
from meshapi.apiserver import decode_apiserver
from meshapi.installed import CA_SECRET, CA_SUFFIX, CERTIFICATE_SECRETS, PEERS_SECRET, SERVER_SECRET, STORE_SERVICE
from meshapi.row import encode
from meshkit.answer_form import AnswerForm
from tests.integration.apiserver.apiserver_world import OWN, Pki, run_apiserver, settings, until

NAMESPACE = "kube-system"
DAY = 86_400.0


class InstalledSecrets:
    """The Secrets of an enabled cluster, each good until it is written again."""

    def __init__(self, client: KubeClient) -> None:
        self._client, self._now = client, time.time()
        for name in CERTIFICATE_SECRETS:
            self.issue(name)
        self.put_authorities(Authority.create("own", self._now), Authority.create("peer", self._now))
        port = {"name": "etcd", "port": 2379, "protocol": "TCP"}
        client.create(
            k.SERVICES,
            {"metadata": {"name": STORE_SERVICE, "namespace": NAMESPACE}, "spec": {"ports": [port]}},
        )

    def issue(self, name: str, at_s: float = 0.0) -> None:
        """A certificate of one day from `at_s` seconds from now."""
        authority = Authority.create("own", self._now - 400 * DAY)
        issued = authority.issue(replace(profile.remote(OWN), days=1), self._now + at_s)
        self._put(name, secret_data(CertFiles(authority.certificate_pem, issued.cert_pem, issued.key_pem)))

    def put_authorities(self, own: Authority, peer: Authority) -> None:
        self._put(CA_SECRET, encode_data({"ca.crt": own.certificate_pem, "ca.key": own.key_pem}))
        self._put(PEERS_SECRET, encode_data({"tion" + CA_SUFFIX: peer.certificate_pem}))

    def _put(self, name: str, data: dict[str, str]) -> None:
        secret = {"metadata": {"name": name, "namespace": NAMESPACE}, "type": "Opaque", "data": data}
        self._client.apply(k.SECRETS, {"apiVersion": "v1", "kind": "Secret", **secret})


async def run_status(client: KubeClient, apiserver: Apiserver, patch: pytest.MonkeyPatch) -> tuple[ExitCode, str]:
    """Exit code and output. The program is asked on its own socket, and one node's agent that is well is added to its answer."""
    await until(lambda: apiserver.status_port != 0)

    def ask(_self: ProgramClient, path: str) -> tuple[int, bytes]:
        transport = httpx.HTTPTransport(uds=str(apiserver.settings.status_socket))
        with httpx.Client(transport=transport, base_url="http://apiserver", timeout=10) as http:
            answer = http.get("/" + path)
            found = decode_apiserver(answer.content)
            found.agents.append(AgentStatus(node="n1", cluster=OWN, ready=True))
            return answer.status_code, encode(found)

    patch.setattr(ProgramClient, "get_apiserver", ask)
    written = io.StringIO()
    code = await in_thread(
        lambda: status(client, NAMESPACE, Console(plain=True, stream=written), AnswerForm.TABLE, wait_s=None)
    )
    return code, written.getvalue()


def failures(text: str) -> list[str]:
    return [line.removeprefix("FAIL ") for line in text.splitlines() if line.startswith("FAIL ")]


async def test_each_kind_of_certificate_that_expired_or_is_not_valid_yet_is_a_failure_with_the_command(
    client: KubeClient, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = await in_thread(InstalledSecrets, client)
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        code, text = await run_status(client, apiserver, monkeypatch)
        assert (code, failures(text)) == (ExitCode.OK, [])
        assert text.endswith("RESULT well\n")
        for name in CERTIFICATE_SECRETS:
            for at_s, words in ((-2 * DAY, " expired on 2"), (3 * DAY, " is not valid before 2")):
                await in_thread(secrets.issue, name, at_s)
                code, text = await run_status(client, apiserver, monkeypatch)
                (failure,) = failures(text)
                assert words in failure
                assert "run clustermesh certs rotate" in failure
                assert code is ExitCode.DEGRADED
            await in_thread(secrets.issue, name)
        code, _ = await run_status(client, apiserver, monkeypatch)
        assert code is ExitCode.OK


async def test_an_expired_authority_of_ours_and_of_a_peer_is_a_failure(
    client: KubeClient, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = await in_thread(InstalledSecrets, client)
    old = Authority.create("old", time.time() - 10 * DAY, days=1)
    await in_thread(secrets.put_authorities, old, old)
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        code, text = await run_status(client, apiserver, monkeypatch)
    assert code is ExitCode.DEGRADED
    own, peer = failures(text)
    assert own.startswith("authority of this cluster expired on ")
    assert peer.startswith("authority of peer tion expired on ")


async def test_a_secret_that_is_gone_is_a_failure(
    client: KubeClient, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(InstalledSecrets, client)
    await in_thread(client.delete, k.SECRETS, SERVER_SECRET, NAMESPACE)
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        code, text = await run_status(client, apiserver, monkeypatch)
    assert code is ExitCode.DEGRADED
    assert failures(text) == [f"server certificate: Secret {SERVER_SECRET} is missing: run clustermesh certs rotate"]


async def test_a_silent_store_is_a_failure(
    client: KubeClient, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(InstalledSecrets, client)
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        assert apiserver.publication is not None
        store = apiserver.publication.store
        store.problem, store.is_silent = "etcd does not answer: timeout", True
        code, text = await run_status(client, apiserver, monkeypatch)
    assert code is ExitCode.DEGRADED
    assert "store: etcd does not answer: timeout" in failures(text)


async def test_an_apiserver_that_is_not_reached_is_told_from_an_error_of_the_command(
    client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(InstalledSecrets, client)
    monkeypatch.setattr(ProgramClient, "get_apiserver", lambda _self, _path: (503, b"no endpoints available"))
    console = Console(plain=True, stream=io.StringIO())
    code = await in_thread(lambda: status(client, NAMESPACE, console, AnswerForm.TABLE, wait_s=None))
    assert code is ExitCode.DEGRADED
