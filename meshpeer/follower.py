# SPDX-License-Identifier: Apache-2.0
"""One supervised session per configured cluster. What happens to one cluster stays with it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from kvstore.errors import Unavailable
from kvstore.store import Store
from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.errors import PermanentError, TransientError
from meshkit.supervise import supervise
from meshkit.task_group import TaskGroup
from meshmodel.names import ClusterName
from meshpeer.caps import Pool
from meshpeer.consumer import Consumer
from meshpeer.directory import Listing, compare, read_directory
from meshpeer.followed import FollowedCluster
from meshpeer.record_views import RecordViews
from meshpeer.reservations import Own, Reservations
from meshpeer.session import CLOSE_WAIT_S, Session, SessionOptions

log = logging.getLogger(__name__)

RETRY_S: Final = (0.5, 5.0)
STOP_WAIT_S: Final = CLOSE_WAIT_S + 1.0

Explain = Callable[[bytes], Awaitable[str]]
CertificateEnd = Callable[[bytes], Awaitable[float]]
LOOK_S = 10.0
CERTIFICATE_S = 3600.0
"""How often a connected store is asked for the certificate that it shows to new connections."""
Connector = Callable[[bytes], Awaitable[Store]]
C = TypeVar("C", bound=Consumer)


class RefusedError(TransientError):
    """A person must change something before this cluster can be followed; looked at again now and then."""


@dataclass(slots=True)
class Member(Generic[C]):
    """One configured cluster: the content of its connection file as last seen, its session, and what that wrote."""

    state: FollowedCluster
    consumer: C
    content: bytes
    views: RecordViews
    task: asyncio.Task[None] | None = None


class Follower(Generic[C]):
    """Follows the clusters of a configuration directory, and the own cluster's store where one is given.

    `connect` makes a client of a connection file's content, `consume` the consumer of a cluster that was configured. `explain`
    says of a connection file what stands in the way of a connection, empty if it does not know.
    """

    def __init__(
        self,
        own: Own,
        directory: Path,
        connect: Connector,
        consume: Callable[[ClusterName], C],
        clock: Clock,
        *,
        options: SessionOptions | None = None,
        explain: Explain | None = None,
        certificate_end: CertificateEnd | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._explain, self._certificate_end, self._rng = explain, certificate_end, rng
        self._own, self._directory, self._connect, self._consume = own, directory, connect, consume
        self._clock, self._options = clock, options or SessionOptions()
        self._reservations = Reservations(own)
        self._pool = Pool(self._options.total_bytes)
        self.members: dict[ClusterName, Member[C]] = {}
        self.refused: Mapping[str, str] = {}
        self._has_own = False

    def peers(self) -> list[Member[C]]:
        """Every configured cluster but the own one, by name."""
        return [member for name, member in sorted(self.members.items()) if name != self._own.name]

    def expect_configured(self) -> None:
        """Every cluster configured now has a consumer. Call before `run`, where something waits for first listings."""
        for name, content in read_directory(self._directory, self._own.name).configs.items():
            self._member(name, content)

    def expect_own(self, content: bytes) -> None:
        """The own cluster's store is followed by the same session code, with this connection file."""
        self._member(self._own.name, content)

    async def run(self, changes: AsyncIterator[None]) -> None:
        """Until cancelled. `changes` yields whenever the directory may have changed. Nothing is drained at the end."""
        async with TaskGroup() as group:
            if self._certificate_end is not None:
                group.create_task(self._watch_certificates(self._certificate_end), name="certificates of stores")
            for member in self.members.values():
                self._start(group, member)
            async for _ in changes:
                listing = read_directory(self._directory, self._own.name)  # a mounted Secret: memory, not disk
                await self._follow(group, listing)

    async def _watch_certificates(self, certificate_end: CertificateEnd) -> None:
        """Each store is asked once it is connected, and now and then: gRPC does not tell what it was shown."""
        asked: dict[ClusterName, tuple[float, float]] = {}
        while True:
            for name, member in list(self.members.items()):
                state, now_s = member.state, self._clock.monotonic()
                session, last_s = asked.get(name, (0.0, 0.0))
                if state.is_connected and (session != state.session_since_wall_s or now_s - last_s >= CERTIFICATE_S):
                    asked[name] = (state.session_since_wall_s, now_s)
                    state.cert_not_after_s = await certificate_end(member.content) or state.cert_not_after_s
            await self._clock.sleep(LOOK_S)

    async def _follow(self, group: TaskGroup, listing: Listing) -> None:
        if listing.refused != self.refused:
            for name, reason in listing.refused.items():
                log.error("peer configuration refused", extra={"path": name, "reason": reason})
        self.refused = listing.refused
        if listing.has_own and not self._has_own:
            log.info("peer configuration of this cluster itself ignored", extra={"path": self._own.name})
        self._has_own = listing.has_own
        difference = compare({member.state.name: member.content for member in self.peers()}, listing)
        for name in difference.removed:
            await self._remove(name)
        for name in difference.changed:
            member = self._member(name, listing.configs[name])
            member.content = listing.configs[name]
            await _stop(member)
            member.views.doubt()  # the file may say that other records are to be believed than before
            log.info("peer configured", extra={"peer": name})
            self._start(group, member)

    def _member(self, name: ClusterName, content: bytes) -> Member[C]:
        known = self.members.get(name)
        if known is not None:
            return known
        state = FollowedCluster(name, is_own=name == self._own.name, control_lost_s=self._clock.monotonic())
        views = RecordViews() if state.is_own else RecordViews(self._options.caps, self._pool)
        member = self.members[name] = Member(state, self._consume(name), content, views)
        return member

    def _start(self, group: TaskGroup, member: Member[C]) -> None:
        name = member.state.name
        session = Session(
            member.state,
            member.consumer,
            member.views,
            connect=lambda: self._connect(member.content),
            accept=self._reservations.accept,
            clock=self._clock,
            options=self._options,
        )

        def failed(exc: BaseException, _delay_s: float) -> None:
            member.state.fail(self._clock.wall(), str(exc), is_refused=isinstance(exc, RefusedError))

        job = supervise(
            f"peer {name}",
            lambda: self._attempt(member, session),
            backoff=Backoff(*RETRY_S, self._rng),
            clock=self._clock,
            on_failure=failed,
        )
        member.task = group.create_task(job, name=f"peer {name}")

    async def _attempt(self, member: Member[C], session: Session) -> None:
        """One attempt; one that ended without a connection says why, if that can be found out."""
        try:
            await _run_session(member.state.name, session)
        except Unavailable as exc:
            cause = await self._explain(member.content) if self._explain is not None else ""
            if cause:
                raise Unavailable(cause) from exc
            raise

    async def _remove(self, name: ClusterName) -> None:
        """The peer was removed on purpose."""
        member = self.members.pop(name)
        await _stop(member)
        self._reservations.release(name)
        member.views.leave()
        member.consumer.remove()
        log.info("peer removed", extra={"peer": name})


async def _run_session(name: ClusterName, session: Session) -> None:
    try:
        await session.run()
    except (PermanentError, ValueError) as exc:
        raise RefusedError(str(exc)) from exc
    except (OSError, TransientError):
        raise
    except Exception as exc:  # this is the supervisor of one peer: a bug there must not end the others
        log.exception("peer session failed unexpectedly", extra={"peer": name})
        raise RefusedError(repr(exc)) from exc


async def _stop(member: Member[C]) -> None:
    task, member.task = member.task, None
    if task is not None:
        task.cancel()
        await asyncio.wait([task], timeout=STOP_WAIT_S)
