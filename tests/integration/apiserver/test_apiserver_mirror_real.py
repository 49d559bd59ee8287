# SPDX-License-Identifier: Apache-2.0
"""One cluster's publisher mirrored by another's, over mTLS, with two real etcds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from certs import profile
from kube.client import KubeClient
from meshapi.trial import TrialOutcome, Trials, TrialStep
from meshkit.answer_form import AnswerForm
from meshpeer.troubleshoot import Limits, troubleshoot
from tests.integration.apiserver.apiserver_world import (
    OWN,
    PEER,
    Pki,
    all_keys,
    connect,
    run_apiserver,
    serve_kubernetes,
    settings,
    until,
)
from tests.integration.apiserver.workloads import Workloads


async def test_a_peers_records_arrive_in_our_own_store_and_follow(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    workloads.namespace("shop")
    workloads.node("n1", "172.18.0.3", "10.1.1.0/24")
    workloads.service("cart", annotations={"service.cilium.io/global": "true"})
    workloads.pod("cart-1", "10.1.1.7", app="cart")
    ours = tmp_path / "tion"
    own = Pki(ours)  # the names of its directories serve; its cluster is called tion below
    async with (
        run_apiserver(client, settings(tmp_path)) as koornacht,
        connect(koornacht, pki.peer_tls()) as source,
    ):
        await asyncio.to_thread(write_peer, ours / "mirror", pki, koornacht.facade_server.port)
        ours_settings = settings(ours, cluster_name=PEER, cluster_id=2, mirror=True, mirror_config_dir=ours / "mirror")
        (ours / "kubernetes").mkdir()
        async with (
            serve_kubernetes(ours / "kubernetes") as (_, other_client),
            run_apiserver(other_client, ours_settings) as tion,
        ):
            await until(lambda: bool(tion.peers()) and tion.peers()[0].ready, why=tion.peers)
            reader_tls = own.tls(own.own, profile.local(PEER))
            async with connect(tion, reader_tls) as reader:
                published = await all_keys(source, b"cilium/state/")
                cached = await all_keys(reader, b"cilium/cache/")
                assert sorted(cached.values()) == sorted(published.values())
                assert b"cilium/cache/services/v1/koornacht/shop/cart" in cached
                assert b"cilium/cache/ip/v1/koornacht/10.1.1.7" in cached
                config = await reader.get(b"cilium/cluster-config/koornacht")
                assert config is not None
                assert b'"cached":true' in config.value
                workloads.slice("cart", "10.1.1.7")
                for _ in range(500):
                    now = await reader.get(b"cilium/cache/services/v1/koornacht/shop/cart")
                    if now is not None and b"10.1.1.7" in now.value:
                        break
                    await asyncio.sleep(0.01)
                else:
                    raise AssertionError("the change did not arrive")


async def test_troubleshooting_goes_every_step_of_a_connection_that_works(
    client: KubeClient, pki: Pki, tmp_path: Path
) -> None:
    async with run_apiserver(client, settings(tmp_path)) as koornacht:
        port = koornacht.facade_server.port
        await asyncio.to_thread(write_peer, tmp_path / "mirror", pki, port)
        for _ in range(100):
            code, trials = await asyncio.to_thread(tried, tmp_path / "mirror")
            if code == 0:
                break
            await asyncio.sleep(0.05)
        (peer,) = trials.peers
        (endpoint,) = peer.endpoints
        assert (code, trials.works, peer.works, endpoint.url) == (
            0, True, True, f"https://{OWN}.mesh.cilium.io:{port}",
        ), peer  # fmt: skip
        every = [*endpoint.findings, *peer.certificates, *peer.store]
        assert [found.step for found in every] == [step for step in TrialStep if step is not TrialStep.READ]
        assert TrialOutcome.FAIL not in {found.outcome for found in every}


def tried(directory: Path) -> tuple[int, Trials]:
    """What troubleshooting says, as a document."""
    said: list[str] = []
    code = troubleshoot(directory, [OWN], Limits(5.0, lambda _host: None), AnswerForm.JSON, said.append)
    return code, msgspec.json.decode("".join(said), type=Trials)


def write_peer(directory: Path, pki: Pki, port: int) -> None:
    """The connection file of koornacht, as the command writes it for agents."""
    directory.mkdir()
    tls = pki.peer_tls()
    for name, content in (("ca.crt", tls.ca), ("tls.crt", tls.cert), ("tls.key", tls.key)):
        (directory / name).write_bytes(content)
    (directory / OWN).write_text(
        f"endpoints: ['https://{OWN}.mesh.cilium.io:{port}']\n"
        f"trusted-ca-file: {directory}/ca.crt\ncert-file: {directory}/tls.crt\nkey-file: {directory}/tls.key\n"
        f"cilium-host-aliases: [{{hostname: {OWN}.mesh.cilium.io, ips: [127.0.0.1]}}]\n"
    )
