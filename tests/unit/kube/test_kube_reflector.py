# SPDX-License-Identifier: Apache-2.0
"""The reflector against every way in which a list or a watch can end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kube.client import KubeClient
from kube.reflector import Reflector, Timing
from kube.resource import SERVICE_EXPORTS, SERVICES
from tests.unit.kube.kube_recorder import FAST, Recorder
from tests.unit.kube.kube_script import ScriptedServer, bookmark, event, failure, listing, service, status, watch

Make = Callable[..., Recorder]


def watches(server: ScriptedServer) -> list[str]:
    return [request.query["resourceVersion"] for request in list(server.requests) if "watch" in request.query]


async def test_what_exists_is_reported_before_the_mark_and_changes_after_it(
    server: ScriptedServer, recorder: Make
) -> None:
    changes = [
        event("MODIFIED", service("a", 11)),
        event("DELETED", service("b", 12)),
        event("ADDED", service("c", 13)),
    ]
    server.steps = [listing(service("a", 1), service("b", 2), version="10"), watch(*changes, end="hold")]
    async with recorder() as seen:
        await seen.until(lambda: len(seen.said) == 6)
    assert seen.said == ["a=1", "b=2", "synced", "a=11", "b gone", "c=13"]


async def test_pages_are_followed_and_asked_500_at_a_time(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [
        listing(service("a", 1), version="10", token="next"),
        listing(service("b", 2), version="10"),
        watch(end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "synced" in seen.said and len(server.requests) == 3)
    assert seen.said == ["a=1", "b=2", "synced"]
    assert [request.query.get("continue") for request in server.requests] == [None, "next", None]
    assert server.requests[0].query["limit"] == "500"


async def test_a_watch_asks_for_bookmarks_and_a_bounded_time_and_always_names_a_version(
    server: ScriptedServer, recorder: Make
) -> None:
    server.steps = [listing(version="10"), watch(end="hold")]
    async with recorder(namespace="shop", field_selector="spec.nodeName=n1") as seen:
        await seen.until(lambda: len(server.requests) == 2)
    request = server.requests[1]
    assert request.path == "/api/v1/namespaces/shop/services"
    assert request.query["allowWatchBookmarks"] == "true"
    assert request.query["resourceVersion"] == "10"
    assert request.query["fieldSelector"] == "spec.nodeName=n1"
    assert 300 <= int(request.query["timeoutSeconds"]) <= 600


async def test_a_clean_end_resumes_from_the_bookmark_without_a_new_listing(
    server: ScriptedServer, recorder: Make
) -> None:
    server.steps = [
        listing(service("a", 1), version="10"),
        watch(bookmark(2000)),
        watch(event("MODIFIED", service("a", 2001)), end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "a=2001" in seen.said)
    assert watches(server) == ["10", "2000"]
    assert seen.reflector.progress.lists == 1


async def test_an_end_in_mid_line_resumes_from_the_last_whole_event(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [
        listing(version="10"),
        watch(event("ADDED", service("a", 11)), end="cut"),
        watch(event("ADDED", service("b", 12)), end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "b=12" in seen.said)
    assert watches(server) == ["10", "11"]
    assert seen.said == ["synced", "a=11", "b=12"]


async def test_a_reset_connection_reports_every_event_once(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [
        listing(version="10"),
        watch(event("ADDED", service("a", 11)), end="reset"),
        watch(event("ADDED", service("a", 11)), event("ADDED", service("b", 12)), end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "b=12" in seen.said)
    assert seen.said == ["synced", "a=11", "b=12"]


async def test_an_event_cut_into_many_chunks_is_one_event(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [
        listing(version="10"),
        watch(event("ADDED", service("ä", 11)), event("ADDED", service("b", 12)), end="hold", split=7),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "b=12" in seen.said)
    assert seen.said == ["synced", "ä=11", "b=12"]


@pytest.mark.parametrize("forgotten", [watch(failure(410, "Expired"), end="hold"), status(410, "Expired")])
async def test_after_410_the_new_listing_reports_only_differences_and_what_vanished(
    server: ScriptedServer, recorder: Make, forgotten: Any
) -> None:
    server.steps = [
        listing(service("a", 1), service("b", 2), service("c", 3), version="10"),
        forgotten,
        listing(service("a", 1), service("b", 50), service("d", 51), version="60"),
        watch(end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "c gone" in seen.said and len(server.requests) == 4)
    assert seen.said == ["a=1", "b=2", "c=3", "synced", "b=50", "d=51", "c gone"]
    assert watches(server) == ["10", "60"]


async def test_410_on_a_page_starts_the_listing_over(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [
        listing(service("a", 1), version="10", token="next"),
        status(410, "Expired"),
        listing(service("b", 2), version="20"),
        watch(end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: len(server.requests) == 4)
    assert seen.said == ["a=1", "b=2", "a gone", "synced"]


async def test_error_500_too_large_resource_version_waits_and_keeps_the_version(
    server: ScriptedServer, recorder: Make
) -> None:
    server.steps = [
        listing(version="10"),
        watch(failure(500, "Timeout")),
        watch(event("ADDED", service("a", 11)), end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "a=11" in seen.said)
    assert watches(server) == ["10", "10"]
    assert seen.reflector.progress.lists == 1


async def test_a_kind_on_which_nothing_happens_is_no_failure(server: ScriptedServer, recorder: Make) -> None:
    """A bookmark only comes where the revision moved; a server that is there answers when it is asked again."""
    server.steps = [listing(version="10")] + [watch(end="hold")] * 50
    async with recorder(timing=Timing(0.01, 0.05, 0.01, silence_s=0.05)) as seen:
        await seen.until(lambda: len(server.requests) >= 5)
        progress = seen.reflector.progress
        assert (progress.connected, progress.failures, progress.last_error) == (True, 0, "")
    assert set(watches(server)) == {"10"}


async def test_a_client_knows_which_kinds_it_does_not_hear_of(
    server: ScriptedServer, client: KubeClient, recorder: Make
) -> None:
    following = client.following
    server.steps = [status(403, "Forbidden", "not allowed")] * 3 + [listing(version="9"), watch(end="hold")]
    async with recorder() as seen:
        await seen.until(lambda: bool(following.broken()))
        assert list(following.broken()) == ["services"]
        assert "not allowed" in following.broken()["services"]
        await seen.until(lambda: "synced" in seen.said)
        assert following.broken() == {}
    server.steps = [status(403, "Forbidden")] * 1000
    async with recorder() as seen:
        await seen.until(lambda: bool(following.broken()))
    assert following.broken() == {}, "a reflector that has ended is missed by nobody"


async def test_a_half_open_link_is_left_after_the_silence_bound(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [
        listing(version="10"),
        watch(event("ADDED", service("a", 11)), end="hold"),
        watch(event("ADDED", service("b", 12)), end="hold"),
    ]
    async with recorder(timing=Timing(0.01, 0.05, 0.01, silence_s=0.2)) as seen:
        await seen.until(lambda: "b=12" in seen.said)
    assert watches(server) == ["10", "11"]


async def test_a_server_that_is_down_costs_few_attempts_and_next_to_no_cpu(
    server: ScriptedServer, recorder: Make
) -> None:
    server.steps = [status(503, "ServiceUnavailable")] * 1000
    before = time.thread_time(), time.process_time()
    async with recorder(timing=Timing(0.2, 0.4, 0.05)) as seen:
        await seen.until(lambda: len(server.requests) >= 4, limit_s=10)
        attempts, failures = len(server.requests), seen.reflector.progress.failures
    assert attempts <= failures + 1
    assert not seen.reflector.progress.connected
    assert "503" in seen.reflector.progress.last_error
    assert time.process_time() - before[1] < 0.5


async def test_back_off_grows_to_its_bound_and_starts_small_after_a_success(
    server: ScriptedServer, recorder: Make
) -> None:
    delays: list[float] = []
    server.steps = [status(503, "x")] * 5 + [
        listing(version="10"),
        watch(bookmark(11)),
        status(503, "x"),
        watch(end="hold"),
    ]
    seen = recorder(timing=Timing(0.01, 0.08, 0.0))
    waited = seen.reflector._list_watch._stop.wait
    seen.reflector._list_watch._stop.wait = lambda s=None: (delays.append(s or 0.0), waited(s))[1]  # type: ignore[method-assign]
    async with seen:
        await seen.until(lambda: len(server.requests) == 9)
    grown = [delay for delay in delays if delay > 0]
    assert all(
        bound / 2 <= delay <= bound for delay, bound in zip(grown, (0.01, 0.02, 0.04, 0.08, 0.08, 0.01), strict=True)
    )


async def test_a_watch_that_ends_at_once_is_not_asked_for_in_a_hot_loop(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [listing(version="10")] + [watch()] * 1000
    async with recorder(timing=Timing(0.01, 0.05, minimum_watch_s=0.2)) as seen:
        await seen.until(lambda: len(server.requests) >= 4)
        began = time.monotonic()
        before = len(server.requests)
        await seen.until(lambda: len(server.requests) >= before + 3)
        assert time.monotonic() - began >= 0.2


async def test_an_expired_token_or_a_missing_right_is_asked_for_again(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [
        status(401, "Unauthorized"),
        status(403, "Forbidden"),
        listing(service("a", 1), version="9"),
        watch(end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "synced" in seen.said)
    assert seen.said == ["a=1", "synced"]


async def test_managed_fields_and_last_applied_are_dropped_before_strip_sees_them(
    server: ScriptedServer, recorder: Make
) -> None:
    heavy = service(
        "a",
        1,
        managedFields=[{"x": 1}],
        annotations={"kubectl.kubernetes.io/last-applied-configuration": "{}", "keep": "1"},
    )
    given: list[Any] = []
    server.steps = [listing(heavy, version="10"), watch(end="hold")]
    async with recorder(strip=lambda obj: given.append(obj) or obj["metadata"]["name"]) as seen:
        await seen.until(lambda: "synced" in seen.said)
    assert given[0]["metadata"]["annotations"] == {"keep": "1"}
    assert "managedFields" not in given[0]["metadata"]
    assert given[0]["kind"] == "Service"
    assert seen.objects == {"shop/a": "a"}


async def test_a_failure_before_an_optional_kind_is_known_to_be_absent_is_over(
    server: ScriptedServer, recorder: Make
) -> None:
    server.steps = [status(503, "ServiceUnavailable")] + [status(404, "NotFound")] * 50
    async with recorder(resource=SERVICE_EXPORTS, optional=True) as seen:
        await seen.until(lambda: seen.reflector.progress.absent)
        assert (seen.reflector.progress.failures, seen.reflector.progress.last_error) == (0, "")


async def test_an_optional_kind_that_is_not_served_counts_as_empty_and_is_looked_for_again(
    server: ScriptedServer, recorder: Make
) -> None:
    server.steps = [status(404, "NotFound"), listing(service("a", 1), version="10"), watch(end="hold")]
    async with recorder(resource=SERVICE_EXPORTS, optional=True) as seen:
        await seen.until(lambda: len(seen.said) == 2)
    assert seen.said == ["synced", "a=1"]


async def test_a_kind_that_disappears_takes_its_objects_with_it(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [listing(service("a", 1), version="10"), watch(failure(404, "NotFound"))] + [
        status(404, "NotFound")
    ] * 50
    async with recorder(resource=SERVICE_EXPORTS, optional=True) as seen:
        await seen.until(lambda: "a gone" in seen.said)
    assert seen.said == ["a=1", "synced", "a gone"]


async def test_a_line_that_is_no_event_is_survived(server: ScriptedServer, recorder: Make) -> None:
    server.steps = [
        listing(version="10"),
        watch(event("ADDED", service("a", 11)), {"type": "ADDED"}),
        watch(event("ADDED", service("b", 12)), end="hold"),
    ]
    async with recorder() as seen:
        await seen.until(lambda: "b=12" in seen.said)
    assert seen.said == ["synced", "a=11", "b=12"]


async def test_cancelling_ends_the_thread_at_once_even_in_a_silent_watch(
    server: ScriptedServer, recorder: Make
) -> None:
    server.steps = [listing(version="10"), watch(end="hold")]
    async with recorder(timing=Timing(silence_s=60.0)) as seen:
        await seen.until(lambda: len(server.requests) == 2)
        began = time.monotonic()
    assert time.monotonic() - began < 1.0
    for thread in threading.enumerate():
        if thread.name == "reflector-services":
            thread.join(1.0)
            assert not thread.is_alive()


async def test_cancelling_during_back_off_does_not_wait_it_out(server: ScriptedServer, recorder: Make) -> None:
    server.steps = []
    async with recorder(timing=Timing(30.0, 30.0)) as seen:
        await seen.until(lambda: bool(server.requests))
        began = time.monotonic()
    assert time.monotonic() - began < 1.0


async def test_an_error_in_the_handler_is_raised_to_who_runs_the_reflector(
    server: ScriptedServer, client: KubeClient
) -> None:
    server.steps = [listing(service("a", 1), version="10"), watch(end="hold")]

    def handler(_: object) -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        async with asyncio.timeout(5):
            await Reflector(client, SERVICES, strip=lambda obj: obj, timing=FAST).run(handler)


async def test_an_error_in_strip_is_raised_to_who_runs_the_reflector(
    server: ScriptedServer, client: KubeClient
) -> None:
    server.steps = [listing(service("a", 1), version="10"), watch(end="hold")]

    def strip(_: object) -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        async with asyncio.timeout(5):
            await Reflector(client, SERVICES, strip=strip, timing=FAST).run(lambda batch: None)


async def test_fifty_thousand_events_arrive_in_order_and_cheaply(server: ScriptedServer, recorder: Make) -> None:
    total = 50_000
    events = [event("MODIFIED", service(f"s{n % 500}", n + 100)) for n in range(total)]
    server.steps = [listing(version="10"), watch(*events, end="hold", split=1 << 16)]
    async with recorder(strip=lambda obj: obj["metadata"]["resourceVersion"]) as seen:
        await seen.until(lambda: len(seen.said) == total + 1, limit_s=30)
    assert seen.said[1:] == [f"s{n % 500}={n + 100}" for n in range(total)]
    assert seen.batches < total / 10
