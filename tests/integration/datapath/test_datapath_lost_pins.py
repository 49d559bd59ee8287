# SPDX-License-Identifier: Apache-2.0
"""Pins of maps that went while no agent ran: nothing runs on the new, empty maps before they are filled."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.datapath import syscall
from agent.datapath.config import AttachMode, NodeConfig
from agent.datapath.delivery import STACK_HOOKS
from agent.datapath.loader import Datapath
from tests.integration.datapath.lone_node import lone_node, pod_interface
from tests.packet.datapath_host import run

pytestmark = pytest.mark.root
NODE_HOOKS = ["overlay ingress", "underlay egress", "underlay ingress", *(f"stack {hook.name}" for hook in STACK_HOOKS)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeConfig]:
    with lone_node("pins", tmp_path_factory.mktemp("pins")) as made:
        yield made


def _programs(config: NodeConfig) -> dict[str, str]:
    """The id of the program on each hook, by the name of its link's pin."""
    shown = {path.name: run("bpftool", "link", "show", "pinned", str(path)) for path in _links(config)}
    return {name: found[1] for name, text in shown.items() if (found := re.search(r"prog (\d+)", text))}


def _links(config: NodeConfig) -> list[Path]:
    return sorted(path for kind in ("links", "delivery") for path in (config.pin_directory / kind).iterdir())


def _lose_pins(config: NodeConfig, *names: str) -> None:
    for path in list((config.pin_directory / "maps").iterdir()):
        if not names or path.name in names:
            path.unlink()


@pytest.mark.parametrize("lost", [(), ("mesh_ep_ifindex",)], ids=["all", "one"])
def test_what_runs_keeps_its_maps_until_the_new_ones_are_filled(
    config: NodeConfig, datapath: Datapath, lost: tuple[str, ...]
) -> None:
    datapath.open()
    datapath.attach(pod_interface())
    datapath.close()
    running = _programs(config)
    assert len(running) == len(NODE_HOOKS) + 2
    _lose_pins(config, *lost)
    again = Datapath(config)
    assert not list(again.open().endpoints_by_ifindex.items())
    assert again.unattached_node(is_filled=False) == []
    again.attach_node(is_filled=False)
    assert _programs(config) == running
    assert again.unattached_node() == NODE_HOOKS
    again.attach(pod_interface())
    assert (again.unattached_node(), again.unattached([pod_interface()])) == ([], set())
    assert not set(_programs(config).values()) & set(running.values())
    again.close()


