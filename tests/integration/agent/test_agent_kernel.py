# SPDX-License-Identifier: Apache-2.0
"""The agent process with the real kernel: pods reach a service, a policy stops them, a killed agent changes nothing.

Each test runs inside a network namespace of its own, entered by starting pytest again under `unshare`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.datapath.attach import Attacher
from agent.datapath.features import Presence, has_tcx
from agent.datapath.kernel import kernel_maps
from agent.datapath.layout import AddressKey, IpcacheKey
from flows.client import FlowClient, ServerAccess
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from kube.client import in_thread
from kube.resource import CNP
from meshmodel import ip
from tests.integration.agent.agent_process_world import LOCAL_IDENTITY, World, world
from tests.integration.kvstore.private_etcd import needs_etcd
from tests.packet.datapath_host import bpffs, build_objects
from tests.support import record_keys
from tests.support.leftovers import own_name

pytestmark = [needs_etcd, pytest.mark.root]

INSIDE = "CLUSTERMESH_TEST_INSIDE"
NODE_IP = "172.31.77.1"
CLIENT, SERVER = "10.1.7.5", "10.1.7.6"
CLIENT6, SERVER6 = "fd00:1:7::5", "fd00:1:7::6"
VIP = "172.20.1.77"
MOUNT = Path(tempfile.gettempdir(), own_name("agent"))
PINS = MOUNT / "pins"


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(autouse=True)
def own_namespace(request: pytest.FixtureRequest) -> None:
    """Outside: run this one test again inside a new network namespace, and report what it said."""
    if os.environ.get(INSIDE):
        return
    command = ["unshare", "--net", sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:logging"]
    where = f"{Path(__file__)}::{request.node.name}"
    done = subprocess.run(
        [*command, where], env={**os.environ, INSIDE: "1"}, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        pytest.fail(done.stdout[-6000:] + done.stderr[-2000:])


@pytest.fixture
def pods() -> Iterator[dict[str, str]]:
    """A node with two pods as a CNI plugin leaves them: /32 addresses, link-local gateway, one veth each."""
    if not os.environ.get(INSIDE):
        yield {}
        return
    build_objects()
    with bpffs(MOUNT):
        yield from _pods()


def _pods() -> Iterator[dict[str, str]]:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "under0", "type", "veth", "peer", "name", "under1")
    run("ip", "link", "set", "under1", "up")
    run("ip", "addr", "add", f"{NODE_IP}/24", "dev", "under0")
    run("ip", "link", "set", "under0", "up")
    run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
    names = {CLIENT: own_name("client"), SERVER: own_name("server")}
    for number, (address, name) in enumerate(names.items()):
        run("ip", "netns", "add", name)
        host = f"lxc{number}"
        run("ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", host, "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth0", "mtu", "1450", "up")
        run("ip", "-n", name, "addr", "add", f"{address}/32", "dev", "eth0")
        mac = json.loads(run("ip", "-j", "link", "show", host))[0]["address"]
        run("ip", "-n", name, "route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
        run("ip", "-n", name, "route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
        run("ip", "-n", name, "neigh", "add", "169.254.1.1", "lladdr", mac, "dev", "eth0", "nud", "permanent")
        run("ip", "route", "add", f"{address}/32", "dev", host)
    try:
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)


@asynccontextmanager
async def mesh_on_kernel(folder: Path, *settings: str) -> AsyncIterator[World]:
    """With an agent of these further settings, and records of all addresses of both pods."""
    async with world(folder) as mesh:
        await mesh.agent.stop()
        mesh.agent.arguments += ["--datapath", "kernel", "--pin-directory", str(PINS), "--node-ip", NODE_IP, *settings]
        for address in (CLIENT, SERVER, CLIENT6, SERVER6):
            record = ip.IpRecord(
                prefix=f"{address}/{128 if ':' in address else 32}",
                identity=LOCAL_IDENTITY,  # type: ignore[arg-type]
                host_ip=NODE_IP,
                namespace="default",
                pod="client" if address in (CLIENT, CLIENT6) else "server",
            )
            await mesh.own.client.put(record_keys.ip_key("north", address), record.encode())
        await mesh.service()
        await mesh.backends(SERVER)
        await mesh.agent.start()
        try:
            await mesh.used(f"{SERVER}:8080")
            await mesh.agent.until("/v1/endpoints", lambda found: len(found) == 2 and all_enforceable(found))
            yield mesh
        finally:
            await mesh.agent.stop()
            await uninstall(mesh)


def all_enforceable(found: list[dict[str, object]]) -> bool:
    return all(endpoint["policy-revision"] is not None for endpoint in found)


async def uninstall(mesh: World) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.app", "uninstall", "--pin-directory", str(PINS), "--node-ip", NODE_IP
    )
    assert await process.wait() == 0
    assert not PINS.exists()


async def serve(namespace: str) -> asyncio.subprocess.Process:
    """An HTTP server in a pod that says its name, by either family."""
    program = "import http.server as h\nclass H(h.BaseHTTPRequestHandler):\n def do_GET(s):\n  s.send_response(200);s.end_headers();s.wfile.write(b'server')\n def log_message(s,*a):pass\nh.ThreadingHTTPServer.address_family=10;h.ThreadingHTTPServer(('::',8080),H).serve_forever()"  # noqa: E501
    return await asyncio.create_subprocess_exec("ip", "netns", "exec", namespace, sys.executable, "-c", program)


async def curl(namespace: str, limit_s: float = 1.0, url: str = f"http://{VIP}/") -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", namespace, "curl", "-s", "-m", str(limit_s), url,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.runbook("drop-policy")
async def test_a_service_is_reached_a_policy_drops_and_a_killed_agent_changes_nothing(
    tmp_path: Path, pods: dict[str, str]
) -> None:
    if not os.environ.get(INSIDE):
        return
    server = await serve(pods[SERVER])
    try:
        async with mesh_on_kernel(tmp_path) as mesh:
            for _ in range(50):
                if (await curl(pods[CLIENT]))[0] == 0:
                    break
            assert await curl(pods[CLIENT]) == (0, "server")

            assert mesh.agent.process is not None
            mesh.agent.process.send_signal(signal.SIGKILL)
            await mesh.agent.process.wait()
            assert [await curl(pods[CLIENT]) for _ in range(5)] == [(0, "server")] * 5
            await mesh.agent.start()
            answers = [await curl(pods[CLIENT]) for _ in range(20)]
            assert answers == [(0, "server")] * 20
            await mesh.agent.until("/v1/endpoints", lambda found: len(found) == 2)

            policy = {
                "metadata": {"name": "deny", "namespace": "default"},
                "spec": {"endpointSelector": {"matchLabels": {"app": "echo"}}, "ingress": [{}]},
            }
            await in_thread(mesh.kube.apply, CNP, policy)
            await mesh.agent.until("/v1/endpoints", lambda found: all(e["ingress-enforced"] for e in found))
            for _ in range(50):
                if (await curl(pods[CLIENT]))[0] == 28:
                    break
            assert (await curl(pods[CLIENT]))[0] == 28
            text = await mesh.agent.until("/v1/flows?type=drop&format=text", lambda lines: "Policy denied" in lines)
            assert "north/default/client:" in text
            assert f"north/default/server:8080 (ID:{LOCAL_IDENTITY}) Policy denied DROPPED (TCP Flags: SYN)" in text
            dropped = pb.FlowFilter(destination_pod=["default/server"], verdict=[pb.DROPPED])
            observed = FlowClient(ServerAccess(server=f"unix://{mesh.agent.folder}/flows.sock"))
            request = observer.GetFlowsRequest(number=1, whitelist=[dropped])
            (answer,) = await asyncio.to_thread(lambda: list(observed.get_flows(request)))
            assert (answer.flow.source.pod_name, answer.flow.destination.ID > 0) == ("client", True)
            assert (answer.node_name, answer.flow.l4.TCP.destination_port) == (answer.flow.node_name, 8080)
            told = observer.GetAgentEventsRequest(number=100)
            kinds = {a.agent_event.type for a in await asyncio.to_thread(lambda: list(observed.get_agent_events(told)))}
            assert kinds >= {pb.AGENT_STARTED, pb.ENDPOINT_CREATED, pb.IPCACHE_UPSERTED, pb.POLICY_UPDATED}
            observed.close()
            seen = (await mesh.agent.get("/v1/flows/connections"))["connections"]
            sides = {
                row["direction"]: row for row in seen if row["port"] == 8080 and row["destination"]["ip"] == SERVER
            }
            assert sides["ingress"]["dropped"] > 0, seen
            assert sides["egress"]["dropped"] == 0, seen
            assert sides["ingress"]["source"]["pod"] == "client"
            assert sides["ingress"]["source"]["identity"] == sides["egress"]["source"]["identity"] > 0
            assert min(row["connections"] for row in sides.values()) > 0
            code, dump = await mesh.agent.verb("bpf", "policy", "get", SERVER)
            assert code == 0, dump

            await in_thread(mesh.kube.delete, CNP, "deny", "default")
            for _ in range(50):
                if (await curl(pods[CLIENT]))[0] == 0:
                    break
            assert await curl(pods[CLIENT]) == (0, "server")
    finally:
        server.kill()
        await server.wait()


@pytest.mark.runbook("one-node")
async def test_changes_behind_the_agents_back_are_found_by_verify_and_repaired(
    tmp_path: Path, pods: dict[str, str]
) -> None:
    if not os.environ.get(INSIDE):
        return
    async with mesh_on_kernel(tmp_path) as mesh:
        assert pods
        code, text = await mesh.agent.verb("verify")
        assert code == 0, text
        maps = kernel_maps(PINS)
        maps.ipcache.delete([IpcacheKey(f"{SERVER}/32")])
        maps.members.delete([key for key, _ in maps.members.items()])
        maps.endpoints_by_address.delete([AddressKey(CLIENT)])
        code, text = await mesh.agent.verb("verify")
        assert code == 3, text
        assert f"ipcache: prefix={SERVER}/32: missing" in text
        assert f"endpoints_by_address: address={CLIENT}: missing" in text
        assert text.count("members: ") == 1
        code, text = await mesh.agent.verb("verify", "--repair")
        assert (code, text.count("repaired; it was: missing")) == (0, 3), text
        overlay = next(a for a in attacher().attachments() if a.role == "overlay")
        attacher().detach(overlay)
        for _ in range(50):
            if overlay in attacher().attachments():
                break
            await asyncio.to_thread(run, "sleep", "0.1")
        assert overlay in attacher().attachments()
        run("ip", "link", "set", "under0", "mtu", "1400")
        for _ in range(50):
            if overlay_mtu() == 1350:
                break
            await asyncio.to_thread(run, "sleep", "0.1")
        assert overlay_mtu() == 1350
        code, text = await mesh.agent.verb("verify")
        assert code == 0, text


def overlay_mtu() -> int:
    return int(json.loads(run("ip", "-j", "link", "show", "mesh0"))[0]["mtu"])


def attacher() -> Attacher:
    return Attacher(PINS / "links", use_tcx=has_tcx() is Presence.PRESENT)


def add_ipv6(pods: dict[str, str]) -> None:
    """Pods have addresses of IPv6 too, by a gateway that their neighbour discovery finds."""
    run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    for number, (name, address) in enumerate(zip(pods.values(), (CLIENT6, SERVER6), strict=True)):
        run("ip", "addr", "add", "fe80::1/64", "dev", f"lxc{number}", "nodad")
        run("ip", "route", "add", f"{address}/128", "dev", f"lxc{number}")
        run("ip", "-n", name, "addr", "add", f"{address}/128", "dev", "eth0", "nodad")
        run("ip", "-n", name, "route", "add", "default", "via", "fe80::1", "dev", "eth0")


async def test_an_agent_with_ipv6_enforces_policies_on_it_and_one_without_drops_it(
    tmp_path: Path, pods: dict[str, str]
) -> None:
    if not os.environ.get(INSIDE):
        return
    add_ipv6(pods)
    url, server = f"http://[{SERVER6}]:8080/", await serve(pods[SERVER])

    async def policy(mesh: World, port: str) -> None:
        """Every pod lets in its port alone."""
        rule = {"fromEntities": ["all"], "toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}]}
        spec = {"endpointSelector": {"matchLabels": {"app": "echo"}}, "ingress": [rule]}
        await in_thread(mesh.kube.apply, CNP, {"metadata": {"name": "in", "namespace": "default"}, "spec": spec})

    async def becomes(code: int) -> bool:
        for _ in range(50):
            if (await curl(pods[CLIENT], 0.3, url))[0] == code:
                return True
        return False

    try:
        async with mesh_on_kernel(tmp_path, "--ipv6") as mesh:
            assert await mesh.agent.until(
                "/v1/endpoints", lambda found: {a for e in found for a in e["ipv6"]} == {CLIENT6, SERVER6}
            )
            assert await becomes(0)
            await policy(mesh, "9")
            assert await becomes(28), "nothing answers"
            await policy(mesh, "8080")
            assert await becomes(0)
            await mesh.agent.stop()
            assert await becomes(0), "programs outlive the agent"
            mesh.agent.arguments.remove("--ipv6")
            await mesh.agent.start()
            await mesh.agent.until("/v1/endpoints", lambda found: len(found) == 2 and all_enforceable(found))
            assert await becomes(28), "a policy selects the pod"
            assert await curl(pods[CLIENT], url=f"http://{SERVER}:8080/") == (0, "server")
    finally:
        server.kill()
        await server.wait()
