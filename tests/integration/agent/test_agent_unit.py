# SPDX-License-Identifier: Apache-2.0
"""The systemd units of a node that no kubelet manages: what they start becomes ready with the rights that they leave it."""

from __future__ import annotations

import asyncio
import configparser
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.integration.agent.agent_process_world import REPOSITORY, Agent, world
from tests.integration.kvstore.private_etcd import needs_etcd
from tests.packet.datapath_host import bpffs, build_objects

UNITS = REPOSITORY / "deploy/systemd"
INSTALLED = "/opt/clustermesh/bin/"
INSIDE = "CLUSTERMESH_TEST_INSIDE"
NODE_IP = "172.31.78.1"


def unit(program: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names of options have capitals
    parser.read(UNITS / f"clustermesh-{program}.service")
    return parser["Service"]


@pytest.mark.parametrize("program", ["agent", "proxies"])
def test_a_unit_has_the_capabilities_of_the_manifest(program: str) -> None:
    manifest = yaml.safe_load((REPOSITORY / f"deploy/manifests/{program}.yaml").read_text().replace("${", "{"))
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    added = {f"CAP_{name}" for name in container["securityContext"]["capabilities"]["add"]}
    assert set(unit(program)["CapabilityBoundingSet"].split()) == added


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for path in UNITS.glob("*.service"):
        text = path.read_text().replace(INSTALLED, f"{Path(sys.executable).parent}/")
        (tmp_path / path.name).write_text(text)
    words = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("*.service")))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


class UnitAgent(Agent):
    """The agent as its unit starts it: the command of the unit, under the unit's bounds."""

    async def start(self) -> None:
        service = unit("agent")
        program, *words = service["ExecStart"].split()
        kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in service["CapabilityBoundingSet"].split())
        assert service["NoNewPrivileges"] == "yes"
        bounds = ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs", "--"]
        own = [f"--config={self.folder}/agent.yaml" if word.startswith("--config=") else word for word in words]
        await self._run([*bounds, str(Path(sys.executable).parent / Path(program).name), *own])

    async def _run(self, command: Sequence[str]) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, "--port", str(self.port), "--socket", str(self.folder / "agent.sock"), "--probe-port", "0",
                stderr=log, cwd="/",
            )  # fmt: skip


@pytest.fixture
def machine() -> bool:
    """Inside: a network of its own with the node's device. Outside, where it is false, the test is run again inside."""
    if os.environ.get(INSIDE):
        build_objects()
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "add", "under0", "type", "veth", "peer", "name", "under1"),
            ("link", "set", "under1", "up"),
            ("addr", "add", f"{NODE_IP}/24", "dev", "under0"),
            ("link", "set", "under0", "up"),
        ):
            subprocess.run(["ip", *words], check=True, capture_output=True)
        return True
    test = f"{Path(__file__)}::{test_the_agent_of_the_unit_becomes_ready_without_kubernetes.__name__}"
    words = ["unshare", "--net", sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:logging", test]
    environment = {**os.environ, INSIDE: "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return False


@needs_etcd
@pytest.mark.root
async def test_the_agent_of_the_unit_becomes_ready_without_kubernetes(machine: bool, tmp_path: Path) -> None:
    if not machine:
        return
    with bpffs(tmp_path / "bpf") as pins:
        async with world(tmp_path) as mesh:
            await mesh.agent.stop()
            settings = yaml.safe_load((UNITS / "agent.yaml").read_text())
            assert settings["kubeconfig"] == "none"
            places = {
                "node-ip": NODE_IP, "local-etcd-config": str(tmp_path / "own.yaml"), "clustermesh-config": str(mesh.peers),
                "control-group": "none", "pin-directory": str(pins / "unit"),
            }  # fmt: skip
            (tmp_path / "agent.yaml").write_text(yaml.safe_dump({**settings, **places}))
            agent = UnitAgent(tmp_path, [])
            await agent.start()
            try:
                await mesh.connect()
                status = await agent.until("/v1/status", lambda answer: answer["ready"] and answer["peers"])
                assert (status["cluster"], status["node"]) == (settings["cluster-name"], settings["node-name"])
            finally:
                assert await agent.stop() == 0
