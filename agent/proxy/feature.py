# SPDX-License-Identifier: Apache-2.0
"""The proxy as a feature: Envoy has a listener for each port that a policy entry names, and what it tells is heard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agent.closed_ports import ClosedPorts
from agent.core import Core
from agent.datapath import netlink
from agent.datapath.config import OVERLAY_DEVICE
from agent.datapath.proxy_routes import prepare_stack
from agent.feature import Feature, Tasks, wait_until_listed
from agent.last_error import last_error
from agent.proxied_endpoints import ports_in_use
from agent.proxy.access_log import AccessLog
from agent.proxy.envoy_config import bootstrap, listeners_file
from agent.proxy.listening import listening_ports, read_ports, write_ports
from agent.proxy_files import ACCESS_LOG, BOOTSTRAP, ENVOY_LOG, LISTENERS
from agent.proxy_states import ENVOY, ToldState
from agent.shared_directory import is_content, make_enterable, proxy_files
from meshapi.agent import NOT_ENFORCED
from meshkit.atomic import write_atomic
from meshkit.health import Health
from meshkit.wake import Wake, wait_for_ring
from meshpolicy.proxied import MOST_ACTIONS
from meshpolicy.proxy_ports import HTTP, Listener, ProxyPorts

_PORTS: Final = "ports.json"
_SMALLEST_MTU: Final = 1280
_READABLE: Final = 0o644
_READ_S: Final = 0.1
_AGAIN_S: Final = 1.0
_COMPONENT: Final = "proxy"
_EXHAUSTED: Final = "there are more different sets of rules than ports of the proxies: what is beyond them is denied"
_MIXED: Final = "rules about HTTP or server names and rules about DNS names are for one port of one peer: it is denied"
_LADEN: Final = (
    f"the rules for one port of one peer have more than {MOST_ACTIONS} headerMatches with an action: it is denied"
)

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
        files = proxy_files(core.settings)
        self._directory = files.envoy
        self._written: bytes | None = None
        self._written_s = 0.0
        self._mtu = _SMALLEST_MTU
        self._problem = self._obstacle = ""
        self._look = Wake()
        self._told = ToldState(files.states, ENVOY, core.clock, self._look.set)
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
        return {
            "proxy listeners": self._follow(self._ports),
            "proxy watch": self._watch(),
            "proxy requests": self._read_requests(),
            "proxy state": self._told.run(),
        }

    def problems(self) -> Sequence[str]:
        found = [f"{NOT_ENFORCED}proxy: {reason}" for reason in sorted(set(self.failures.values()))]
        if self._ports is not None and self._ports.exhausted:
            found.append(f"{NOT_ENFORCED}{_EXHAUSTED}")
        if self._ports is not None and self._ports.mixed:
            found.append(f"{NOT_ENFORCED}{_MIXED}")
        if self._ports is not None and self._ports.laden:
            found.append(f"{NOT_ENFORCED}{_LADEN}")
        found += [f"proxy: {reason}" for reason in (self._obstacle, self._doubt()) if reason]
        return found

    def check_health(self, health: Health) -> None:
        if self._ports is None:
            return
        if self.failures:
            first = min(self.failures)
            health.degraded(_COMPONENT, f"{len(self.failures)} pods have ports that are closed; {self.failures[first]}")
        elif self._ports.exhausted:
            health.degraded(_COMPONENT, _EXHAUSTED)
        elif reason := self._obstacle or self._doubt():
            health.degraded(_COMPONENT, reason)
        else:
            health.ok(_COMPONENT)

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
                await self._core.clock.sleep(_AGAIN_S)
                continue
            await verdicts.changed.wait(rung)

    def _write(self, listeners: Mapping[int, Listener]) -> None:
        data = listeners_file(listeners, str(self._directory.absolute()), self._mtu)
        if data == self._written or not (listeners or (self._directory / LISTENERS).exists()):
            return
        if self._written is None:
            self._obstacle = prepare_stack()
            make_enterable(self._directory)
            start = bootstrap(str(self._directory.absolute()), self._mtu).encode()
            if not is_content(self._directory / BOOTSTRAP, start):  # another one starts Envoy anew
                write_atomic(self._directory / BOOTSTRAP, start, _READABLE)
        write_ports(self._directory / _PORTS, listeners)
        self._put(data)

    def _put(self, data: bytes) -> None:
        write_atomic(self._directory / LISTENERS, data, _READABLE)
        self._written, self._written_s = data, self._core.clock.monotonic()
        self._look.set()

    async def _watch(self) -> None:
        while True:
            rung, now_s = self._look.count, self._core.clock.monotonic()
            listening = listening_ports() if self._closed.users and not self._told.state.is_silent else frozenset()
            self._closed.compare(listening, now_s, self._reason)
            if not self._closed.missing:
                self._problem = ""
            elif self._written is not None and now_s - self._written_s >= _AGAIN_S:
                self._try_again(self._written)
            await wait_for_ring(self._look, rung, self._closed.pause_s, self._core.clock)

    def _try_again(self, data: bytes) -> None:
        """Envoy reads its listeners again: one that it could not open, since its port was taken, it does not try by itself."""
        try:
            self._put(data)
        except OSError as exc:
            self._problem = f"the listeners cannot be written: {exc}"

    async def _read_requests(self) -> None:
        log_file = AccessLog(self._directory / ACCESS_LOG)
        while True:
            if found := log_file.read():
                self._on_requests(found)
            if not self._closed.users:
                await self._look.wait()
            await self._core.clock.sleep(_READ_S)

    def _doubt(self) -> str:
        """What may close ports soon, though they are open; empty where nobody needs them."""
        return (self._told.absence or self._told.state.problem) if self._closed.users else ""

    def _reason(self) -> str:
        words = self._problem or self._doubt() or last_error(self._directory / ENVOY_LOG) or "Envoy opens none"
        return f"its rules about HTTP or server names have no listener, so that their ports are closed: {words}"
