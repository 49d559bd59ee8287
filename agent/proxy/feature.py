# SPDX-License-Identifier: Apache-2.0
"""The proxy as a feature: Envoy runs, and has a listener for each port that a policy entry names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agent.closed_ports import ClosedPorts
from agent.core import Core
from agent.datapath import netlink
from agent.datapath.config import OVERLAY_DEVICE
from agent.datapath.proxy_routes import look_for_no_socket_early
from agent.feature import Feature, Tasks, wait_until_listed
from agent.proxied_endpoints import ports_in_use
from agent.proxy.access_log import AccessLog
from agent.proxy.envoy_config import ACCESS_LOG, LISTENERS, listeners_file
from agent.proxy.listening import listening_ports, read_ports, write_ports
from agent.proxy.process import EnvoyProcess, directory_of
from meshapi.agent import NOT_ENFORCED
from meshkit.atomic import write_atomic
from meshkit.backoff import Backoff
from meshkit.health import Health
from meshkit.supervise import supervise
from meshkit.wake import Wake, wait_for_ring
from meshpolicy.proxy_ports import HTTP, Listener, ProxyPorts

_PORTS: Final = "ports.json"
_SMALLEST_MTU: Final = 1280
_READABLE: Final = 0o644
_READ_S: Final = 0.1
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 1.0
_COMPONENT: Final = "proxy"
_EXHAUSTED: Final = "there are more different sets of rules than ports of the proxies: what is beyond them is denied"
_MIXED: Final = "rules about HTTP and about DNS names are for one port of one peer: it is denied"

log = logging.getLogger(__name__)


class ProxyFeature(Feature):
    """Without Envoy (`core.envoy`) it does nothing, and policies deny what needs a proxy.

    `failures` are the addresses of endpoints of which a port has no listener, with the reason; `on_change` is called when
    they are others, `on_requests` with what its log of requests says.
    """

    name = "proxy"

    def __init__(
        self,
        core: Core,
        ports: ProxyPorts | None,
        on_change: Callable[[], None],
        on_requests: Callable[[Sequence[Mapping[str, Any]]], None],
    ) -> None:
        self._core, self._ports, self._on_requests = core, ports, on_requests
        self._directory = directory_of(core.settings)
        self._written: bytes | None = None
        self._mtu = _SMALLEST_MTU
        self._process: EnvoyProcess | None = None
        self._problem = self._obstacle = ""
        self._look = Wake()
        self._closed = ClosedPorts(on_change)

    @property
    def failures(self) -> Mapping[str, str]:
        """As above."""
        return self._closed.failures

    def restore(self) -> int:
        if self._ports is not None:
            self._ports.restore(read_ports(self._directory / _PORTS))
        return 0

    def tasks(self) -> Tasks:
        core = self._core
        if self._ports is None or core.envoy is None:
            return {}
        overlay = netlink.device(OVERLAY_DEVICE)
        self._mtu = overlay.mtu if overlay is not None else core.settings.mtu or _SMALLEST_MTU
        self._process = process = EnvoyProcess(core.envoy, self._directory, self._mtu)
        return {
            "proxy listeners": self._follow(self._ports),
            "proxy watch": self._watch(),
            "proxy requests": self._read_requests(),
            "proxy process": self._keep(process),
        }

    def problems(self) -> Sequence[str]:
        found = [f"{NOT_ENFORCED}proxy: {reason}" for reason in sorted(set(self.failures.values()))]
        if self._ports is not None and self._ports.exhausted:
            found.append(f"{NOT_ENFORCED}{_EXHAUSTED}")
        if self._ports is not None and self._ports.mixed:
            found.append(f"{NOT_ENFORCED}{_MIXED}")
        if self._obstacle:
            found.append(f"proxy: {self._obstacle}")
        return found

    def check_health(self, health: Health) -> None:
        if self._ports is None:
            return
        if self.failures:
            first = min(self.failures)
            health.degraded(_COMPONENT, f"{len(self.failures)} pods have ports that are closed; {self.failures[first]}")
        elif self._ports.exhausted:
            health.degraded(_COMPONENT, _EXHAUSTED)
        elif self._obstacle:
            health.degraded(_COMPONENT, self._obstacle)
        else:
            health.ok(_COMPONENT)

    async def _keep(self, process: EnvoyProcess) -> None:
        """It runs from the first port on that a policy names, and again within a second when it ended."""
        while not self._closed.users:
            await self._look.wait()

        async def run() -> None:
            self._obstacle = look_for_no_socket_early()
            process.prepare()
            listeners = self._directory / LISTENERS
            if not listeners.exists():
                write_atomic(listeners, listeners_file({}, str(self._directory), 0), _READABLE)
            self._look.set()
            await process.run()

        def note(exc: BaseException, _delay_s: float) -> None:
            self._problem = str(exc)
            self._look.set()

        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S, self._core.outside.rng)
        await supervise("envoy", run, backoff=backoff, clock=self._core.clock, on_failure=note)

    async def _follow(self, ports: ProxyPorts) -> None:
        """What an earlier agent configured stays until this one knows all policies."""
        verdicts, endpoints = self._core.db.verdicts, self._core.db.endpoints
        await wait_until_listed(verdicts, endpoints)
        while True:
            rung = verdicts.changed.count
            self._closed.users = ports_in_use(verdicts.rows(), ports, HTTP)
            wanted = {port: made for port in self._closed.users if (made := ports.listener(port)) is not None}
            try:
                self._write(wanted)
            except OSError as exc:
                self._problem = f"the listeners cannot be written: {exc}"
                log.warning("listeners of the proxy are not written", extra={"error": str(exc)})
                await self._core.clock.sleep(_LONGEST_DELAY_S)
                continue
            await verdicts.changed.wait(rung)

    def _write(self, listeners: Mapping[int, Listener]) -> None:
        path: Path = self._directory / LISTENERS
        data = listeners_file(listeners, str(self._directory.absolute()), self._mtu)
        if data == self._written or not (listeners or path.exists()):
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        write_ports(self._directory / _PORTS, listeners)
        write_atomic(path, data, _READABLE)
        self._written = data
        self._look.set()

    async def _watch(self) -> None:
        while True:
            rung, now_s = self._look.count, self._core.clock.monotonic()
            self._closed.compare(listening_ports() if self._closed.users else frozenset(), now_s, self._reason)
            if not self._closed.missing:
                self._problem = ""
            await wait_for_ring(self._look, rung, self._closed.pause_s, self._core.clock)

    async def _read_requests(self) -> None:
        log_file = AccessLog(self._directory / ACCESS_LOG)
        while True:
            if found := log_file.read():
                self._on_requests(found)
            if not self._closed.users:
                await self._look.wait()
            await self._core.clock.sleep(_READ_S)

    def _reason(self) -> str:
        words = self._problem or (self._process.last_words() if self._process is not None else "")
        return f"its HTTP rules have no listener, so that their ports are closed: {words or 'Envoy opens none'}"
