# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import pytest
from prometheus_client.core import GaugeMetricFamily

from meshkit import log
from meshkit.clock import ManualClock
from meshkit.health import Health, HealthLevel
from meshkit.metrics import Registry, Scrapes
from meshkit.text import render


class Colour(StrEnum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclass(frozen=True, order=True)
class Name:
    first: str
    last: str

    def __str__(self) -> str:
        return f"{self.first}/{self.last}"


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", "''"),
        ("two words", "'two words'"),
        (Colour.RED, "red"),
        (Point(1, 2), "(x=1 y=2)"),
        (Name("a", "b"), "a/b"),
        ({"b": 1, "a": (1, 2)}, "{a: [1, 2], b: 1}"),
        (frozenset({"b", "a"}), "{a, b}"),
        (None, "None"),
    ],
)
def test_values_render_in_one_deterministic_line(value: object, text: str) -> None:
    assert render(value) == text


def test_json_lines_hold_the_facts_and_cut_foreign_text(root_logger: None) -> None:
    stream = io.StringIO()
    log.setup("info", json=True, stream=stream)
    logger = logging.getLogger("meshkit.test")
    logger.debug("hidden")
    logger.warning("peer session ended, retrying", extra={"peer": "tion", "delay_s": 1.5, "error": "x" * 1000})
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("task failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["level"], first["message"], first["peer"], first["delay_s"]) == (
        "warning",
        "peer session ended, retrying",
        "tion",
        1.5,
    )
    assert len(first["error"]) == log.MAXIMUM_TEXT
    assert "ValueError: broken" in second["traceback"]


def test_plain_lines_are_for_people(root_logger: None) -> None:
    stream = io.StringIO()
    log.setup("debug", json=False, stream=stream)
    logging.getLogger("meshkit.test").info("peer connected", extra={"peer": "tion"})
    assert stream.getvalue().endswith(" info    peer connected peer=tion\n")


def test_a_flood_of_requests_is_no_flood_of_lines(root_logger: None) -> None:
    stream = io.StringIO()
    log.setup("info", stream=stream)
    server = logging.getLogger("uvicorn.error")
    for second in range(0, 130, 10):
        for message in ("Exceeded concurrency limit.", "Invalid HTTP request received."):
            record = server.makeRecord(server.name, logging.WARNING, "", 0, message, (), None)
            record.created = second
            server.handle(record)
    server.error("Exception in ASGI application")
    server.error("Exception in ASGI application")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines].count("error") == 2
    assert [line["message"] for line in lines].count("Exceeded concurrency limit.") == 3, "at 0, 60 and 120"
    assert len(lines) == 2 + 3 + 3


def test_health_is_ready_when_something_reported_and_nothing_starts_or_fails() -> None:
    clock = ManualClock(wall=100.0)
    health = Health(clock)
    assert not health.ready()
    health.starting("tables")
    assert (health.ready(), health.blocking()) == (False, ("tables",))
    clock.advance(5.0)
    health.ok("tables", "done")
    health.degraded("peer tion", "disconnected")
    assert health.ready()
    assert health.snapshot()["tables"] == (HealthLevel.OK, "done", 105.0)
    clock.advance(5.0)
    health.report("tables", "ok", "still")
    assert health.snapshot()["tables"].since_wall_s == 105.0
    health.failed("maps", "no space")
    assert health.dump() == "maps: failed (no space)\npeer tion: degraded (disconnected)\ntables: ok (still)\n"
    health.forget("maps")
    assert health.ready()


def test_health_rings_only_when_a_level_changes() -> None:
    health = Health(ManualClock())
    health.ok("a")
    rings = health.changed.count
    health.ok("a", "other words")
    assert health.changed.count == rings
    health.failed("a", "gone")
    assert health.changed.count == rings + 1


def test_metrics_have_the_prefix_and_one_owner_per_name() -> None:
    registry = Registry("mesh", process=False)
    registry.counter("records_rejected_total", "rejected records", ["reason"]).labels("bad-json").inc(2)
    assert registry.counter("records_rejected_total", "again", ["reason"]) is registry.counter(
        "records_rejected_total", "rejected records", ["reason"]
    )
    registry.histogram("lag_seconds", "lag").observe(0.003)
    registry.add_source(lambda: [GaugeMetricFamily("mesh_rows", "rows", value=7)])
    text = registry.exposition().decode()
    assert 'mesh_records_rejected_total{reason="bad-json"} 2.0' in text
    assert 'mesh_lag_seconds_bucket{le="0.005"} 1.0' in text
    assert "mesh_rows 7.0" in text
    with pytest.raises(ValueError, match="Counter, not a Gauge"):
        registry.gauge("records_rejected_total", "x")


def test_asking_for_metrics_without_end_costs_a_bounded_share_of_the_time() -> None:
    """Anybody may ask, and making them costs tens of milliseconds."""
    clock, registry, made = ManualClock(), Registry("mesh", process=False), []

    def collect() -> list[GaugeMetricFamily]:
        made.append(clock.monotonic())
        clock.advance(0.05)
        return [GaugeMetricFamily("mesh_made", "times", value=len(made))]

    registry.add_source(collect)
    scrapes = Scrapes(registry, clock.monotonic)
    for _ in range(10_000):
        text = scrapes.text().decode()
        assert f"mesh_made {len(made)}.0" in text
        clock.advance(0.001)
    assert len(made) * 0.05 <= 0.06 * clock.monotonic()
    clock.advance(10)
    before, text = len(made), scrapes.text().decode()
    assert f"mesh_made {before + 1}.0" in text, "who asks now and then sees it as it is"