def test_hooks_that_run_nothing_of_ours_wait_for_no_maps(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    datapath.attach(pod_interface())
    datapath.close()
    _lose_pins(config)
    (config.pin_directory / "links" / f"overlay_{datapath.overlay_ifindex}_ingress").unlink()
    again = Datapath(config)
    again.open()
    assert again.unattached_node(is_filled=False) == ["overlay ingress"]
    again.attach_node(is_filled=False)
    assert again.unattached_node() == NODE_HOOKS[1:]
    again.close()


def test_a_map_that_the_kernel_writes_is_waited_for_by_nobody(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    datapath.attach(pod_interface())
    datapath.close()
    running = _programs(config)
    _lose_pins(config, "mesh_ct_tcp")
    again = Datapath(config)
    again.open()
    assert not set(_programs(config).values()) & set(running.values())
    again.close()


def test_maps_of_a_version_that_nobody_tells_start_empty_and_run_when_filled(
    config: NodeConfig, datapath: Datapath
) -> None:
    """mesh_abi alone lost its pin: the records of the other maps may be those of any version."""
    datapath.open()
    datapath.attach(pod_interface())
    datapath.close()
    running, maps = _programs(config), _maps(config)
    _lose_pins(config, "mesh_abi")
    again = Datapath(config)
    again.open()
    assert not set(_maps(config).values()) & set(maps.values())
    assert _programs(config) == running
    again.close()


@pytest.mark.parametrize("kind", ["directory", "full directory", "program"])
@pytest.mark.parametrize("name", ["mesh_ipcache", "mesh_abi"])
def test_what_is_no_map_makes_way_for_the_map(config: NodeConfig, datapath: Datapath, name: str, kind: str) -> None:
    datapath.open()
    datapath.attach(pod_interface())
    path, program = config.pin_directory / "maps" / name, datapath.program_fd("mesh_from_container")
    path.unlink()
    if kind == "program":
        syscall.pin(program, path)
    else:
        path.mkdir()
    if kind == "full directory":
        syscall.pin(program, path / "inner")
    datapath.close()
    running = _programs(config)
    again = Datapath(config)
    again.open()
    assert name in _maps(config)
    assert _programs(config) == running
    again.close()


def test_a_map_of_another_type_counts_as_one_to_be_filled(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    datapath.attach(pod_interface())
    datapath.close()
    running, path = _programs(config), config.pin_directory / "maps" / "mesh_ipcache"
    path.unlink()
    run(
        "bpftool",
        "map",
        "create",
        str(path),
        "type",
        "array",
        "key",
        "4",
        "value",
        "4",
        "entries",
        "1",
        "name",
        "other",
    )
    again = Datapath(config)
    again.open()
    assert _programs(config) == running
    again.close()


@pytest.mark.parametrize("lost", [(), ("mesh_abi",), ("mesh_abi", "mesh_ipcache")], ids=["all", "versions", "two"])
def test_all_programs_share_the_pinned_maps(config: NodeConfig, datapath: Datapath, lost: tuple[str, ...]) -> None:
    datapath.open()
    datapath.close()
    _lose_pins(config, *lost)
    again = Datapath(config)
    again.open()
    pinned = {int(number) for number in _maps(config).values()}
    shown = [
        run("bpftool", "-j", "prog", "show", "pinned", str(p)) for p in (config.pin_directory / "programs").iterdir()
    ]
    used = [set(json.loads(text)["map_ids"]) for text in shown]
    assert all(len(ids - pinned) <= 1 for ids in used)  # .rodata is each object's own
    again.close()


@pytest.mark.parametrize("entries", [0, 100], ids=["same capacity", "other capacity"])
def test_a_map_that_no_program_runs_on_is_filled_before_any_does(
    config: NodeConfig, datapath: Datapath, entries: int
) -> None:
    """A pinned map replaced by an empty one of the same shape."""
    datapath.open()
    datapath.attach(pod_interface())
    datapath.close()
    running = _programs(config)
    stray = replace(config, pin_directory=config.pin_directory.parent / "stray")
    (config.pin_directory.parent / "stray").mkdir(exist_ok=True)
    other = Datapath(replace(stray, max_entries={"mesh_policy": entries} if entries else {}))
    other.open()
    for name in ("mesh_ep_ifindex", "mesh_policy"):
        (config.pin_directory / "maps" / name).unlink()
        (stray.pin_directory / "maps" / name).rename(config.pin_directory / "maps" / name)
    other.close()
    again = Datapath(config)
    again.open()
    assert _programs(config) == running
    again.attach_node()
    again.attach(pod_interface())
    again.close()
    filled = _programs(config)
    assert not set(filled.values()) & set(running.values())
    third = Datapath(config)
    third.open()
    assert not set(_programs(config).values()) & set(filled.values())
    third.close()
    shutil.rmtree(stray.pin_directory)


@pytest.mark.parametrize("mode", [AttachMode.TCX, AttachMode.CLSACT])
def test_adapting_before_the_maps_are_filled_leaves_what_runs(
    config: NodeConfig, datapath: Datapath, mode: AttachMode
) -> None:
    config = replace(config, attach_mode=mode)
    first = Datapath(config)
    first.open()
    first.attach(pod_interface())
    first.close()
    _lose_pins(config)
    again = Datapath(config)
    again.open()
    again.adapt()
    assert again.unattached_node(is_filled=False) == []
    assert (again.unattached_node(), again.unattached([pod_interface()])) == (NODE_HOOKS, {pod_interface()})
    again.attach_node()
    again.attach(pod_interface())
    assert (again.unattached_node(), again.unattached([pod_interface()])) == ([], set())
    again.uninstall()


def _maps(config: NodeConfig) -> dict[str, str]:
    """The id of each pinned map, by the name of its pin."""
    paths = sorted((config.pin_directory / "maps").iterdir())
    return {path.name: run("bpftool", "map", "show", "pinned", str(path)).split(":")[0] for path in paths}
