# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy as a feature: it has the rules that policy entries name, and what it tells is heard."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from agent.answered_names import NameListener
from agent.closed_ports import ClosedPorts
from agent.core import Core
from agent.datapath.proxy_routes import prepare_stack
from agent.dns.message import REFUSALS
from agent.dns.port_rules import STAY_S, PortRules
from agent.dns.proxy_link import ProxyLink
from agent.dns.rule_file import RuleFile, decode_rules, encode_rules
from agent.feature import Feature, Tasks, wait_until_listed
from agent.metric import PREFIX
from agent.proxied_endpoints import ports_in_use
from agent.proxy_files import RULES
from agent.proxy_states import DNS as STATE
from agent.proxy_states import ToldState
from agent.shared_directory import make_enterable, proxy_files
from meshapi.agent import NOT_ENFORCED
from meshkit.atomic import write_atomic
from meshkit.backoff import Backoff
from meshkit.health import Health
from meshkit.supervise import supervise
from meshkit.wake import Wake, wait_for_ring
from meshpolicy import Direction
from meshpolicy.proxy_ports import DNS, Listener, ProxyPorts

_READABLE: Final = 0o644
_FIRST_DELAY_S: Final = 0.05
_LONGEST_DELAY_S: Final = 1.0
_LONGEST_LINK_DELAY_S: Final = 0.25
_COMPONENT: Final = "dns proxy"

log = logging.getLogger(__name__)


class DnsFeature(Feature):
    """Does nothing where lists of names have no proxy (`ports`).

    `names` hears answers before pods do. `failures` are the addresses of endpoints of which a port has no listener, with the
    reason; `on_change` is called when they are others, `on_questions` with records of questions.
    """

    name = "dns"

    def __init__(
        self,
        core: Core,
        ports: ProxyPorts | None,
        names: NameListener | None,
        on_change: Callable[[], None],
        on_questions: Callable[[Sequence[Mapping[str, Any]]], None],
    ) -> None:
        self._core = core
        self._ports = ports if ports is not None and DNS in ports.kinds else None
        files = proxy_files(core.settings)
        self._directory = files.dns
        self._look = Wake()
        self._told = ToldState(files.states, STATE, core.clock, self._look.set)
        self._link = ProxyLink(self._directory, names, on_questions, self._look.set)
        self._rules, self._written = PortRules(), b""
        self._problem = self._obstacle = ""
        self._closed = ClosedPorts(on_change)

    @property
    def failures(self) -> Mapping[str, str]:
        """As above."""
        return self._closed.failures

    def restore(self) -> int:
        if self._ports is not None:
            with contextlib.suppress(OSError, ValueError):  # then ports are given anew
                known = decode_rules((self._directory / RULES).read_bytes()).rules
                self._ports.restore({port: Listener(Direction.EGRESS, names=names) for port, names in known.items()})
                self._rules.add(known, math.inf)
            self._ports.on_new = self._prepare
        return 0

    def tasks(self) -> Tasks:
        if self._ports is None:
            return {}
        return {
            "dns rules": self._follow(self._ports),
            "dns state": self._told.run(),
            "dns link": self._connect(),
            "dns watch": self._watch(),
        }

    def problems(self) -> Sequence[str]:
        found = [f"{NOT_ENFORCED}dns: {reason}" for reason in sorted(set(self.failures.values()))]
        return [*found, *(f"dns: {reason}" for reason in (self._obstacle, self._doubt()) if reason)]

    def check_health(self, health: Health) -> None:
        if self._ports is None:
            return
        if self.failures:
            first = min(self.failures)
            health.degraded(_COMPONENT, f"{len(self.failures)} pods cannot ask for names; {self.failures[first]}")
        elif reason := self._obstacle or self._doubt():
            health.degraded(_COMPONENT, reason)
        else:
            health.ok(_COMPONENT)

    def metrics(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            f"{PREFIX}_dns_queries",
            "queries that the DNS proxy got, and what was wrong, by outcome",
            labels=("outcome",),
        )
        for outcome, count in sorted(self._link.said.counts.items()):
            family.add_metric([outcome], count)
        yield family

    async def _connect(self) -> None:
        """Once it runs, and again whenever the connection ends."""
        while not self._rules.rules:
            await self._look.wait()
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_LINK_DELAY_S, self._core.outside.rng)
        await supervise("dns link", self._link.run, backoff=backoff, clock=self._core.clock)

    async def _follow(self, ports: ProxyPorts) -> None:
        """Rules of an earlier agent stay until this one knows all policies."""
        verdicts, endpoints, clock = self._core.db.verdicts, self._core.db.endpoints, self._core.clock
        await wait_until_listed(verdicts, endpoints)
        while True:
            rung = verdicts.changed.count
            users = ports_in_use(verdicts.rows(), ports, DNS)
            listeners = {port: listener for port in users if (listener := ports.listener(port)) is not None}
            rules = {port: made.names for port, made in listeners.items() if made.names is not None}
            self._rules.set_used(rules, clock.monotonic())
            next_s = self._rules.expire(clock.monotonic())
            self._closed.users = users
            is_written = self._write()
            self._look.set()
            delay_s = None if next_s is None else max(0.0, next_s - clock.monotonic())
            await wait_for_ring(verdicts.changed, rung, delay_s if is_written else _LONGEST_DELAY_S, clock)

    def _prepare(self, port: int, listener: Listener) -> None:
        """The proxy listens before policy entries send it anything."""
        if listener.names is not None:
            self._rules.add({port: listener.names}, self._core.clock.monotonic() + STAY_S)
            self._write()
            self._look.set()

    def _write(self) -> bool:
        """Whether the file is as it shall be."""
        data = encode_rules(RuleFile(self._rules.rules, REFUSALS[self._core.settings.dns_refusal]))
        if data != self._written and (self._rules.rules or self._written):
            try:
                if not self._written:
                    self._obstacle = prepare_stack()
                    make_enterable(self._directory)
                write_atomic(self._directory / RULES, data, _READABLE)
            except OSError as exc:
                self._problem = f"the rules cannot be written: {exc}"
                log.warning("rules of the DNS proxy are not written", extra={"error": str(exc)})
                return False
            self._written = data
            self._link.rules_changed()
        return True

    async def _watch(self) -> None:
        while True:
            rung, now_s = self._look.count, self._core.clock.monotonic()
            listening = frozenset() if self._told.state.is_silent else self._link.said.listening
            self._closed.compare(listening, now_s, self._reason)
            if self._closed.missing:
                self._link.rules_changed()  # it may have failed to open them
            else:
                self._problem = ""
            await wait_for_ring(self._look, rung, self._closed.pause_s, self._core.clock)

    def _doubt(self) -> str:
        """What may close ports soon, though they are open; empty where nobody needs them."""
        return (self._told.absence or self._told.state.problem) if self._closed.users else ""

    def _reason(self) -> str:
        said = next(iter(self._link.said.closed.values()), "the DNS proxy does not answer")
        words = self._problem or self._doubt() or said
        return f"its lists of DNS names have no listener, so that their ports are closed: {words}"
