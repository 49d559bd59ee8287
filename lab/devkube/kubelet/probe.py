# SPDX-License-Identifier: Apache-2.0
"""Probes: ask a container whether it is well, from its node as a kubelet does, and count the answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from lab.devkube.api.objects import Obj, items_of
from lab.devkube.kubelet.entering import run_to_end
from lab.devkube.kubelet.process import ContainerProcess
from lab.netns import socket_inside

EAGER_S: Final = 0.25
OUTPUT_LIMIT: Final = 256


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """The container a probe asks, and the place it asks from."""

    process: ContainerProcess
    container: Obj
    address: str
    node_netns: str


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """One probe's outcome; the message says what went wrong."""

    ok: bool
    message: str = ""


class Counter:
    """Turns single answers into a verdict: `successThreshold` and `failureThreshold` in a row. Pure."""

    def __init__(self, probe: Obj, *, verdict: bool) -> None:
        self._needed = {True: int(probe.get("successThreshold", 1)), False: int(probe.get("failureThreshold", 3))}
        self.verdict, self._last, self._row = verdict, verdict, 0

    def add(self, *, ok: bool) -> bool:
        """Count one answer; says whether the verdict was reached anew (also when it is the same again)."""
        self._row = self._row + 1 if ok is self._last else 1
        self._last = ok
        if self._row < self._needed[ok]:
            return False
        self.verdict = ok
        return True


async def watch(
    probe: Obj,
    ask: Callable[[], Awaitable[ProbeOutcome]],
    on_answer: Callable[[ProbeOutcome], None],
    *,
    verdict: bool,
    eager: bool,
) -> bool:
    """Ask again and again; returns the first time the verdict differs from the one given.

    An eager probe asks several times a second, so that a pod of the lab is ready as soon as its program is; a
    production kubelet waits a whole period between any two questions.
    """
    counter = Counter(probe, verdict=verdict)
    period_s = float(probe.get("periodSeconds", 10))
    await asyncio.sleep(float(probe.get("initialDelaySeconds", 0)))
    while True:
        answer = await ask()
        on_answer(answer)
        if counter.add(ok=answer.ok) and counter.verdict is not verdict:
            return counter.verdict
        await asyncio.sleep(min(EAGER_S, period_s) if eager else period_s)


async def ask_once(probe: Obj, target: ProbeTarget) -> ProbeOutcome:
    """One answer, within the probe's own time limit."""
    limit_s = float(probe.get("timeoutSeconds", 1))
    try:
        async with asyncio.timeout(limit_s):
            if "exec" in probe:
                return await _exec(probe["exec"], target)
            if "httpGet" in probe:
                return await _http(probe["httpGet"], target)
            if "tcpSocket" in probe:
                return await _tcp(probe["tcpSocket"], target)
    except TimeoutError:
        return ProbeOutcome(ok=False, message=f"no answer within {limit_s:g} s")
    except (OSError, asyncio.IncompleteReadError, ssl.SSLError) as exc:
        return ProbeOutcome(ok=False, message=str(exc))
    return ProbeOutcome(ok=False, message=f"the lab has no probe of kind {', '.join(probe)}")


async def _exec(action: Obj, target: ProbeTarget) -> ProbeOutcome:
    code, output = await run_to_end(target.process, [str(word) for word in action.get("command") or []])
    return ProbeOutcome(code == 0, output.decode(errors="replace")[:OUTPUT_LIMIT])


async def _tcp(action: Obj, target: ProbeTarget) -> ProbeOutcome:
    _, writer = await _connect(action, target, None)
    writer.close()
    return ProbeOutcome(ok=True)


async def _http(action: Obj, target: ProbeTarget) -> ProbeOutcome:
    context = None
    if action.get("scheme") == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await _connect(action, target, context)
    try:
        host = f"{action.get('host') or target.address}:{_port(action['port'], target.container)}"
        headers = {"Host": host, "User-Agent": "kube-probe/1.32", "Accept": "*/*", "Connection": "close"}
        headers |= {header["name"]: header.get("value", "") for header in items_of(action, "httpHeaders")}
        lines = [f"GET {action.get('path') or '/'} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        words = (await reader.readline()).split()
        code = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        return ProbeOutcome(200 <= code < 400, f"HTTP probe failed with statuscode: {code}")
    finally:
        writer.close()
        with suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def _connect(
    action: Obj, target: ProbeTarget, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = str(action.get("host") or target.address)
    connection = socket_inside(target.node_netns)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address, _port(action["port"], target.container)))
        server_hostname = "" if context else None
        return await asyncio.open_connection(sock=connection, ssl=context, server_hostname=server_hostname)
    except BaseException:
        connection.close()
        raise


def _port(port: int | str, container: Obj) -> int:
    if isinstance(port, int) or str(port).isdecimal():
        return int(port)
    named = (p["containerPort"] for p in items_of(container, "ports") if p.get("name") == port)
    return int(next(named, 0))
