# SPDX-License-Identifier: Apache-2.0
"""Settings of the node's network: written where the agent may, and what hangs is said where it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.datapath import netlink
from agent.datapath.proxy_routes import look_for_no_socket_early
from meshapi import installed
from tests.unit.cli.test_manifests import container

NAMES = ("tcp_early_demux", "udp_early_demux")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither place is there yet."""
    monkeypatch.setattr(netlink, "SETTINGS", tmp_path / "sys")
    monkeypatch.setattr(netlink, "NET_SETTINGS", tmp_path / "net")
    return tmp_path


def put(folder: Path, *, value: str = "1") -> Path:
    path = folder / "ipv4"
    path.mkdir(parents=True)
    for name in NAMES:
        (path / name).write_text(f"{value}\n")
    return path


def values(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in NAMES}


def test_the_nodes_settings_are_written_where_the_pod_has_them(settings: Path) -> None:
    read_only, mounted = put(settings / "sys" / "net"), put(settings / "net")
    assert look_for_no_socket_early() == ""
    assert (values(read_only), values(mounted)) == ({"1\n"}, {"0"})


def test_without_the_mount_they_are_written_where_the_kernel_has_them(settings: Path) -> None:
    path = put(settings / "sys" / "net")
    assert look_for_no_socket_early() == ""
    assert values(path) == {"0"}


def test_what_hangs_is_said_where_nothing_can_be_written(settings: Path) -> None:
    assert (
        "net.ipv4.tcp_early_demux and net.ipv4.udp_early_demux of this node cannot be set: requests of pods on other nodes"
        in (look_for_no_socket_early())
    )


def test_the_agents_pod_may_write_them() -> None:
    (mount,) = (m for m in container(installed.AGENT)["volumeMounts"] if m["mountPath"] == installed.NET_SETTINGS)
    assert not mount.get("readOnly")
