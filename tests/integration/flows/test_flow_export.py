# SPDX-License-Identifier: Apache-2.0
"""Flows as lines in a file: what is asked for and nothing else, bounded in size; a file that cannot be written harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.observe.export import FlowExport, export_request
from agent.observe.flow_file import FlowFile
from agent.settings import AgentSettings
from flows.errors import FilterError, RequestError
from flows.live import LiveFlows
from meshkit.health import Health, HealthLevel
from meshkit.rotated_file import RotatedFile
from tests.integration.flows.flow_world import entry
from tests.integration.kvstore.private_etcd import eventually
from tests.support.flow_entries import decode


class Exporting:
    """An export under way."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file, self.health = folder / "out/flows.json", Health()
        self.flows = LiveFlows(decode, 1023, "north/n1")
        asked = AgentSettings(**settings)
        sink = FlowFile(str(self.file), asked.flow_export_mib, asked.flow_export_backups)
        self.export = FlowExport(sink, export_request(asked), decode, self.health)

    async def follow(self, act: Callable[[], object], until: Callable[[], bool]) -> None:
        task = asyncio.create_task(self.export.run(self.flows))
        await asyncio.sleep(0)
        act()
        try:
            await eventually(until)
        finally:
            task.cancel()
            await asyncio.wait([task])

    def rows(self) -> list[Any]:
        return [orjson.loads(line) for line in self.file.read_bytes().splitlines()]


async def test_lines_are_hubbles_and_only_what_is_asked_for(tmp_path: Path) -> None:
    world = Exporting(
        tmp_path,
        flow_export_allowlist='[{"source_pod": ["a"]}, {"source_pod": ["b"]}]',
        flow_export_denylist='[{"source_pod": ["ab"]}]',
        flow_export_fields=("source.pod_name", "verdict"),
    )
    await world.follow(
        lambda: world.flows.extend([entry(1, "a"), entry(2, "ab"), entry(3, "c"), entry(4, "b")]),
        lambda: world.export.sent == 2,
    )
    assert world.rows() == [
        {"flow": {"verdict": "FORWARDED", "source": {"pod_name": pod}}, "node_name": "north/n1", "time": time}
        for pod, time in (("a", "1970-01-01T00:00:01Z"), ("b", "1970-01-01T00:00:04Z"))
    ]
    assert world.file.stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_written_is_counted_told_and_tried_again(tmp_path: Path) -> None:
    world = Exporting(tmp_path)
    (tmp_path / "out").write_text("a file where the directory should be")
    await world.follow(lambda: world.flows.extend([entry(1)]), lambda: world.export.unsent == 1)
    assert world.health.snapshot()["flow export"].level is HealthLevel.DEGRADED
    (tmp_path / "out").unlink()
    await world.follow(lambda: world.flows.extend([entry(2)]), lambda: world.export.sent == 1)
    assert world.health.snapshot()["flow export"].level is HealthLevel.OK
    assert len(world.rows()) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"flow_export_allowlist": "{}"},
        {"flow_export_denylist": '[{"no_such_field": 1}]'},
        {"flow_export_allowlist": '[{"source_ip": ["not an address"]}]'},
        {"flow_export_fields": ("source.none",)},
        {"flow_export_mib": 0},
        {"flow_export_backups": -1},
    ],
)
def test_settings_that_mean_nothing_are_refused_at_the_start(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises((FilterError, RequestError)):
        Exporting(tmp_path, **settings)


def test_a_file_never_grows_beyond_its_size_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    file = RotatedFile(path, 10, 2)
    for line in (b"one1\n", b"two2\n", b"three\n", b"four4four4four\n", b"five\n"):
        file.append(line)
    held = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert held == {"f": b"five\n", "f.1": b"four4four4four\n", "f.2": b"three\n"}
    path.replace(tmp_path / "taken away")
    file.append(b"six\n")
    assert path.read_bytes() == b"six\n"
    file.close()
    again = RotatedFile(path, 10, 0)
    again.append(b"7\n")
    again.append(b"too long for both\n")
    assert path.read_bytes() == b"too long for both\n"
    again.close()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("x")
    (tmp_path / "f").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        RotatedFile(tmp_path / "f", 10, 1).append(b"line\n")
    assert target.read_text() == "x"
