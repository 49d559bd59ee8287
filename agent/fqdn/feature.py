# SPDX-License-Identifier: Apache-2.0
"""DNS names as peers, as a feature: answers are heard, kept and let go, and policies get the addresses they mean."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.answered_names import AnsweredAddress
from agent.core import Core
from agent.datapath.errors import MapError
from agent.feature import Feature, Tasks
from agent.fqdn.name_cache import NameCache, Pair
from agent.fqdn.name_file import NAMES, decode_answers, directory_of, encode_answers
from agent.fqdn.open_connections import find_connected
from agent.fqdn.own_addresses import OwnAddresses
from agent.fqdn.routes import add_name_routes
from agent.fqdn.selected_names import ADDRESSES_OF_SELECTOR, SelectedNames
from agent.metric import PREFIX
from kube.client import in_thread
from meshkit.atomic import write_atomic
from meshkit.health import Health
from meshkit.rest import Rest
from meshkit.wake import Wake, wait_for_ring
from meshpolicy.peer import FqdnSelector
from meshpolicy.prefix import Cidr, parse_address

SWEEP_S: Final = 30.0
SAVE_S: Final = 0.5
_SAVE_SHARE: Final = 50
_PATIENCE_S: Final = 10.0
_COMPONENT: Final = "names"

log = logging.getLogger(__name__)


class PolicyProgress(NamedTuple):
    """What names need of policies: that they take them, and how far they are."""

    ring: Callable[[], None]
    are_in_force: Callable[[Iterable[Cidr]], bool]
    moved: Wake


class FqdnFeature(Feature):
    """Hears answers (a NameListener) and tells the policy engine of addresses (`take`)."""

    name = "fqdn"

    def __init__(self, core: Core, policies: PolicyProgress) -> None:
        self._core, self._policies = core, policies
        self._own = OwnAddresses(core.db)
        self._selected = SelectedNames(self._own)
        self.cache = NameCache(self._selected.is_selected)
        self._directory = directory_of(core.settings)
        self._changed = Wake()
        self._obstacle = ""

    def restore(self) -> int:
        path = self._directory / NAMES
        try:
            answers = decode_answers(path.read_bytes(), self._core.clock.wall())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as exc:
            self._obstacle = f"{path}: what pods were told is lost: {exc}"
            log.warning("names that pods were told are lost", extra={"key": str(path), "error": str(exc)})
            return 0
        self._touch(self.cache.restore(answers))
        return 0  # the maps alone say whether the node was used

    def tasks(self) -> Tasks:
        return {"names sweep": self._keep_sweeping(), "names save": self._keep_saving()}

    async def learn(self, endpoint: str, name: str, addresses: Sequence[AnsweredAddress]) -> None:
        """As NameListener has it."""
        self._touch(self.cache.learn(endpoint, name, addresses, self._core.clock.wall()))
        self._changed.set()
        meant = {answered.address for answered in addresses} & self._selected.labels().keys()
        if not meant:
            return
        prefixes = [parse_address(address) for address in meant]
        end_s = self._core.clock.monotonic() + _PATIENCE_S
        if self._selected.is_pending(meant):
            self._policies.ring()
        while True:
            rung, left_s = self._policies.moved.count, end_s - self._core.clock.monotonic()
            if not self._selected.is_pending(meant) and self._policies.are_in_force(prefixes):
                return
            if left_s <= 0:
                log.warning("addresses of a name are not in force", extra={"key": name[:256]})
                return
            await wait_for_ring(self._policies.moved, rung, left_s, self._core.clock)

    def take(self, selectors: frozenset[FqdnSelector]) -> Mapping[Cidr, frozenset[str]]:
        """Addresses whose labels differ since the last call, when policies in force have these names."""
        touched, is_any = self._own.take()
        if self._selected.set_selectors(selectors) or is_any:
            touched = {*self.cache.addresses(), *self._selected.labels()}
        self._touch(a for a in touched if a in self._selected.labels() or self.cache.has_names(a))
        return self._selected.take()

    @property
    def revision(self) -> int:
        """Another number whenever `names_for` may say something else."""
        return self.cache.revision

    def names_for(self, endpoint: str, address: str) -> list[str]:
        """The names by which this pod knows the address, sorted, without the dot at the end."""
        return self.cache.names_for(endpoint, address)

    def forget(self, is_meant: Callable[[str], bool]) -> int:
        """Nothing that pods were told of the names that are meant counts any more; returns how many answers these were."""
        count, changed = self.cache.forget(lambda answer: is_meant(answer.name))
        self._touch(changed)
        self._changed.set()
        self._policies.ring()
        return count

    async def sweep(self) -> None:
        """Answers that ended and that no connection needs are gone, and those of pods that are gone."""
        core, wall_s = self._core, self._core.clock.wall()
        changed = set[str]()
        if core.db.endpoints.initialized and (gone := self.cache.endpoints() - set(core.db.endpoints.keys())):
            changed = self.cache.forget(lambda answer: answer.endpoint in gone)[1]
        ended = list(self.cache.ended(wall_s))
        wanted = {Pair(a.endpoint, a.address) for a in ended if a.address in self._selected.labels()}
        try:
            connected = await in_thread(find_connected, core.maps, wanted, core.clock.monotonic()) if wanted else set()
        except MapError as exc:
            log.warning("connections cannot be read, no name is let go", extra={"error": str(exc)})
        else:
            if ended:
                changed |= self.cache.sweep(wall_s, connected)
        if changed or ended:
            self._touch(changed)
            self._changed.set()
            self._policies.ring()

    def add_routes(self, rest: Rest) -> None:
        add_name_routes(rest, self.cache, self._selected, self.forget, self._core.clock)

    def problems(self) -> Sequence[str]:
        found = [f"names: {self._obstacle}"] if self._obstacle else []
        return found + [
            f"names: {key} has more than {ADDRESSES_OF_SELECTOR} addresses; those learned last are not allowed by it"
            for key in sorted(self._selected.full)
        ]

    def check_health(self, health: Health) -> None:
        if self._obstacle:
            health.degraded(_COMPONENT, self._obstacle)
        else:
            health.ok(_COMPONENT)

    def metrics(self) -> Iterable[Metric]:
        answers = GaugeMetricFamily(f"{PREFIX}_names_answers", "addresses of names that pods were told and that count")
        answers.add_metric([], self.cache.size)
        yield answers
        selected = GaugeMetricFamily(f"{PREFIX}_names_selected", "addresses that policies mean by a name")
        selected.add_metric([], len(self._selected.labels()))
        yield selected
        refused = CounterMetricFamily(
            f"{PREFIX}_names_refused",
            "addresses of names that no policy entry was made of, by reason",
            labels=("reason",),
        )
        for reason, count in sorted({**self._selected.refused, "limit": self.cache.given_up}.items()):
            refused.add_metric([reason], count)
        yield refused

    def _touch(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            self._selected.touch(address, self.cache.names_of(address))

    async def _keep_sweeping(self) -> None:
        while True:
            await self._core.clock.sleep(SWEEP_S)
            await self.sweep()

    async def _keep_saving(self) -> None:
        """Disk and CPU are spent on it for a fiftieth of the time at most."""
        clock, rung = self._core.clock, 0
        while True:
            rung = await self._changed.wait(rung)
            began_s = clock.monotonic()
            await self.save()
            await clock.sleep(max(SAVE_S, _SAVE_SHARE * (clock.monotonic() - began_s)))

    async def save(self) -> None:
        """What pods were told is on disk, or health says why not."""
        data = encode_answers(self.cache.answers())
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            await in_thread(write_atomic, self._directory / NAMES, data)
            self._obstacle = ""
        except OSError as exc:
            self._obstacle = f"what pods are told cannot be kept for a restart: {exc}"
            log.warning("names are not saved", extra={"error": str(exc)})
