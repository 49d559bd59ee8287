# SPDX-License-Identifier: Apache-2.0
"""How each part of a program is, in one place: what readiness and the status pages are made from."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from meshkit.clock import Clock, SystemClock
from meshkit.wake import Wake


class HealthLevel(StrEnum):
    """STARTING and FAILED components keep the program from being ready; DEGRADED ones do not."""

    OK = "ok"
    STARTING = "starting"
    DEGRADED = "degraded"
    FAILED = "failed"


class Component(NamedTuple):
    """The last report of one part; `since_wall_s` is when it entered this level."""

    level: HealthLevel
    message: str
    since_wall_s: float


class Health:
    """Reports by component name. A program with no component yet is not ready."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._components: dict[str, Component] = {}
        self._sorted: Mapping[str, Component] | None = None  # until the next change
        self.changed = Wake()

    def report(self, component: str, level: HealthLevel | str, message: str = "") -> None:
        """This is how the component is from now on."""
        if not isinstance(level, HealthLevel):
            level = HealthLevel(level)
        known = self._components.get(component)
        if known is not None and known.level == level:
            if known.message != message:
                self._components[component], self._sorted = known._replace(message=message), None
            return
        self._components[component], self._sorted = Component(level, message, self._clock.wall()), None
        self.changed.set()

    def ok(self, component: str, message: str = "") -> None:
        self.report(component, HealthLevel.OK, message)

    def degraded(self, component: str, message: str) -> None:
        self.report(component, HealthLevel.DEGRADED, message)

    def failed(self, component: str, message: str) -> None:
        self.report(component, HealthLevel.FAILED, message)

    def starting(self, component: str, message: str = "") -> None:
        self.report(component, HealthLevel.STARTING, message)

    def forget(self, component: str) -> None:
        """The component is no more."""
        if self._components.pop(component, None) is not None:
            self._sorted = None
            self.changed.set()

    def snapshot(self) -> Mapping[str, Component]:
        """Every component by name, sorted; nothing that is reported later is in it."""
        if self._sorted is None:
            self._sorted = MappingProxyType(dict(sorted(self._components.items())))
        return self._sorted

    def ready(self) -> bool:
        """Something reported, and nothing is starting or failed."""
        return bool(self._components) and not self.blocking()

    def blocking(self) -> tuple[str, ...]:
        """The components that keep the program from being ready."""
        return tuple(
            name
            for name, c in sorted(self._components.items())
            if c.level in (HealthLevel.STARTING, HealthLevel.FAILED)
        )

    def dump(self) -> str:
        """One line per component, without times."""
        return "".join(
            f"{name}: {c.level}{f' ({c.message})' if c.message else ''}\n" for name, c in self.snapshot().items()
        )
