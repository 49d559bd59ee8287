# SPDX-License-Identifier: Apache-2.0
"""One request, asked of many observers at once: their answers as one stream in the order of time, and what became of each.

`number` and `first` are each node's, as with Hubble. A node that falls out while it is followed is asked again as soon as it
answers, from where it was heard last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from flows.merge import Merge
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.remote import UnansweredError
from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.wake import Wake, wait_for_ring
from relay.links import ObserverLink
from relay.notices import Notices

LOOK_S: Final = 2.0
BACKOFF_S: Final = (2.0, 30.0)
SILENCE_S: Final = 30.0
"""For the next answer of a request that ends, a node may look for so long."""
AHEAD_S: Final = 5.0
END_S: Final = 2.0
"""A stream that ends gives its readers so long to do so."""


class _Reader:
    """One observer in one stream."""

    def __init__(self, link: ObserverLink) -> None:
        self.link = link
        self.task: asyncio.Task[None] | None = None
        self.backoff = Backoff(*BACKOFF_S)
        self.not_before_s = 0.0
        self.last_ns = 0
        self.is_told_ahead = False
        self.told: relay.NodeState.ValueType = relay.UNKNOWN_NODE_STATE

    @property
    def is_reading(self) -> bool:
        return self.task is not None and not self.task.done()


class Fan:
    """One stream. `links` are asked for again while it follows: there may be others."""

    def __init__(
        self, links: Callable[[], Sequence[ObserverLink]], request: observer.GetFlowsRequest, name: str, clock: Clock
    ) -> None:
        self._links, self._request, self._name, self._clock = links, request, name, clock
        self._merge: Merge[observer.GetFlowsResponse] = Merge(is_live=request.follow)
        self._notices = Notices()
        self._readers: dict[str, _Reader] = {}
        self._bell, self._room = Wake(), Wake()
        self._ending: set[asyncio.Task[None]] = set()

    async def answers(self) -> AsyncGenerator[observer.GetFlowsResponse, None]:
        """Until every observer has ended its answer; never, if it follows."""
        try:
            looked_s = self._look(is_first=True)
            while True:
                rung, now_s = self._bell.count, self._clock.monotonic()
                if self._request.follow and now_s - looked_s >= LOOK_S:
                    looked_s = self._look(is_first=False)
                is_over = not self._request.follow and not any(r.is_reading for r in self._readers.values())
                for event in self._notices.take(now_s, is_last=is_over):
                    yield self._told(event)
                for answer in self._merge.take(now_s):
                    yield answer
                self._room.set()
                if is_over and self._merge.is_empty:
                    return
                await wait_for_ring(self._bell, rung, self._pause_s(looked_s), self._clock)
        finally:
            await self._end()

    def _pause_s(self, looked_s: float) -> float | None:
        due = [self._merge.due_s(), looked_s + LOOK_S if self._request.follow else None]
        times = [time_s for time_s in due if time_s is not None]
        return max(0.0, min(times) - self._clock.monotonic()) if times else None

    async def _end(self) -> None:
        tasks = {r.task for r in self._readers.values() if r.task is not None} | self._ending
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)

    def _told(self, event: relay.NodeStatusEvent) -> observer.GetFlowsResponse:
        found = observer.GetFlowsResponse(node_status=event, node_name=self._name)
        found.time.FromNanoseconds(int(self._clock.wall() * 1e9))
        return found

    # ---- who is read

    def _look(self, *, is_first: bool) -> float:
        """Every observer that can be read is. Returns the time."""
        now_s, links = self._clock.monotonic(), {link.name: link for link in self._links()}
        for name in [name for name, reader in self._readers.items() if links.get(name) is not reader.link]:
            self._drop(name, is_gone=name not in links)
        for name, link in links.items():
            reader = self._readers.setdefault(name, _Reader(link))
            if link.state != relay.UNKNOWN_NODE_STATE and not (reader.is_reading and link.why):
                self._tell(reader, link.state, link.why)
            if reader.is_reading or now_s < reader.not_before_s or link.state == relay.NODE_UNAVAILABLE:
                continue
            self._merge.open(name)
            request = self._request if is_first else self._continued(reader)
            reader.task = asyncio.create_task(self._read(reader, request), name=f"flows of {name}")
        return now_s

    def _drop(self, name: str, *, is_gone: bool) -> None:
        reader = self._readers.pop(name)
        self._merge.close(name)
        if reader.task is not None:
            reader.task.cancel()
            self._ending.add(reader.task)
            reader.task.add_done_callback(self._ending.discard)
        if is_gone:
            self._notices.note(relay.NODE_GONE, name)

    def _tell(self, reader: _Reader, state: relay.NodeState.ValueType, why: str = "") -> None:
        if reader.told != state:
            reader.told = state
            self._notices.note(state, reader.link.name, why)

    def _continued(self, reader: _Reader) -> observer.GetFlowsRequest:
        """The request for a node that is asked again, or is new: from what it said last, or from now on."""
        found = observer.GetFlowsRequest()
        found.CopyFrom(self._request)
        found.number = 0
        found.ClearField("since")
        if reader.last_ns:
            found.since.FromNanoseconds(reader.last_ns + 1)
        return found

    async def _read(self, reader: _Reader, request: observer.GetFlowsRequest) -> None:
        """One answer of one observer."""
        name = reader.link.name
        try:
            async with aclosing(reader.link.remote.flows(request)) as answers:
                while (answer := await self._next(answers)) is not None:
                    await self._take(reader, answer)
            if request.follow:
                reader.link.doubt()
        except UnansweredError as exc:
            if reader.link.state != relay.NODE_UNAVAILABLE:
                reader.told = relay.NODE_ERROR
                self._notices.note(relay.NODE_ERROR, name, str(exc))
            reader.link.doubt()
        finally:
            if self._readers.get(name) is reader:
                self._merge.close(name)
                reader.not_before_s = self._clock.monotonic() + reader.backoff.next()
            self._bell.set()

    async def _next(self, answers: AsyncGenerator[observer.GetFlowsResponse, None]) -> observer.GetFlowsResponse | None:
        """None at the end. Raises: UnansweredError, also where a request that ends is not answered in time."""
        try:
            async with asyncio.timeout(None if self._request.follow else SILENCE_S):
                return await anext(answers, None)
        except TimeoutError:
            raise UnansweredError(f"said nothing for {SILENCE_S:g} s") from None

    async def _take(self, reader: _Reader, answer: observer.GetFlowsResponse) -> None:
        name = reader.link.name
        if answer.WhichOneof("response_types") == "node_status":
            event = answer.node_status
            for each in event.node_names:
                self._notices.note(event.state_change, each, event.message)
            self._bell.set()
            return
        while not self._merge.has_room(name):
            rung = self._room.count
            self._bell.set()
            await self._room.wait(rung)
        time_ns, wall_ns = answer.time.ToNanoseconds(), int(self._clock.wall() * 1e9)
        if time_ns - wall_ns > AHEAD_S * 1e9 and not reader.is_told_ahead:
            reader.is_told_ahead = True
            ahead = f"its clock is {(time_ns - wall_ns) / 1e9:.0f} s ahead of the relay's"
            self._notices.note(relay.NODE_ERROR, name, f"{ahead}: its flows stand later than they happened")
        reader.last_ns = max(reader.last_ns, time_ns)
        reader.backoff.reset()
        self._merge.add(name, time_ns, answer, self._clock.monotonic(), wall_ns)
        self._bell.set()
