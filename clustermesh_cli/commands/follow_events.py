# SPDX-License-Identifier: Apache-2.0
"""`clustermesh events -f`: one thread for each program that tells; printed in the order of time, a moment later."""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from clustermesh_cli.agent_answers import agent_pods
from clustermesh_cli.answer_form import print_answer
from clustermesh_cli.commands.events import PATH, cluster_name, kubernetes_events
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError
from clustermesh_cli.program_client import ProgramClient
from clustermesh_cli.told_events import HEAD, EventWish, event_cells, event_line, read_lines
from kube.errors import KubeError
from kube.transport import LineStream
from meshapi.event import EventKind, MeshEvent
from meshapi.installed import APISERVER
from meshapi.row import encode
from meshkit.answer_form import AnswerForm

HOLD_S: Final = 1.5
"""How long an event waits for earlier ones of other programs, each of which looks once a second."""
AGAIN_S: Final = 2.0
SILENCE_S: Final = 30.0
Key = tuple[str, str, str, str, int]
Open = Callable[[EventWish], LineStream]


class Followed:
    """Everything that several clusters tell from now on, and what they kept before; each event once."""

    def __init__(self, clusters: Mapping[str, ProgramClient], wish: EventWish, complain: Callable[[str], None]) -> None:
        self._clusters, self._wish, self._complain = clusters, wish, complain
        self._told: queue.SimpleQueue[MeshEvent] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._silent: set[str] = set()

    def start(self) -> None:
        """Threads that end with the process."""
        for context, programs in self._clusters.items():
            _thread(lambda c=context, p=programs: self._watch_cluster(c, p))  # type: ignore[misc]

    def next(self, timeout_s: float) -> MeshEvent | None:
        """What was told next, by whom ever; None if nothing was in this time."""
        try:
            return self._told.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _watch_cluster(self, context: str, programs: ProgramClient) -> None:
        """Programs that appear are followed too; Kubernetes is asked again and again."""
        seen: set[Key] = set()
        if self._wish.kind != EventKind.OBJECT:
            _thread(lambda: self._follow(f"{context}: {APISERVER}", _opens_apiserver(programs)))
        while True:
            try:
                if self._wish.kind in ("", EventKind.OBJECT):
                    found = kubernetes_events(programs, cluster_name(programs), self._wish)
                    self._tell(found, seen)
                self._silent.discard(context)
                for node, pod in agent_pods(programs) if self._wish.kind != EventKind.OBJECT else ():
                    if pod not in self._known:
                        self._known.add(pod)
                        who = f"{context}: agent of {node}"
                        _thread(lambda w=who, p=pod: self._follow(w, _opens_agent(programs, p), p))  # type: ignore[misc]
            except (CommandError, KubeError) as exc:
                self._say_silent(context, exc)
            time.sleep(AGAIN_S)  # noqa: TID251 - a thread of a command

    def _follow(self, who: str, open_stream: Open, pod: str = "") -> None:
        """One program, through its restarts; a pod that is gone is given up."""
        wish, seen = self._wish, set[Key]()
        while True:
            try:
                stream = open_stream(wish)
                try:
                    buffer = b""
                    while data := stream.read():
                        self._silent.discard(who)
                        head, newline, buffer = (buffer + data).rpartition(b"\n")
                        last = self._tell(read_lines(head + newline), seen)
                        wish = wish._replace(since=last or wish.since)
                finally:
                    stream.close()
            except (CommandError, KubeError, msgspec.DecodeError) as exc:
                if pod and isinstance(exc, KubeError) and exc.status == 404:
                    return
                self._say_silent(who, exc)
            time.sleep(AGAIN_S)  # noqa: TID251 - a thread of a command

    def _say_silent(self, who: str, why: Exception) -> None:
        """Once, until it tells something again."""
        if who not in self._silent:
            self._silent.add(who)
            self._complain(f"{who}: {why}")

    def _tell(self, found: list[MeshEvent], seen: set[Key]) -> str:
        """Each event once, also where a program was asked again; the time of the last, "" for none."""
        for event in found:
            key = (event.time, event.program, event.node, event.message, event.number)
            if key not in seen:
                seen.add(key)
                self._told.put(event)
        return found[-1].time if found else ""


def follow(followed: Followed, form: AnswerForm, console: Console, *, limit: int = 0) -> None:
    """Print until interrupted, or so many events if there is a limit."""
    waiting: list[tuple[str, int, float, MeshEvent]] = []
    order, printed = itertools.count(), 0
    followed.start()
    if form is AnswerForm.TABLE:
        console.line(event_line(HEAD))
    while True:
        event = followed.next(0.2)
        now_s = time.monotonic()
        if event is not None:
            heapq.heappush(waiting, (event.time, next(order), now_s, event))
        while waiting and now_s - waiting[0][2] >= HOLD_S:
            _print(heapq.heappop(waiting)[3], form, console)
            printed += 1
            if printed == limit:
                return


def _print(event: MeshEvent, form: AnswerForm, console: Console) -> None:
    """A line of the table, a line of JSON, or a document of YAML."""
    match form:
        case AnswerForm.TABLE:
            console.line(event_line(event_cells(event)))
        case AnswerForm.JSON:
            console.line(encode(event).decode())
        case AnswerForm.YAML:
            console.line("---")
            print_answer(event, (), form, console)


def _opens_apiserver(programs: ProgramClient) -> Open:
    return lambda wish: programs.follow_apiserver(PATH, {**wish.query(), "follow": "true"}, SILENCE_S)


def _opens_agent(programs: ProgramClient, pod: str) -> Open:
    return lambda wish: programs.follow_agent(pod, PATH, {**wish.query(), "follow": "true"}, SILENCE_S)


def _thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, daemon=True).start()
